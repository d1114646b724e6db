"""Depth from a rectified stereo pair by semi-global matching, as pseudo-truth for one camera."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image_sized
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import DataError, ShapeError
from coopnet_core.inference.preprocess import to_gray

# Beyond this, half a pixel of disparity is a relative error of 15 % and more on half-size images.
MAX_STEREO_DEPTH_M = 50.0
_NUM_DISPARITIES = 96
_BLOCK = 5


def stereo_disparity(
    left: npt.NDArray[np.uint8],
    right: npt.NDArray[np.uint8],
    max_difference_px: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Match a rectified pair in both directions and keep what agrees.

    Args:
        left: (H, W) uint8.
        right: (H, W) uint8.
        max_difference_px: Largest difference between the disparity of a left pixel and that of
            the right pixel it points to.

    Returns:
        (H, W) float32 pixels, NaN where there is no reliable match.

    Raises:
        ShapeError: The images are not gray or differ in size.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(
            f"a stereo pair must be two gray images of one size, got {left.shape}, {right.shape}"
        )
    forward = _match(left, right)
    # Mirrored, the right camera is the left one.
    backward = _match(right[:, ::-1], left[:, ::-1])[:, ::-1]
    width = left.shape[1]
    columns = np.arange(width)[None, :] - np.nan_to_num(forward)
    partner = np.clip(np.rint(columns), 0, width - 1).astype(int)
    returned = np.take_along_axis(backward, partner, axis=1)
    with np.errstate(invalid="ignore"):
        is_good = (columns >= 0) & (np.abs(returned - forward) <= max_difference_px)
    return np.where(is_good, forward, np.nan).astype(np.float32)


def stereo_depth(sequence: Sequence, place: int) -> npt.NDArray[np.float32]:
    """Compute pseudo-true depth of a left image of a stereo sequence.

    Args:
        sequence: Sequence with a right camera.
        place: Place in the sequence (not frame number).

    Returns:
        (H, W) float32 metres, 0 where unknown or beyond ``MAX_STEREO_DEPTH_M``.

    Raises:
        DataError: The frame has no right image.
    """
    right_path = None if sequence.right_paths is None else sequence.right_paths[place]
    if right_path is None or sequence.baseline_m is None:
        raise DataError(f"{sequence.name}: frame {sequence.indices[place]} has no right image")
    camera = sequence.intrinsics
    left = to_gray(read_image_sized(sequence.paths[place], camera.width, camera.height))
    right = to_gray(read_image_sized(right_path, camera.width, camera.height))
    disparity = stereo_disparity(left, right)
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = camera.fx * sequence.baseline_m / disparity
        depth[~((disparity > 0) & (depth <= MAX_STEREO_DEPTH_M))] = 0
    return np.asarray(depth, np.float32)


def _match(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=_NUM_DISPARITIES,
        blockSize=_BLOCK,
        P1=8 * _BLOCK**2,
        P2=32 * _BLOCK**2,
        disp12MaxDiff=-1,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # SGBM leaves out the first columns, in which the largest disparity would leave the image.
    pad = _NUM_DISPARITIES
    padded = [
        cv2.copyMakeBorder(np.ascontiguousarray(image), 0, 0, pad, 0, cv2.BORDER_REPLICATE)
        for image in (left, right)
    ]
    disparity = matcher.compute(padded[0], padded[1])[:, pad:].astype(np.float32) / 16
    disparity[disparity <= 0] = np.nan
    return np.asarray(disparity, np.float32)
