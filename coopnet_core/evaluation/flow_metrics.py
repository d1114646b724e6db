"""Flow errors, with and without ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError, ShapeError

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Constants of the published tests, see the functions that use them.
_OUTLIER_PX = 3.0
_OUTLIER_RELATIVE = 0.05
_OCCLUSION_RELATIVE = 0.01
_OCCLUSION_PX2 = 0.5
_SSIM_WEIGHT = 0.85


@dataclass(frozen=True)
class FlowErrors:
    """Errors of a flow field against ground truth.

    Attributes:
        epe_px: Mean length of the error, pixels.
        outlier_fraction: KITTI's Fl: error over 3 pixels and over 5 % of the true flow.
        num_pixels: Pixels scored.
    """

    epe_px: float
    outlier_fraction: float
    num_pixels: int


@dataclass(frozen=True)
class WarpErrors:
    """How badly the target is rebuilt from the source.

    Attributes:
        photometric: Mean of .85 (1 - SSIM) / 2 + .15 |a - b|, gray values in [0, 1].
        absolute: Mean |a - b|.
    """

    photometric: float
    absolute: float


@dataclass(frozen=True)
class Consistency:
    """Agreement of forward and backward flow, over pixels that stay in view.

    Attributes:
        median_px: Median distance from the start after going there and back, pixels.
        consistent_fraction: Pixels with |f + b|^2 <= .01 (|f|^2 + |b|^2) + .5.
        in_view_fraction: Pixels whose flow ends inside the other image.
    """

    median_px: float
    consistent_fraction: float
    in_view_fraction: float


def flow_errors(
    flow: Float32,
    truth: Float32,
    mask: Mask | None = None,
    outlier_relative: float = _OUTLIER_RELATIVE,
) -> FlowErrors:
    """Score flow against ground truth (KITTI 2015 devkit, Menze and Geiger, CVPR 2015).

    Args:
        flow: (H, W, 2) pixels.
        truth: (H, W, 2) pixels, NaN where unknown.
        mask: (H, W) bool, pixels to score of those with known truth; None scores all of them.
        outlier_relative: Share of the true length that an outlier's error must exceed, beside the
            3 pixels; 0 is the rule of KITTI 2012.

    Returns:
        The errors over the known pixels.

    Raises:
        ShapeError: The fields differ in size.
        DataError: There is no pixel to score, or the flow is not finite on one.
    """
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[2] != 2:
        raise ShapeError(f"flow fields must both be (H, W, 2), got {flow.shape}, {truth.shape}")
    is_known = np.isfinite(truth).all(axis=2)
    if mask is not None:
        if mask.shape != truth.shape[:2]:
            raise ShapeError(f"the mask must be {truth.shape[:2]}, got {mask.shape}")
        is_known &= mask
    if not is_known.any():
        where = "everywhere" if mask is None else "everywhere in the mask"
        raise DataError(f"the true flow is unknown {where}")
    predicted, expected = flow[is_known].astype(np.float64), truth[is_known].astype(np.float64)
    if not np.isfinite(predicted).all():
        raise DataError("the predicted flow must be finite wherever the true flow is known")
    error = np.linalg.norm(predicted - expected, axis=1)
    length = np.linalg.norm(expected, axis=1)
    is_outlier = (error > _OUTLIER_PX) & (error > outlier_relative * length)
    return FlowErrors(float(error.mean()), float(is_outlier.mean()), int(is_known.sum()))


def pooled_flow_errors(per_image: Sequence[FlowErrors]) -> FlowErrors:
    """Average over the pixels of all images, as KITTI's devkit does: large truths weigh more.

    Raises:
        DataError: There is no image.
    """
    if not per_image:
        raise DataError("no image was scored")
    num = np.array([errors.num_pixels for errors in per_image], np.float64)
    return FlowErrors(
        float(np.average([errors.epe_px for errors in per_image], weights=num)),
        float(np.average([errors.outlier_fraction for errors in per_image], weights=num)),
        int(num.sum()),
    )


def mean_flow_errors(per_image: Sequence[FlowErrors]) -> FlowErrors:
    """Average over images, each counting the same, as much published code does.

    Raises:
        DataError: There is no image.
    """
    if not per_image:
        raise DataError("no image was scored")
    return FlowErrors(
        float(np.mean([errors.epe_px for errors in per_image])),
        float(np.mean([errors.outlier_fraction for errors in per_image])),
        sum(errors.num_pixels for errors in per_image),
    )


def resize_flow(flow: Float32, width: int, height: int) -> Float32:
    """Resize a flow field and rescale its vectors, (H, W, 2) to (height, width, 2)."""
    resized = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
    factor = np.array([width / flow.shape[1], height / flow.shape[0]], dtype=np.float32)
    return np.asarray(resized * factor, np.float32)


def in_view(flow: Float32) -> Mask:
    """Return the pixels whose flow ends inside the image, (H, W) bool."""
    landing = _landing(flow)
    height, width = flow.shape[:2]
    return np.asarray(
        (landing[..., 0] >= 0)
        & (landing[..., 0] <= width - 1)
        & (landing[..., 1] >= 0)
        & (landing[..., 1] <= height - 1)
    )


def warp(image_src: Float32, flow_tgt_src: Float32) -> Float32:
    """Rebuild the target from the source: ``result(p) = image_src(p + flow(p))``.

    Args:
        image_src: (H, W) or (H, W, C).
        flow_tgt_src: (H, W, 2) pixels.

    Returns:
        Same shape as ``image_src``; pixels out of view repeat the border.
    """
    landing = _landing(flow_tgt_src)
    return np.asarray(
        cv2.remap(
            image_src,
            landing[..., 0],
            landing[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        np.float32,
    )


def warp_errors(
    image_tgt: Float32, image_src: Float32, flow_tgt_src: Float32, mask: Mask | None = None
) -> WarpErrors:
    """Score flow by how well it rebuilds the target.

    Args:
        image_tgt: (H, W) gray in [0, 1].
        image_src: (H, W) gray in [0, 1].
        flow_tgt_src: (H, W, 2) pixels.
        mask: (H, W) bool, pixels to score; None scores those in view. To compare methods give all
            of them one mask, such as the pixels that each of them keeps in view.

    Returns:
        The errors.

    Raises:
        ShapeError: The arrays differ in size.
        DataError: The mask is empty.
    """
    if image_tgt.shape != image_src.shape or flow_tgt_src.shape != (*image_tgt.shape, 2):
        raise ShapeError(
            f"images must be (H, W) and flow (H, W, 2), got {image_tgt.shape}, {image_src.shape} "
            f"and {flow_tgt_src.shape}"
        )
    if mask is None:
        mask = in_view(flow_tgt_src)
    if not mask.any():
        raise DataError("no pixel to score: the flow leaves the image everywhere")
    rebuilt = warp(image_src, flow_tgt_src)
    absolute = np.abs(image_tgt - rebuilt)
    error = _SSIM_WEIGHT * (1 - ssim(image_tgt, rebuilt)) / 2 + (1 - _SSIM_WEIGHT) * absolute
    return WarpErrors(float(error[mask].mean()), float(absolute[mask].mean()))


def ssim(a: Float32, b: Float32) -> Float32:
    """Return structural similarity in [-1, 1] over 3x3 windows, (H, W) (Wang et al., TIP 2004)."""
    c1, c2 = 0.01**2, 0.03**2

    def mean(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(cv2.blur(x, (3, 3), borderType=cv2.BORDER_REFLECT_101), np.float64)

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return np.clip(similarity, -1, 1).astype(np.float32)


def consistency(flow_tgt_src: Float32, flow_src_tgt: Float32) -> Consistency:
    """Score how well two opposite flow fields undo each other.

    The threshold is that of Meister et al., "UnFlow", AAAI 2018. A field of zeros is perfectly
    consistent, so this number means something only beside a warp error.

    Args:
        flow_tgt_src: (H, W, 2) pixels.
        flow_src_tgt: (H, W, 2) pixels.

    Returns:
        The score.

    Raises:
        ShapeError: The fields differ in size.
    """
    if flow_tgt_src.shape != flow_src_tgt.shape:
        raise ShapeError(
            f"both flow fields must have one shape, got {flow_tgt_src.shape}, {flow_src_tgt.shape}"
        )
    mask = in_view(flow_tgt_src)
    if not mask.any():
        return Consistency(float("nan"), 0.0, 0.0)
    back = warp(flow_src_tgt, flow_tgt_src)
    error2 = ((flow_tgt_src + back) ** 2).sum(axis=2)
    size2 = (flow_tgt_src**2).sum(axis=2) + (back**2).sum(axis=2)
    is_good = error2 <= _OCCLUSION_RELATIVE * size2 + _OCCLUSION_PX2
    return Consistency(
        median_px=float(np.median(np.sqrt(error2[mask]))),
        consistent_fraction=float(is_good[mask].mean()),
        in_view_fraction=float(mask.mean()),
    )


def _landing(flow: Float32) -> Float32:
    height, width = flow.shape[:2]
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return flow + np.stack([u, v], axis=-1)
