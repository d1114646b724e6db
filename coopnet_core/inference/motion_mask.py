"""Which pixels move by themselves: flow that neither the camera's motion nor depth explains.

Two witnesses must agree. Flow must differ from what depth and camera motion predict; and the region
must look more like the other image along flow than along that prediction. The second one is what
the CoopNet loss compares in training: it silences flow that is simply wrong, as on bare asphalt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.inference.projection import Float32, Mask, RigidFlow, vector_length

Gray = npt.NDArray[np.uint8]

_REMAP_COLUMNS = 64


@dataclass(frozen=True)
class MotionMaskConfig:
    """When a pixel counts as moving.

    A pixel moves when observed minus rigid flow exceeds ``num_sigmas`` standard deviations. The
    standard deviation across the epipolar line is ``sigma_px`` plus ``sigma_relative`` times the
    length of flow. Along the line it grows by the parallax times ``nearer_sigma`` or
    ``farther_sigma``, so that wrong depth, even by a common factor, is not taken for motion:
    something that moves along its epipolar line (traffic ahead) shows only when no believable depth
    explains it. Parallax goes with inverse depth, so depth that is twice too large puts a point off
    by all its parallax, depth that is twice too small by half of it: hence two values.

    The defaults were chosen on the validation frames of KITTI 03 and Karlsruhe and on KITTI raw
    drive 0002. They see traffic that goes along or crosses; an oncoming car looks like a nearer
    one, unless it leaves its epipolar line.

    Attributes:
        num_sigmas: Threshold.
        sigma_px: Standard deviation of flow at rest.
        sigma_relative: The same per pixel of flow.
        nearer_sigma: Standard deviation of inverse depth relative to itself, where flow says that
            a point is nearer than depth does.
        farther_sigma: The same where flow says that it is farther away.
        open_px: Specks narrower than this are removed; 0 or 1 leaves them.
        close_px: Gaps narrower than this are filled; 0 or 1 leaves them.
        min_area_px: Smaller regions are removed.
        min_error_ratio: The mean photometric error of a region along the rigid flow must exceed
            that along the observed flow by this factor; 0 leaves this test out.
        min_error_gain: It must exceed it by this many gray levels, too.
    """

    num_sigmas: float = 3.0
    sigma_px: float = 0.3
    sigma_relative: float = 0.08
    nearer_sigma: float = 0.6
    farther_sigma: float = 0.25
    open_px: int = 3
    close_px: int = 5
    min_area_px: int = 24
    min_error_ratio: float = 1.3
    min_error_gain: float = 2.0


def motion_mask(
    gray_cur: Gray,
    gray_other: Gray,
    flow: Float32,
    rigid: RigidFlow,
    is_consistent: Mask,
    config: MotionMaskConfig,
) -> Mask:
    """Mark the pixels of the current image that move by themselves.

    Args:
        gray_cur: (H, W) uint8, current image.
        gray_other: (H, W) uint8, the image that flow leads to.
        flow: (H, W, 2) float32, observed flow into the other image, pixels.
        rigid: Flow into the same image that depth and camera motion explain.
        is_consistent: (H, W) bool, flow there and back agrees: not occluded and inside the image.
        config: Thresholds.

    Returns:
        (H, W) bool. Occluded pixels, those that leave the image, and those without depth are False.
    """
    mask = motion_score(flow, rigid, config) > config.num_sigmas**2
    mask &= is_consistent & rigid.is_visible
    mask = _morphology(mask, cv2.MORPH_OPEN, config.open_px)
    mask = _morphology(mask, cv2.MORPH_CLOSE, config.close_px)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= config.min_area_px
    keep[0] = False  # the background
    if keep.any() and config.min_error_ratio > 0:
        error_flow = _mean_error(gray_cur, gray_other, flow, labels, count)
        error_rigid = _mean_error(gray_cur, gray_other, rigid.flow, labels, count)
        keep &= error_rigid >= config.min_error_ratio * error_flow
        keep &= error_rigid >= config.min_error_gain + error_flow
    cleaned: Mask = keep[labels]
    return cleaned


def motion_score(flow: Float32, rigid: RigidFlow, config: MotionMaskConfig) -> Float32:
    """Return the squared disagreement of each pixel in standard deviations, (H, W) float32."""
    error = flow - rigid.flow
    error_x, error_y = error[..., 0], error[..., 1]
    parallax_x, parallax_y = rigid.per_log_depth[..., 0], rigid.per_log_depth[..., 1]
    relative = np.float32(config.sigma_relative)
    variance = np.square(np.float32(config.sigma_px) + relative * vector_length(flow))
    # Inverse of (variance I + sigma^2 parallax parallax^T) by Sherman and Morrison.
    projected = error_x * parallax_x + error_y * parallax_y
    squared_parallax = parallax_x * parallax_x + parallax_y * parallax_y
    squared_error = error_x * error_x + error_y * error_y
    nearer, farther = (
        np.float32(sigma**2 + 1e-12) for sigma in (config.nearer_sigma, config.farther_sigma)
    )
    # Parallax points to where the point would be seen if it were farther away.
    denominator = variance / np.where(projected < 0, nearer, farther) + squared_parallax
    score: Float32 = (squared_error - projected * projected / denominator) / variance
    return score


def _morphology(mask: Mask, operation: int, diameter: int) -> Mask:
    if diameter <= 1:
        return mask
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    return np.asarray(cv2.morphologyEx(mask.view(np.uint8), operation, disk), np.bool_)


def _mean_error(
    gray_cur: Gray, gray_other: Gray, flow: Float32, labels: npt.NDArray[Any], count: int
) -> npt.NDArray[np.float64]:
    """Return the mean absolute difference of each region to where flow leads, (count,).

    0 for region 0, the background.
    """
    rows, columns = np.nonzero(labels)
    vectors = np.nan_to_num(flow[rows, columns])
    # In lines of a fixed length: remap takes any shape, but no more than 32767 rows.
    shape = (-(-len(rows) // _REMAP_COLUMNS), _REMAP_COLUMNS)
    u, v = np.zeros((2, *shape), np.float32)
    u.ravel()[: len(rows)] = columns + vectors[:, 0]
    v.ravel()[: len(rows)] = rows + vectors[:, 1]
    warped = cv2.remap(gray_other, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = cv2.absdiff(warped.ravel()[: len(rows)], gray_cur[rows, columns]).ravel()
    found = labels[rows, columns]
    sums = np.bincount(found, error.astype(np.float64), count)
    return sums / np.maximum(np.bincount(found, minlength=count), 1)
