"""Depth errors after Eigen et al., "Depth Map Prediction from a Single Image", NIPS 2014."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError, ShapeError

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_DEPTH_M = 1e-3
MAX_DEPTH_M = 80.0


@dataclass(frozen=True)
class DepthMetrics:
    """Errors of a depth map, or their mean over images.

    Attributes:
        abs_rel: mean |d - d*| / d*.
        sq_rel: mean (d - d*)^2 / d*, metres.
        rmse: root of mean (d - d*)^2, metres.
        rmse_log: root of mean (ln d - ln d*)^2.
        delta1: fraction of pixels with max(d / d*, d* / d) < 1.25.
        delta2: the same for 1.25^2.
        delta3: the same for 1.25^3.
        scale: What the prediction was multiplied with: median(d*) / median(d), or 1.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    delta1: float
    delta2: float
    delta3: float
    scale: float


def garg_crop(height: int, width: int) -> Mask:
    """Return the image region that the Eigen protocol scores, (height, width) bool.

    The fractions are those of Garg et al., ECCV 2016.
    """
    mask = np.zeros((height, width), dtype=bool)
    top, bottom = int(0.40810811 * height), int(0.99189189 * height)
    left, right = int(0.03594771 * width), int(0.96405229 * width)
    mask[top:bottom, left:right] = True
    return mask


def eigen_mask(truth: Float32, max_depth_m: float = MAX_DEPTH_M) -> Mask:
    """Return the pixels of a truth map that the Eigen protocol scores: in range and in the crop."""
    return (truth > MIN_DEPTH_M) & (truth < max_depth_m) & garg_crop(*truth.shape)


def resize_depth(depth: Float32, width: int, height: int) -> Float32:
    """Resize depth by interpolating its inverse, as the Eigen protocol does.

    Args:
        depth: (H, W), positive.
        width: New width.
        height: New height.

    Returns:
        (height, width) float32.
    """
    inverse = cv2.resize(1 / depth, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(1 / inverse, np.float32)


def depth_metrics(
    depth: Float32,
    truth: Float32,
    mask: Mask,
    median_scaling: bool = True,
    max_depth_m: float = MAX_DEPTH_M,
) -> DepthMetrics:
    """Score one depth map.

    Args:
        depth: (H, W) prediction; metres, unless ``median_scaling`` makes the unit irrelevant.
        truth: (H, W) metres.
        mask: (H, W) bool, pixels to score.
        median_scaling: Multiply the prediction with median(truth) / median(depth) over the mask.
        max_depth_m: The scaled prediction is clamped to [1e-3, ``max_depth_m``].

    Returns:
        The errors.

    Raises:
        ShapeError: The arrays differ in size.
        DataError: The mask is empty, or prediction or truth is not positive and finite in it.
    """
    if not depth.shape == truth.shape == mask.shape:
        raise ShapeError(
            f"depth {depth.shape}, truth {truth.shape} and mask {mask.shape} must have one shape; "
            "resize the prediction to the truth"
        )
    if not mask.any():
        raise DataError("no pixel to score: the mask is empty")
    predicted, expected = depth[mask].astype(np.float64), truth[mask].astype(np.float64)
    for name, values in (("predicted", predicted), ("true", expected)):
        if not (np.isfinite(values).all() and values.min() > 0):
            raise DataError(
                f"{name} depth must be positive and finite on every scored pixel, but "
                f"{int((~(np.isfinite(values) & (values > 0))).sum())} of {values.size} are not"
            )
    scale = float(np.median(expected) / np.median(predicted)) if median_scaling else 1.0
    predicted = np.clip(predicted * scale, MIN_DEPTH_M, max_depth_m)
    error = predicted - expected
    log_error = np.log(predicted) - np.log(expected)
    ratio = np.maximum(predicted / expected, expected / predicted)
    return DepthMetrics(
        abs_rel=float(np.mean(np.abs(error) / expected)),
        sq_rel=float(np.mean(error**2 / expected)),
        rmse=float(np.sqrt(np.mean(error**2))),
        rmse_log=float(np.sqrt(np.mean(log_error**2))),
        delta1=float(np.mean(ratio < 1.25)),
        delta2=float(np.mean(ratio < 1.25**2)),
        delta3=float(np.mean(ratio < 1.25**3)),
        scale=scale,
    )


def mean_depth_metrics(per_image: Sequence[DepthMetrics]) -> DepthMetrics:
    """Average the errors of images, each image counting the same.

    Raises:
        DataError: There is no image.
    """
    if not per_image:
        raise DataError("no image was scored")
    return DepthMetrics(
        *(float(np.mean(column)) for column in zip(*map(astuple, per_image), strict=True))
    )
