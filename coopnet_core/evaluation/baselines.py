"""What a method must beat: a depth profile that ignores the picture, dead reckoning, DIS flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError, ShapeError
from coopnet_core.evaluation.odometry_metrics import trajectory_from_steps
from coopnet_core.geometry.intrinsics import Intrinsics

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_NUM_BINS = 160
_MIN_SAMPLES = 200


@dataclass(frozen=True, eq=False)
class DepthProfile:
    """Typical depth for each viewing angle: the best guess that does not look at the picture.

    Attributes:
        slope: (B,) ``(v - cy) / fy``, the downward slope of the ray, ascending.
        depth_m: (B,) median depth in metres of the training pixels seen under this slope.
    """

    slope: Float64
    depth_m: Float64

    def depth(self, intrinsics: Intrinsics) -> Float32:
        """Return the profile as a depth image of a camera, (height, width) float32 metres."""
        slope = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
        rows = np.interp(slope, self.slope, self.depth_m).astype(np.float32)
        return np.repeat(rows[:, None], intrinsics.width, axis=1)


def fit_depth_profile(samples: Iterable[tuple[Float32, Intrinsics]]) -> DepthProfile:
    """Fit the profile to depth images, which must be training images.

    Cameras are brought together by the slope of the viewing ray, so that the profile fits other
    focal lengths and crops; height and tilt of the camera are not corrected. Rows with few
    samples, such as sky, take the nearest row that has enough.

    Args:
        samples: Depth images (H, W) in metres, 0 where unknown, each with its camera.

    Returns:
        The profile.

    Raises:
        ShapeError: A depth image does not have its camera's size.
        DataError: There are too few known pixels.
    """
    slopes: list[Float64] = []
    depths: list[Float32] = []
    for depth, intrinsics in samples:
        if depth.shape != (intrinsics.height, intrinsics.width):
            raise ShapeError(
                f"depth is {depth.shape}, but its camera is {intrinsics.height, intrinsics.width}"
            )
        rows, columns = np.nonzero(depth > 0)
        slopes.append(np.asarray((rows - intrinsics.cy) / intrinsics.fy, np.float64))
        depths.append(depth[rows, columns])
    slope = np.concatenate(slopes) if slopes else np.empty(0)
    depth_all = np.concatenate(depths) if depths else np.empty(0, np.float32)
    if slope.size < _MIN_SAMPLES:
        raise DataError(f"a depth profile needs {_MIN_SAMPLES} known pixels, got {slope.size}")
    edges = np.linspace(slope.min(), slope.max(), _NUM_BINS + 1)
    bins = np.clip(np.digitize(slope, edges) - 1, 0, _NUM_BINS - 1)
    order = np.argsort(bins, kind="stable")
    starts = np.searchsorted(bins[order], np.arange(_NUM_BINS + 1))
    centres, medians = [], []
    for number in range(_NUM_BINS):
        members = order[starts[number] : starts[number + 1]]
        if members.size >= min(_MIN_SAMPLES, slope.size // _NUM_BINS + 1):
            centres.append((edges[number] + edges[number + 1]) / 2)
            medians.append(np.median(depth_all[members]))
    return DepthProfile(np.array(centres, np.float64), np.array(medians, np.float64))


def constant_velocity(step_m: float, num_poses: int) -> Float64:
    """Drive straight ahead at one speed: odometry that ignores the pictures.

    Args:
        step_m: Forward motion per frame in metres, such as that of the true first step.
        num_poses: Length of the trajectory.

    Returns:
        (num_poses, 4, 4) T_first_cur in optical axes.
    """
    step = np.eye(4)
    step[2, 3] = step_m
    return trajectory_from_steps(np.repeat(step[None], num_poses - 1, axis=0))


def dis_flow(image_tgt: npt.NDArray[np.uint8], image_src: npt.NDArray[np.uint8]) -> Float32:
    """Compute flow with OpenCV's DIS, preset MEDIUM (Kroeger et al., ECCV 2016).

    Args:
        image_tgt: (H, W) uint8.
        image_src: (H, W) uint8.

    Returns:
        ``flow_tgt_src``, (H, W, 2) float32 pixels.

    Raises:
        ShapeError: The images are not gray or differ in size.
    """
    if image_tgt.ndim != 2 or image_tgt.shape != image_src.shape:
        raise ShapeError(
            f"DIS needs two gray images of one size, got {image_tgt.shape} and {image_src.shape}"
        )
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = np.zeros((*image_tgt.shape, 2), dtype=np.float32)
    images = [np.ascontiguousarray(image) for image in (image_tgt, image_src)]
    return np.asarray(dis.calc(images[0], images[1], flow), np.float32)
