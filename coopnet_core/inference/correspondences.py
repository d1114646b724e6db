"""Points with depth in one frame and their place in the other one, from dense flow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.frame_pair import FramePair, Gray
from coopnet_core.inference.projection import MIN_DEPTH, Float32, Float64, Mask, is_consistent

_POLISH_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 5, 0.03)


@dataclass(frozen=True)
class Points:
    """N points of one frame.

    Attributes:
        pixel: (N, 2), in the frame.
        depth: (N,), positive.
        flow: (N, 2) pixels, how they get into the other frame.
        is_polished: (N,) bool, ``flow`` was refined on the images.
    """

    pixel: Float64
    depth: Float64
    flow: Float64
    is_polished: Mask

    @property
    def target(self) -> Float64:
        """Pixels in the other frame, (N, 2)."""
        return self.pixel + self.flow


def find_correspondences(pair: FramePair, config: EgomotionConfig) -> tuple[Points, Points, int]:
    """Follow points of a grid from each frame into the other one.

    Args:
        pair: Depth and flow of the two frames; points are polished where it has sharp images.
        config: Tolerances.

    Returns:
        Points of the current frame that have depth and that flow brings there and back, the same
        of the previous frame, and how many were tried.
    """
    height, width = pair.depth_cur.shape
    step_px = config.grid_step_px
    rows, columns = np.mgrid[: height // step_px, : width // step_px]
    is_black = (rows + columns) % 2 == 0

    def sample_points(depth: Float32, flow: Float32, flow_back: Float32, chosen: Mask) -> Points:
        u, v = (step_px // 2 + step_px * places[chosen] for places in (columns, rows))
        vectors, z = flow[v, u], depth[v, u]
        keep = is_consistent(
            u, v, vectors, flow_back, config.consistency_px, config.consistency_relative
        )
        with np.errstate(invalid="ignore"):
            keep &= z > MIN_DEPTH
        pixel = np.stack([u[keep], v[keep]], axis=1)
        return Points(
            pixel.astype(np.float64),
            z[keep].astype(np.float64),
            vectors[keep].astype(np.float64),
            np.zeros(len(pixel), np.bool_),
        )

    # Neighbours say nearly the same: on a checkerboard, white for one frame and black for the
    # other, half the points give the same motion.
    cur = sample_points(pair.depth_cur, pair.flow_cur_prev, pair.flow_prev_cur, is_black)
    prev = sample_points(pair.depth_prev, pair.flow_prev_cur, pair.flow_cur_prev, ~is_black)
    if config.polish and pair.sharp_cur is not None and pair.sharp_prev is not None:
        settings = (width, height, config.polish_window_px, config.polish_change_px)
        cur = polish(cur, pair.sharp_cur, pair.sharp_prev, *settings)
        prev = polish(prev, pair.sharp_prev, pair.sharp_cur, *settings)
    return cur, prev, is_black.size


def polish(
    points: Points,
    sharp_from: Gray,
    sharp_to: Gray,
    width: int,
    height: int,
    window_px: int,
    max_change_px: float,
) -> Points:
    """Refine where flow sees points by matching their surroundings (Lucas and Kanade, IJCAI 1981).

    A network's flow is smooth and off by a few tenths of a pixel over whole regions, which adds up
    in odometry; a point with texture is found again to a few hundredths.

    Args:
        points: Points with targets at the networks' size.
        sharp_from: (h, w) uint8 image of the frame that the points belong to, of any size.
        sharp_to: Image of the other frame, same size.
        width: Width that the points' pixels refer to.
        height: The height.
        window_px: Side of the compared squares, pixels of the sharp images.
        max_change_px: A point that moves further than this (pixels of the points) was lost.

    Returns:
        The points; those without texture, or lost, as they were.
    """
    if len(points.depth) == 0:
        return points
    scale = np.array([sharp_from.shape[1] / width, sharp_from.shape[0] / height])
    start = np.asarray((points.pixel + 0.5) * scale - 0.5, np.float32, order="C")
    guess = np.asarray((points.target + 0.5) * scale - 0.5, np.float32, order="C")
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        sharp_from,
        sharp_to,
        start.reshape(-1, 1, 2),
        guess.reshape(-1, 1, 2),
        winSize=(window_px, window_px),
        maxLevel=0,
        criteria=_POLISH_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    target = (np.asarray(found, np.float64)[:, 0] + 0.5) / scale - 0.5
    change = target - points.target
    is_polished = np.asarray(status).ravel() == 1
    is_polished &= np.hypot(change[:, 0], change[:, 1]) <= max_change_px
    change[~is_polished] = 0
    return replace(points, flow=points.flow + change, is_polished=is_polished)


def textured_fraction(gray: Gray, min_gradient: float) -> float:
    """Return the fraction of pixels whose gradient exceeds ``min_gradient`` levels per pixel."""
    # Scharr's kernels sum to 32 on the unit ramp.
    dx = cv2.Scharr(gray, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(gray, cv2.CV_32F, 0, 1, scale=1 / 32)
    is_textured = cv2.magnitude(dx, dy) > min_gradient
    return cv2.countNonZero(is_textured.view(np.uint8)) / gray.size
