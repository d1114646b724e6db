"""How far below the camera the ground is, in the unit of depth.

Two witnesses with two tasks. The depth image says whether the strip ahead is ground at all: one
plane, level, nothing below it. Parallax says how far away it is: flow across the strip and the step
of the camera give the distance of each point in lengths of that step, and a step is as long as
depth over the whole image says. So the height found is in the unit that most of the depth image
agrees on; a network that puts bare asphalt a tenth too far away does not put the scale of
everything off by a tenth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import ConfigError, InputError
from coopnet_core.geometry.intrinsics import Intrinsics

if TYPE_CHECKING:
    from coopnet_core.inference.pipeline import FrameResult

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_GRID_COLUMNS = 208
"""Pixels are taken on a grid of about so many columns; more of them say the same."""
_MIN_POINTS = 30
_TOLERANCES = (4.0, 2.0, 1.0, 1.0, 1.0)
"""The plane is first sought with a wide tolerance, so that a wrong start finds its way."""


@dataclass(frozen=True)
class GroundConfig:
    """What counts as ground.

    Lengths are in heights of the camera over the ground, so that they need no metric scale. The
    defaults were chosen on KITTI odometry 03 frames 0-600 and 00 frames 0-150, and on Karlsruhe
    2010_03_09_drive_0019.

    Attributes:
        length: How far ahead of the camera the strip of ground reaches.
        half_width: How far it reaches to either side.
        min_visible: Fraction of the strip's pixels that must have depth and not move.
        plane_tolerance: A point is on the plane when its depth is off by less than this fraction.
        min_plane_fraction: Fraction of the strip that must lie on one plane.
        max_tilt_deg: Tilt of that plane against the ground from which on it is something else.
        below: A point whose depth takes it this fraction of the height below the plane is below it.
        max_below_fraction: Fraction of the pixels beside the strip that may lie below the plane:
            a table has the floor below it, the ground has nothing.
        min_parallax_px: A point farther away than its parallax can tell does not count.
        max_spread: Largest spread (robust standard deviation, relative) of the points' heights.
    """

    length: float = 8.0
    half_width: float = 1.0
    min_visible: float = 0.5
    plane_tolerance: float = 0.1
    min_plane_fraction: float = 0.6
    max_tilt_deg: float = 10.0
    below: float = 0.3
    max_below_fraction: float = 0.2
    min_parallax_px: float = 1.0
    max_spread: float = 0.25

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        for name in ("min_visible", "min_plane_fraction", "max_below_fraction"):
            require(name, getattr(self, name), 0.05, 1.0)
        for name in ("length", "half_width", "min_parallax_px"):
            require(name, getattr(self, name), 0.1, 100.0)
        for name in ("plane_tolerance", "below", "max_spread"):
            require(name, getattr(self, name), 0.01, 1.0)
        require("max_tilt_deg", self.max_tilt_deg, 0.5, 45.0)


def require(name: str, value: float, low: float, high: float) -> None:
    """Check that a setting is a number between two limits, both allowed.

    Raises:
        ConfigError: It is not.
    """
    if not low <= value <= high:  # not true of NaN either
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value}")


@dataclass(frozen=True)
class Ground:
    """The ground in one frame.

    Attributes:
        height: Distance of the camera from the ground in the unit of depth; None when there is no
            ground to be seen.
        reason: Why there is no height, or why it is not by parallax; else empty.
        is_by_parallax: Parallax says how high; False: depth alone, and a tenth off is usual.
    """

    height: float | None
    reason: str
    is_by_parallax: bool = False


def measure_ground(result: FrameResult, down: Float64, config: GroundConfig) -> Ground:
    """Find the camera's height over the ground.

    Args:
        result: Of a frame; its flow must have been asked for.
        down: (3,) unit vector, the ground's normal in the camera, pointing down (optical axes).
        config: What counts as ground.

    Returns:
        The height, or why there is none.

    Raises:
        InputError: The frame has a step but no flow.
    """
    step = result.T_prev_cur
    if step is None:
        return Ground(None, f"no step of the camera: {result.tracking.value}")
    if result.flow is None:
        raise InputError(
            "the height of the camera is measured by flow: add 'flow' to the wanted outputs of "
            "FramePipeline.step"
        )
    stride = max(1, round(result.intrinsics.width / _GRID_COLUMNS))
    rays, in_strip, beside = _strip(result.intrinsics, down, config, stride)
    if np.count_nonzero(in_strip) < _MIN_POINTS:
        return Ground(None, "the camera does not see the ground ahead: check its mounting")
    depth = result.depth[::stride, ::stride]
    usable = in_strip & np.isfinite(depth)
    if result.motion_mask is not None:
        usable &= ~result.motion_mask[::stride, ::stride]
    visible = np.count_nonzero(usable) / np.count_nonzero(in_strip)
    if visible < config.min_visible:
        return Ground(
            None,
            f"the road is hidden: {visible:.0%} of the strip ahead has depth and does not move",
        )
    ray = rays[usable]
    points = ray * depth[usable][:, None].astype(np.float64)
    around = beside & np.isfinite(depth)
    points_around = rays[around] * depth[around][:, None].astype(np.float64)
    problem = _why_no_ground(points, points_around, down, config)
    if problem:
        return Ground(None, problem)
    by_depth = float(np.median(points @ down))
    if not step[:3, 3].any():
        return Ground(by_depth, "standing still: no parallax")
    rows, columns = np.nonzero(usable)
    # Published flow is the motion since the previous frame.
    flow = result.flow[::stride, ::stride][usable].astype(np.float64)
    before = stride * np.stack([columns, rows], axis=1) - flow
    inverse, parallax_px = inverse_depth(ray, before, step, result.intrinsics)
    seen = (parallax_px >= config.min_parallax_px) & (inverse > 0)
    if np.count_nonzero(seen) < max(_MIN_POINTS, config.min_visible * len(ray)):
        return Ground(by_depth, "too slow: the ground shows no parallax")
    heights = (ray[seen] @ down) / inverse[seen]
    height = float(np.median(heights))
    spread = 1.4826 * float(np.median(np.abs(heights / height - 1)))
    if spread > config.max_spread:
        return Ground(None, f"flow on the road agrees on no plane: spread {spread:.0%}")
    return Ground(height, "", is_by_parallax=True)


def _why_no_ground(
    points: Float64, points_around: Float64, down: Float64, config: GroundConfig
) -> str:
    """Return why the strip ahead, (N, 3), is no ground as depth has it; empty when it is."""
    plane, fraction = fit_plane(points, down, config.plane_tolerance)
    tilt_deg = math.degrees(math.acos(np.clip(plane @ down / np.linalg.norm(plane), -1.0, 1.0)))
    if tilt_deg > config.max_tilt_deg:
        return (
            f"the surface ahead is tilted by {tilt_deg:.0f} degrees against the ground: a ramp, a "
            "wall, or a camera mounted otherwise"
        )
    if fraction < config.min_plane_fraction:
        return f"no ground: {fraction:.0%} of the strip ahead lies on one plane"
    is_below = points_around @ plane > 1 + config.below
    if is_below.size and is_below.mean() > config.max_below_fraction:
        return (
            f"not the lowest surface: {is_below.mean():.0%} of what is beside lies below: a table?"
        )
    return ""


def fit_plane(points: Float64, down: Float64, tolerance: float) -> tuple[Float64, float]:
    """Fit a plane to points whose depth is off by a fraction of itself.

    A plane is linear in inverse depth, ``1 / Z = m . ray``; errors relative to depth make that the
    least squares of ``m . X = 1``. Weights are Tukey's, the start is level at the median height.

    Args:
        points: (N, 3) in the camera.
        down: (3,) unit vector, the normal to start from.
        tolerance: Relative error of depth up to which a point is on the plane.

    Returns:
        ``m``, (3,): the normal over the distance; and the fraction of points on the plane.
    """
    plane = down / max(float(np.median(points @ down)), 1e-9)
    for widening in _TOLERANCES:
        error = (points @ plane - 1) / (2 * widening * tolerance)
        weighted = points * np.maximum(1 - error * error, 0)[:, None] ** 2
        normal = weighted.T @ points
        # The tiny ridge keeps the system solvable when no point is left.
        ridge = 1e-9 * (1 + np.trace(normal))
        plane = np.linalg.solve(normal + ridge * np.eye(3), weighted.sum(axis=0) + ridge * plane)
    return plane, float((np.abs(points @ plane - 1) < tolerance).mean())


def inverse_depth(
    rays: Float64, targets: Float64, T_other_cur: Float64, intrinsics: Intrinsics
) -> tuple[Float64, Float64]:
    """Triangulate points along their epipolar lines.

    Args:
        rays: (N, 3) in the current camera, with z = 1.
        targets: (N, 2) pixels, where the points are in the other image.
        T_other_cur: (4, 4), pose of the current camera in the other one.
        intrinsics: Camera of both images.

    Returns:
        Inverse depth (N,) in the current camera, and the length of the parallax in pixels (N,).
    """
    turned = rays @ T_other_cur[:3, :3].T
    step = T_other_cur[:3, 3]
    x = (targets[:, 0] - intrinsics.cx) / intrinsics.fx
    y = (targets[:, 1] - intrinsics.cy) / intrinsics.fy
    # (turned + q step) must be seen at (x, y): two equations, linear in q.
    per_q = np.stack(
        [(x * step[2] - step[0]) * intrinsics.fx, (y * step[2] - step[1]) * intrinsics.fy]
    )
    offset = np.stack(
        [
            (turned[:, 0] - x * turned[:, 2]) * intrinsics.fx,
            (turned[:, 1] - y * turned[:, 2]) * intrinsics.fy,
        ]
    )
    squared = np.maximum((per_q * per_q).sum(axis=0), 1e-12)
    q = (per_q * offset).sum(axis=0) / squared
    return q, np.abs(q) * np.sqrt(squared)


def _strip(
    intrinsics: Intrinsics, down: Float64, config: GroundConfig, stride: int
) -> tuple[Float64, Mask, Mask]:
    """Take every ``stride``-th pixel: rays (h, w, 3), which see the strip, which the ground beside.

    As a part of the ground the strip is a trapezoid in any image, whatever the camera's tilt.
    """
    u, v = np.meshgrid(
        np.arange(0, intrinsics.width, stride), np.arange(0, intrinsics.height, stride)
    )
    rays = np.stack(
        [
            (u - intrinsics.cx) / intrinsics.fx,
            (v - intrinsics.cy) / intrinsics.fy,
            np.ones(u.shape),
        ],
        axis=-1,
    )
    # Ahead is where a level camera looks, and the upper edge of the image of one that looks down.
    ahead_and_up = np.array([0.0, -1.0, 1.0])
    forward = ahead_and_up - (ahead_and_up @ down) * down
    forward /= max(float(np.linalg.norm(forward)), 1e-9)
    sink = rays @ down
    ahead = rays @ forward
    in_reach = (sink > 0) & (ahead <= config.length * sink) & (ahead > 0)
    in_strip = in_reach & (np.abs(rays @ np.cross(down, forward)) <= config.half_width * sink)
    return rays, in_strip, in_reach & ~in_strip
