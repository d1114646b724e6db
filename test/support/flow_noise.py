"""Spoils exact flow and depth the way networks do."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from synthetic_world import Pair, View

from coopnet_core.inference.frame_pair import FramePair


def frame_pair(pair: Pair) -> FramePair:
    """Exact depth and flow of a synthetic pair."""
    return FramePair(
        pair.cur.depth,
        pair.prev.depth,
        pair.flow_cur_prev,
        pair.flow_prev_cur,
        pair.cur.image,
        pair.prev.image,
        pair.intrinsics,
    )


def spoil(
    pair: Pair,
    *,
    noise_px: float = 0.0,
    noise_cell_px: int = 4,
    outliers: float = 0.0,
    depth_noise: float = 0.0,
    depth_scale: float = 1.0,
    seed: int = 0,
) -> Pair:
    """Add smooth noise to flow and depth, and blocks of flow that is wrong but consistent.

    Args:
        pair: Exact views and flow.
        noise_px: Standard deviation of flow.
        noise_cell_px: Distance over which it is correlated.
        outliers: Fraction of 16x16 blocks whose flow is off by up to 8 pixels, in both directions.
        depth_noise: Standard deviation of the logarithm of depth, correlated over 16 pixels.
        depth_scale: Common factor of depth.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    shape = pair.cur.depth.shape
    flow_cur_prev = pair.flow_cur_prev + _smooth(rng, shape, noise_cell_px, noise_px, 2)
    flow_prev_cur = pair.flow_prev_cur + _smooth(rng, shape, noise_cell_px, noise_px, 2)
    blocks = rng.random((shape[0] // 16, shape[1] // 16)) < outliers
    wrong = cv2.resize(
        blocks.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST
    )
    offset = rng.uniform(-8, 8, 2).astype(np.float32) * wrong[..., None]

    def spoiled(view: View) -> View:
        depth_error = np.exp(_smooth(rng, shape, 16, depth_noise, 1)[..., 0])
        return replace(view, depth=(view.depth * depth_error * depth_scale).astype(np.float32))

    return replace(
        pair,
        cur=spoiled(pair.cur),
        prev=spoiled(pair.prev),
        flow_cur_prev=flow_cur_prev + offset,
        flow_prev_cur=flow_prev_cur - offset,
    )


def _smooth(
    rng: np.random.Generator, shape: tuple[int, ...], cell: int, sigma: float, channels: int
) -> npt.NDArray[np.float32]:
    coarse = rng.normal(0, 1, (shape[0] // cell, shape[1] // cell, channels)).astype(np.float32)
    size = (shape[1], shape[0])
    fine = np.stack(
        [cv2.resize(coarse[..., c], size, interpolation=cv2.INTER_LINEAR) for c in range(channels)],
        axis=-1,
    )
    return (fine * (sigma / fine.std())).astype(np.float32)
