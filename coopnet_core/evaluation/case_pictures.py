"""Panels of one case: image, prediction, truth and the error in colour."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.evaluation.depth_metrics import resize_depth
from coopnet_core.evaluation.flow_metrics import resize_flow
from coopnet_core.evaluation.tasks import Panel, Picture
from coopnet_core.inference.rendering import (
    INVALID_BGR,
    depth_range,
    render_depth,
    render_flow,
    to_bgr,
)

Float32 = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_Array = TypeVar("_Array", Float32, Image)

_WORST_RELATIVE = 0.5
_SPARSE = 0.2
_OUTLIER_PX, _OUTLIER_RELATIVE = 3.0, 0.05


def depth_panels(image: Image, depth: Float32, truth: Float32, mask: Mask) -> list[Panel]:
    """Draw a depth case.

    Args:
        image: (H', W') or (H', W', 3) RGB uint8.
        depth: Prediction on any grid; shown and compared after median scaling over the mask.
        truth: (H, W) metres, 0 where unknown.
        mask: (H, W) bool, pixels that were scored.

    Returns:
        Image, prediction, truth, error.
    """
    height, width = truth.shape
    depth = resize_depth(depth, width, height)
    scale = np.median(truth[mask]) / np.median(depth[mask])
    depth = np.asarray(depth * scale, np.float32)
    known = np.where(truth > 0, truth, np.float32(np.nan)).astype(np.float32)
    near, far = depth_range(np.where(mask, known, np.float32(np.nan)))
    error = np.divide(np.abs(depth - truth), truth, out=np.zeros_like(truth), where=mask)
    colours = f"magma, {near:.1f} m bright to {far:.1f} m dark"
    return [
        Panel("image", to_bgr(image)),
        Panel(f"depth times {scale:.3g} ({colours})", render_depth(depth, near, far)),
        Panel("true depth, the same colours, gray: unknown", _truth(known, near, far)),
        Panel(
            f"relative error: blue 0, red {_WORST_RELATIVE:.0%} and more, gray: not scored",
            render_error(error / _WORST_RELATIVE, mask),
        ),
    ]


def flow_panels(image: Image, flow: Float32, truth: Float32) -> list[Panel]:
    """Draw a flow case.

    Args:
        image: Target image, (H, W) or (H, W, 3) RGB uint8.
        flow: (H', W', 2) prediction in pixels of its own grid.
        truth: (H, W, 2) pixels, NaN where unknown.

    Returns:
        Image, prediction, truth, error. Error colours are relative to KITTI's limit of 3 pixels or
        5 % (the larger one): the limit lies in the middle of the colours, each half of them spans
        a factor of 16.
    """
    height, width = truth.shape[:2]
    flow = resize_flow(flow, width, height)
    known: Mask = np.asarray(np.isfinite(truth).all(axis=2))
    lengths = np.linalg.norm(truth[known], axis=1)
    longest = float(np.quantile(lengths, 0.98)) + 1e-3 if lengths.size else 1.0
    error = np.linalg.norm(np.where(known[..., None], flow - truth, 0), axis=2)
    length = np.linalg.norm(np.where(known[..., None], truth, 0), axis=2)
    relative = error / np.maximum(_OUTLIER_PX, _OUTLIER_RELATIVE * length)
    level = 0.5 + np.log2(np.maximum(relative, 1e-6)) / 8
    return [
        Panel("image", to_bgr(image)),
        Panel(f"flow (colour wheel, full colour: {longest:.1f} px)", render_flow(flow, longest)),
        Panel("true flow, the same colours, gray: unknown", _flow_truth(truth, known, longest)),
        Panel(
            "end-point error over KITTI's limit: green 1, blue 1/16 and less, red 16 and more, "
            "gray: unknown",
            render_error(np.asarray(level, np.float32), known),
        ),
    ]


def warp_panels(image: Image, flow: Float32, reference: Float32, error: Float32) -> list[Panel]:
    """Draw a flow case that has no truth.

    Args:
        image: Target image.
        flow: (H, W, 2) prediction, pixels.
        reference: (H, W, 2), flow of another method.
        error: (H, W) absolute difference of target and warped source, [0, 1].

    Returns:
        Image, prediction, other method, error.
    """
    longest = float(np.quantile(np.linalg.norm(reference, axis=2), 0.98)) + 1e-3
    return [
        Panel("image", to_bgr(image)),
        Panel(f"flow (colour wheel, full colour: {longest:.1f} px)", render_flow(flow, longest)),
        Panel("DIS, the same colours (there is no truth)", render_flow(reference, longest)),
        Panel(
            "difference of image and warped neighbour: blue 0, red 0.2 and more of the range",
            render_error(error / np.float32(0.2), np.ones(error.shape, np.bool_)),
        ),
    ]


def render_error(level: Float32, mask: Mask) -> Picture:
    """Colour errors from blue (0) through green to red (1 and more); gray where not scored.

    Args:
        level: (H, W).
        mask: (H, W) bool, pixels that were scored; single ones are grown to be seen.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    # One more than the level, so that 0 means unknown while pixels are grown.
    levels = np.where(mask, 1 + np.clip(level, 0, 1) * 254, 0).astype(np.uint8)
    levels = _grown(levels, mask)
    picture = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), np.uint8)
    picture[levels == 0] = INVALID_BGR
    return picture


def _truth(known: Float32, near: float, far: float) -> Picture:
    mask = np.isfinite(known)
    inverse = np.where(mask, 1 / np.where(mask, known, np.float32(1)), np.float32(0))
    inverse = _grown(inverse.astype(np.float32), mask)
    unknown = np.full_like(inverse, np.nan)
    return render_depth(np.divide(1, inverse, out=unknown, where=inverse > 0), near, far)


def _flow_truth(truth: Float32, known: Mask, longest: float) -> Picture:
    shown = np.where(known[..., None], truth, np.float32(np.nan)).astype(np.float32)
    return render_flow(shown, longest)


def _grown(values: _Array, mask: Mask) -> _Array:
    """Grow single pixels, such as those of a scanner, which vanish in a smaller picture."""
    if mask.mean() >= _SPARSE:
        return values
    return np.asarray(cv2.dilate(values, np.ones((5, 5), np.uint8)), values.dtype)
