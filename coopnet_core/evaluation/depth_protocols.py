"""Depth protocols of the field: which pixels count, up to which depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.evaluation.depth_metrics import (
    MAX_DEPTH_M,
    MIN_DEPTH_M,
    DepthMetrics,
    depth_metrics,
    eigen_mask,
    resize_depth,
)
from coopnet_core.evaluation.stereo_depth import MAX_STEREO_DEPTH_M
from coopnet_core.geometry.intrinsics import Intrinsics

Float32 = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

RGBD_MAX_DEPTH_M = 10.0

# Rows and columns that count, of the 768 x 2048 pixels above the car's bonnet.
_CITYSCAPES_KEPT = 0.75
_CITYSCAPES_TOP = 256 / 768
_CITYSCAPES_LEFT, _CITYSCAPES_RIGHT = 192 / 2048, 1856 / 2048


@dataclass(frozen=True, eq=False)
class DepthExample:
    """An image with true depth.

    Attributes:
        image: (H, W) or (H, W, 3) RGB uint8, as the network gets it.
        truth: (h, w) float32 metres, 0 where unknown; the size may be another than the image's.
        camera: Camera of the image.
    """

    image: Image
    truth: Float32
    camera: Intrinsics


@dataclass(frozen=True)
class DepthSample:
    """An image with true depth that is read when it is needed.

    Attributes:
        name: What to call it in tables and pictures.
        read: Reads it.
    """

    name: str
    read: Callable[[], DepthExample]


@dataclass(frozen=True)
class DepthProtocol:
    """How depth is scored on a data set.

    Attributes:
        description: For the report.
        mask: Gives the pixels of a truth map (H, W) that count, (H, W) bool.
        max_depth_m: Predictions are clamped to [1e-3, ``max_depth_m``] metres.
        num_frames: Images of the complete test set; None where there is no such number.
    """

    description: str
    mask: Callable[[Float32], Mask]
    max_depth_m: float = MAX_DEPTH_M
    num_frames: int | None = None


def cityscapes_crop(example: DepthExample) -> DepthExample:
    """Cut off the lowest quarter of image and truth, where the car's own bonnet is."""
    camera = example.camera
    height = round(_CITYSCAPES_KEPT * camera.height)
    return DepthExample(
        example.image[:height],
        example.truth[: round(_CITYSCAPES_KEPT * example.truth.shape[0])],
        camera.cropped(0, 0, camera.width, height),
    )


def cityscapes_mask(truth: Float32) -> Mask:
    """Return the pixels that count on Cityscapes: in range and in the middle.

    Args:
        truth: (H, W) metres, already without its lowest quarter. Published numbers are for
            768x2048, of which rows 256 on and columns 192 to 1856 count (Watson et al.,
            "ManyDepth", CVPR 2021); other sizes take the same fractions.

    Returns:
        (H, W) bool.
    """
    height, width = truth.shape
    mask = np.zeros(truth.shape, np.bool_)
    columns = slice(round(_CITYSCAPES_LEFT * width), round(_CITYSCAPES_RIGHT * width))
    mask[round(_CITYSCAPES_TOP * height) :, columns] = True
    return mask & (truth > MIN_DEPTH_M) & (truth < MAX_DEPTH_M)


def improved_mask(truth: Float32) -> Mask:
    """Return the pixels that count with KITTI's improved truth: all that are known, no crop."""
    return np.asarray(truth > 0)


def stereo_mask(truth: Float32) -> Mask:
    """Return the pixels that count against stereo: those of the Eigen protocol, up to 50 m."""
    return eigen_mask(truth, MAX_STEREO_DEPTH_M)


def rgbd_mask(truth: Float32) -> Mask:
    """Return the pixels that count against an RGB-D camera: known, up to 10 m, no crop."""
    return np.asarray((truth > MIN_DEPTH_M) & (truth < RGBD_MAX_DEPTH_M))


EIGEN = DepthProtocol(
    "Eigen test split, one Velodyne scan projected, Garg crop, 1e-3 to 80 m", eigen_mask, 80.0, 697
)
EIGEN_IMPROVED = DepthProtocol(
    "Eigen test split with KITTI's improved truth (11 scans accumulated), no crop, capped at 80 m",
    improved_mask,
    80.0,
    652,
)
CITYSCAPES = DepthProtocol(
    "Cityscapes test images without their lowest quarter, truth from SGM stereo, rows from 256 "
    "and columns 192 to 1856 of 768x2048, 1e-3 to 80 m",
    cityscapes_mask,
    80.0,
    1525,
)
STEREO = DepthProtocol(
    "pseudo-truth from semi-global stereo matching (SGBM) with left-right check, Garg crop, up to "
    f"{MAX_STEREO_DEPTH_M:.0f} m",
    stereo_mask,
    MAX_STEREO_DEPTH_M,
)
RGBD = DepthProtocol(
    f"depth camera, all known pixels up to {RGBD_MAX_DEPTH_M:.0f} m", rgbd_mask, RGBD_MAX_DEPTH_M
)


@dataclass(frozen=True)
class ScoredImage:
    """Scores of one image.

    Attributes:
        name: Name of the sample.
        median: With median scaling.
        unscaled: As it comes, taken for metres.
    """

    name: str
    median: DepthMetrics
    unscaled: DepthMetrics


def score_image(
    depth: Float32, truth: Float32, protocol: DepthProtocol, name: str
) -> ScoredImage | None:
    """Score one prediction by a protocol.

    Args:
        depth: (H', W') on any grid, positive; interpolated to the truth's size as 1 / depth.
        truth: (H, W) metres, 0 where unknown.
        protocol: The protocol.
        name: Kept in the result.

    Returns:
        The scores; None when no pixel of the truth counts.
    """
    mask = protocol.mask(truth)
    if not mask.any():
        return None
    height, width = truth.shape
    full = resize_depth(depth, width, height)
    median, unscaled = (
        depth_metrics(full, truth, mask, scaled, protocol.max_depth_m) for scaled in (True, False)
    )
    return ScoredImage(name, median, unscaled)


def score_samples(
    predict: Callable[[DepthExample], Float32],
    samples: Iterable[DepthSample],
    protocol: DepthProtocol,
    progress: Callable[[str], None] | None = None,
) -> list[ScoredImage]:
    """Score a method that makes depth from single images.

    Args:
        predict: Gives the depth (H', W') of an example; must not look at its truth.
        samples: What to score, read one after the other.
        protocol: The protocol.
        progress: Called with one line now and then.

    Returns:
        One entry per image that has a pixel to score.

    Raises:
        DataError: An image cannot be read, or a prediction is not positive and finite.
    """
    scored = []
    for number, sample in enumerate(samples):
        if progress is not None and number % 50 == 0:
            progress(f"depth: image {number + 1}, {sample.name}")
        example = sample.read()
        result = score_image(predict(example), example.truth, protocol, sample.name)
        if result is not None:
            scored.append(result)
    return scored
