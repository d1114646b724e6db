"""Points with depth in one frame and their place in the other one, from dense flow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.projection import MIN_DEPTH, Float32, Mask

Float64 = npt.NDArray[np.float64]
Gray = npt.NDArray[np.uint8]

_SHARP_FACTOR = 2
"""Points are polished on images of at most this many times the networks' size: more pixels cost
more time and no longer improve the motion."""

_POLISH_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.01)


@dataclass(frozen=True)
class Points:
    """N points of one frame.

    Attributes:
        xyz: (N, 3) in the camera of the frame, in the unit of depth.
        target: (N, 2) pixels in the other frame.
        flow: (N, 2) pixels, how they get there.
        is_polished: (N,) bool, ``target`` was refined on the images.
    """

    xyz: Float64
    target: Float64
    flow: Float64
    is_polished: Mask


def sharp_image(gray: Gray, width: int, height: int) -> Gray:
    """Return the image that points are polished on: the camera's own, or a smaller one.

    Args:
        gray: (h, w) camera image.
        width: Width of the networks' input.
        height: Height of the networks' input.

    Returns:
        At most twice the networks' size.
    """
    size = (min(gray.shape[1], _SHARP_FACTOR * width), min(gray.shape[0], _SHARP_FACTOR * height))
    if size == (gray.shape[1], gray.shape[0]):
        return gray
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def sample_points(
    depth: Float32, flow: Float32, is_good: Mask, intrinsics: Intrinsics, step_px: int
) -> Points:
    """Take the good points of a grid.

    Args:
        depth: (H, W) float32, NaN where invalid.
        flow: (H, W, 2) float32, pixels, into the other frame.
        is_good: (H, W) bool, where flow can be relied on.
        intrinsics: Camera at this size.
        step_px: Distance of grid points.

    Returns:
        Points with valid depth where flow is good.
    """
    height, width = depth.shape
    rows, columns = _grid(height, width, step_px)
    window = np.ix_(rows, columns)
    z = depth[window].astype(np.float64)
    with np.errstate(invalid="ignore"):
        keep = is_good[window] & (z > MIN_DEPTH)
    v, u = np.meshgrid(rows, columns, indexing="ij")
    pixels = np.stack([u[keep], v[keep]], axis=1).astype(np.float64)
    z = z[keep]
    x = (pixels[:, 0] - intrinsics.cx) / intrinsics.fx * z
    y = (pixels[:, 1] - intrinsics.cy) / intrinsics.fy * z
    vectors = flow[window][keep].astype(np.float64)
    xyz = np.stack([x, y, z], axis=1)
    return Points(xyz, pixels + vectors, vectors, np.zeros(len(z), np.bool_))


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
    if len(points.xyz) == 0:
        return points
    scale = np.array([sharp_from.shape[1] / width, sharp_from.shape[0] / height])
    start = np.asarray((points.target - points.flow + 0.5) * scale - 0.5, np.float32, order="C")
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
    return Points(points.xyz, points.target + change, points.flow + change, is_polished)


def textured_fraction(gray: Gray, min_gradient: float) -> float:
    """Return the fraction of pixels whose gradient exceeds ``min_gradient`` levels per pixel."""
    # Scharr's kernels sum to 32 on the unit ramp.
    dx = cv2.Scharr(gray, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(gray, cv2.CV_32F, 0, 1, scale=1 / 32)
    return float(np.mean(cv2.magnitude(dx, dy) > min_gradient))


def grid_size(height: int, width: int, step_px: int) -> int:
    """Return how many points the grid of :func:`sample_points` has."""
    rows, columns = _grid(height, width, step_px)
    return len(rows) * len(columns)


def _grid(
    height: int, width: int, step_px: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    return np.arange(step_px // 2, height, step_px), np.arange(step_px // 2, width, step_px)
