"""Camera motion between two frames from flow and depth, with the pose network as a first guess.

Flow says where a grid of points went, depth says how far away they are, and the motion that
explains both is found in two steps: hypotheses (the pose network's answer, the previous motion, PnP
with RANSAC) are scored, and the best one is refined by robust Gauss-Newton on both flow directions.

The two sources of error are kept apart. Flow is off by a fraction of a pixel in any direction;
depth is off by a fraction of itself, which shifts a point along its epipolar line only, and the
more the larger its parallax. So a residual across the epipolar line weighs as much as flow is
exact, a residual along it as little as depth is uncertain: rotation and heading come from geometry
that a wrong depth cannot bend, and depth sets the length of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.projection import MIN_DEPTH, Float32, Mask, is_consistent

Float64 = npt.NDArray[np.float64]

LOST_VARIANCE = 9999.0
"""Variance that means "unknown", as ROS odometry users expect it."""

_CHI2 = 9.0
"""Squared residual, in standard deviations, up to which a point agrees (2 d.o.f.: 99 %)."""

_NETWORK_INFLATION = 4.0
"""The pose network's answer does not minimise the residuals: twice the standard deviation."""

_FAR_OFF = 1e6
"""Residual of a point behind the camera."""

_MIN_STEP = 1e-4
"""Gauss-Newton stops when an iteration moves every point by less, in standard deviations."""


@dataclass(frozen=True)
class EgomotionConfig:
    """How camera motion is estimated.

    Attributes:
        method: ``geometry`` refines the pose network's answer with flow and depth; ``network``
            takes that answer as it is, where flow and depth do not contradict it.
        grid_step_px: Distance of the points that are used; 8 gives 832 at 416x128.
        consistency_px: How far a point may be off after following flow there and back.
        consistency_relative: The same per pixel of flow.
        min_gradient: Image gradient, gray levels per pixel, from which on a point has texture.
        min_textured_fraction: Below this fraction of textured points there is nothing to track
            (covered lens, fog, darkness).
        min_points: Consistent points needed.
        min_consistent_fraction: Fraction of the grid that must be consistent.
        flow_sigma_px: Standard deviation of flow at rest.
        flow_sigma_relative: The same per pixel of flow.
        depth_sigma: Standard deviation of depth relative to itself.
        min_inlier_fraction: Fraction of the consistent points that must agree on one motion.
        max_rotation_rad: Larger steps are refused.
        max_parallax: Steps longer than this fraction of the median depth are refused.
        ransac_iterations: Iterations of PnP with RANSAC; 0 leaves it out.
        ransac_error_px: Distance up to which RANSAC counts a point as agreeing.
        refine_iterations: Most Gauss-Newton iterations at the final tolerance.
        still_px: The camera stands still when of the points that agree on one motion,
            ``still_fraction`` have flow below this.
        still_fraction: See ``still_px``.
        correlation: How many neighbouring grid points share one error of flow: the covariance is
            that of so many times fewer independent points.
        step_scale_sigma: Standard deviation of the step's length relative to itself, from the scale
            of depth, which more points cannot improve.
    """

    method: Literal["geometry", "network"] = "geometry"
    grid_step_px: int = 8
    consistency_px: float = 0.75
    consistency_relative: float = 0.1
    min_gradient: float = 3.0
    min_textured_fraction: float = 0.05
    min_points: int = 40
    min_consistent_fraction: float = 0.15
    flow_sigma_px: float = 0.3
    flow_sigma_relative: float = 0.03
    depth_sigma: float = 0.15
    min_inlier_fraction: float = 0.4
    max_rotation_rad: float = 0.5
    max_parallax: float = 0.7
    ransac_iterations: int = 60
    ransac_error_px: float = 1.5
    refine_iterations: int = 8
    still_px: float = 0.2
    still_fraction: float = 0.8
    correlation: float = 20.0
    step_scale_sigma: float = 0.05


@dataclass(frozen=True)
class FramePair:
    """What is known about the current frame and the previous one.

    Attributes:
        depth_cur: (H, W) float32, NaN where invalid.
        depth_prev: The same of the previous frame, on the same scale.
        flow_cur_prev: (H, W, 2) float32 pixels, from the current frame into the previous one.
        flow_prev_cur: The other way.
        gray_cur: (H, W) uint8, the current image.
        intrinsics: Camera of both frames at this size.
    """

    depth_cur: Float32
    depth_prev: Float32
    flow_cur_prev: Float32
    flow_prev_cur: Float32
    gray_cur: npt.NDArray[np.uint8]
    intrinsics: Intrinsics


@dataclass(frozen=True)
class Egomotion:
    """Motion of the camera between two frames.

    Attributes:
        T_prev_cur: (4, 4) float64, pose of the current camera in the previous one, in the unit of
            depth; None when no motion explains what is seen.
        covariance: (6, 6) float64 of the step, seen from the current camera: x, y, z, then rotation
            about x, y, z in radians; optical axes. Lost: ``LOST_VARIANCE`` on the diagonal.
        source: What the motion rests on.
        reason: Why tracking was lost or the refined motion was refused, else empty.
        num_points: Consistent points.
        inlier_fraction: Fraction of them that agrees with the motion.
    """

    T_prev_cur: Float64 | None
    covariance: Float64
    source: Literal["geometry", "network", "still", "none"]
    reason: str
    num_points: int
    inlier_fraction: float


def estimate_egomotion(
    pair: FramePair,
    T_prev_cur_guesses: Iterable[npt.ArrayLike],
    config: EgomotionConfig,
    *,
    is_consistent_cur: Mask | None = None,
) -> Egomotion:
    """Estimate the camera's motion between two frames.

    Args:
        pair: Depth and flow of the two frames.
        T_prev_cur_guesses: First guesses, (4, 4) each; the first one is the pose network's and is
            what remains when geometry finds nothing better.
        config: Tolerances.
        is_consistent_cur: (H, W) bool, forward-backward check of ``flow_cur_prev`` where it has
            been done already.

    Returns:
        The motion, or the reason why there is none.
    """
    arrays = [np.asarray(guess, np.float64) for guess in T_prev_cur_guesses]
    if not arrays or not np.all(np.isfinite(arrays[0])):
        return _lost("the pose network's answer is not finite", 0, 0.0)
    guesses = [rigid.nearest_rigid(array) for array in arrays if np.all(np.isfinite(array))]
    points_cur, points_prev, num_grid = _correspondences(pair, config, is_consistent_cur)
    num_points = len(points_cur.xyz) + len(points_prev.xyz)
    if _textured_fraction(pair.gray_cur, config) < config.min_textured_fraction:
        return _lost("the image has no texture (covered lens, darkness, fog?)", num_points, 0.0)
    if num_points < max(config.min_points, config.min_consistent_fraction * num_grid):
        reason = f"flow is consistent at {num_points} of {num_grid} points only"
        return _lost(reason, num_points, 0.0)

    problem = _Problem(points_cur, points_prev, pair.intrinsics, config)
    if config.method == "geometry":
        candidates = [*guesses, np.eye(4)]
        ransac = _pnp_ransac(points_cur, pair.intrinsics, config)
        if ransac is not None:
            candidates.append(ransac)
        refined = problem.refine(min(candidates, key=problem.cost))
    else:
        refined = guesses[0]
    inliers = problem.squared_residuals(refined) < _CHI2
    fraction = float(inliers.mean())
    if fraction >= config.min_inlier_fraction:
        speeds = problem.flow_lengths()[inliers]
        if float(np.quantile(speeds, config.still_fraction)) < config.still_px:
            covariance = problem.covariance(np.eye(4), inliers)
            return Egomotion(np.eye(4), covariance, "still", "", num_points, fraction)
    reason = _refusal(refined, fraction, problem.median_depth, config)
    if not reason and config.method == "geometry":
        covariance = problem.covariance(refined, inliers)
        return Egomotion(refined, covariance, "geometry", "", num_points, fraction)
    inliers_guess = problem.squared_residuals(guesses[0]) < _CHI2
    fraction_guess = float(inliers_guess.mean())
    if not _refusal(guesses[0], fraction_guess, problem.median_depth, config):
        covariance = _NETWORK_INFLATION * problem.covariance(guesses[0], inliers_guess)
        return Egomotion(guesses[0], covariance, "network", reason, num_points, fraction_guess)
    return _lost(reason, num_points, fraction)


@dataclass(frozen=True)
class _Points:
    """Points with depth in one frame, and where flow sees them in the other one."""

    xyz: Float64
    target: Float64
    flow: Float64


class _Problem:
    """Residuals of a motion on the points of both frames, in standard deviations."""

    def __init__(
        self, cur: _Points, prev: _Points, intrinsics: Intrinsics, config: EgomotionConfig
    ) -> None:
        self._halves = (cur, prev)
        self._lengths: Float64 = np.linalg.norm(np.concatenate([cur.flow, prev.flow]), axis=1)
        self._sigma = config.flow_sigma_px + config.flow_sigma_relative * self._lengths
        self._intrinsics = intrinsics
        self._config = config
        self.median_depth = float(np.median(np.concatenate([cur.xyz[:, 2], prev.xyz[:, 2]])))

    def flow_lengths(self) -> Float64:
        """Return the length of flow at each point, (N,), pixels."""
        return self._lengths

    def squared_residuals(self, T_prev_cur: Float64) -> Float64:
        """Return the squared whitened residual of each point, (N,); huge behind the camera."""
        along, across, _ = self._whitened(T_prev_cur, with_jacobian=False)
        return along * along + across * across

    def cost(self, T_prev_cur: Float64) -> float:
        """Return the mean of the squared residuals, each cut off at the inlier limit."""
        return float(np.minimum(self.squared_residuals(T_prev_cur), _CHI2).mean())

    def refine(self, T_prev_cur: Float64) -> Float64:
        """Minimise a Geman-McClure cost, first with a wide tolerance, then with a narrow one."""
        for widening, iterations in ((16.0, 2), (4.0, 2), (1.0, self._config.refine_iterations)):
            for _ in range(iterations):
                along, across, jacobian = self._whitened(T_prev_cur, with_jacobian=True)
                weights = (1 + (along * along + across * across) / (_CHI2 * widening)) ** -2
                normal, gradient = _normal_equations(along, across, jacobian, weights)
                # The tiny ridge keeps the system solvable when the points say nothing.
                ridge = 1e-12 * (1 + np.trace(normal)) * np.eye(6)
                step: Float64 = -np.linalg.solve(normal + ridge, gradient)
                T_prev_cur = np.matmul(T_prev_cur, rigid.exp(step))
                if float(step @ normal @ step) < _MIN_STEP**2 * len(weights):
                    break
        return rigid.nearest_rigid(T_prev_cur)

    def covariance(self, T_prev_cur: Float64, inliers: Mask) -> Float64:
        """Return the covariance of the motion, (6, 6): x, y, z, rotation about x, y, z."""
        along, across, jacobian = self._whitened(T_prev_cur, with_jacobian=True)
        weights = inliers.astype(np.float64)
        normal, _ = _normal_equations(along, across, jacobian, weights)
        num_inliers = max(float(weights.sum()), 1.0)
        squared = np.minimum(along * along + across * across, _CHI2)
        variance = max(1.0, float(squared @ weights) / (2 * num_inliers))
        # Both flow directions see the same points, hence the factor 2.
        factor = 2 * self._config.correlation * variance
        covariance = np.linalg.pinv(normal, hermitian=True) * factor
        step = T_prev_cur[:3, :3].T @ T_prev_cur[:3, 3]
        covariance[:3, :3] += self._config.step_scale_sigma**2 * np.outer(step, step)
        symmetric: Float64 = (covariance + covariance.T) / 2
        return symmetric

    def _whitened(
        self, T_prev_cur: Float64, *, with_jacobian: bool
    ) -> tuple[Float64, Float64, Float64]:
        """Residuals along and across the epipolar line, (N,) each, and their Jacobian (6, 2, N).

        The Jacobian is by a twist on the right: ``T_prev_cur @ exp(twist)``.
        """
        split = len(self._halves[0].xyz)
        along, across = np.empty((2, len(self._sigma)))
        jacobian = np.empty((6, 2, len(self._sigma) if with_jacobian else 0))
        for is_inverse, part in ((False, slice(0, split)), (True, slice(split, None))):
            T_b_a = rigid.invert(T_prev_cur) if is_inverse else T_prev_cur
            points = self._halves[is_inverse]
            sigma = self._sigma[part]
            rotation, step = T_b_a[:3, :3], T_b_a[:3, 3]
            turned = rotation @ points.xyz.T
            moved = turned + step[:, None]
            is_behind = moved[2] < MIN_DEPTH
            inverse_z = 1 / np.where(is_behind, MIN_DEPTH, moved[2])
            x, y = moved[0] * inverse_z, moved[1] * inverse_z
            fx, fy = self._intrinsics.fx, self._intrinsics.fy
            target_u, target_v = points.target.T
            error_u = fx * x + (self._intrinsics.cx - target_u)
            error_v = fy * y + (self._intrinsics.cy - target_v)
            # How the projection moves when the point's depth grows: the epipolar direction.
            line_u = fx * (turned[0] - x * turned[2]) * inverse_z
            line_v = fy * (turned[1] - y * turned[2]) * inverse_z
            parallax = np.hypot(line_u, line_v)
            has_line = parallax > 1e-9
            inverse_parallax = 1 / np.where(has_line, parallax, 1.0)
            line_u = np.where(has_line, line_u * inverse_parallax, 1.0)
            line_v = np.where(has_line, line_v * inverse_parallax, 0.0)
            weight_along = 1 / np.hypot(sigma, self._config.depth_sigma * parallax)
            weight_across = 1 / sigma
            along[part] = (line_u * error_u + line_v * error_v) * weight_along
            across[part] = (line_u * error_v - line_v * error_u) * weight_across
            along[part][is_behind] = _FAR_OFF
            if not with_jacobian:
                continue
            # Gradient of both residuals by the moved point: rows of the projection's Jacobian
            # (fx, 0, -fx x; 0, fy, -fy y) / z, combined as above.
            by_point = np.empty((3, 2, len(sigma)))
            by_point[0, 0] = line_u * (fx * inverse_z * weight_along)
            by_point[1, 0] = line_v * (fy * inverse_z * weight_along)
            by_point[0, 1] = line_v * (-fx * inverse_z * weight_across)
            by_point[1, 1] = line_u * (fy * inverse_z * weight_across)
            by_point[2] = -x * by_point[0] - y * by_point[1]
            if is_inverse:
                by_point, lever = -by_point, moved
            else:
                by_point = np.tensordot(rotation, by_point, axes=(0, 0))
                lever = points.xyz.T
            jacobian[:3, :, part] = by_point
            # d(point)/d(rotation) = -[point]x, and g . (-[p]x) = p x g.
            for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                jacobian[3 + i, :, part] = lever[j] * by_point[k] - lever[k] * by_point[j]
        return along, across, jacobian


def _normal_equations(
    along: Float64, across: Float64, jacobian: Float64, weights: Float64
) -> tuple[Float64, Float64]:
    flat = jacobian.reshape(6, -1)
    weighted = (jacobian * weights).reshape(6, -1)
    normal: Float64 = weighted @ flat.T
    gradient: Float64 = weighted @ np.concatenate([along, across])
    return normal, gradient


def _correspondences(
    pair: FramePair, config: EgomotionConfig, is_consistent_cur: Mask | None
) -> tuple[_Points, _Points, int]:
    """Sample both frames on the grid; also return the number of grid points of both."""
    limits = (config.consistency_px, config.consistency_relative)
    if is_consistent_cur is None:
        is_consistent_cur = is_consistent(pair.flow_cur_prev, pair.flow_prev_cur, *limits)
    is_consistent_prev = is_consistent(pair.flow_prev_cur, pair.flow_cur_prev, *limits)
    cur = _sample(pair.depth_cur, pair.flow_cur_prev, is_consistent_cur, pair.intrinsics, config)
    prev = _sample(pair.depth_prev, pair.flow_prev_cur, is_consistent_prev, pair.intrinsics, config)
    height, width = pair.depth_cur.shape
    rows, columns = _grid(height, width, config.grid_step_px)
    return cur, prev, 2 * len(rows) * len(columns)


def _grid(height: int, width: int, step: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    return np.arange(step // 2, height, step), np.arange(step // 2, width, step)


def _sample(
    depth: Float32, flow: Float32, is_good: Mask, intrinsics: Intrinsics, config: EgomotionConfig
) -> _Points:
    height, width = depth.shape
    rows, columns = _grid(height, width, config.grid_step_px)
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
    return _Points(np.stack([x, y, z], axis=1), pixels + vectors, vectors)


def _textured_fraction(gray: npt.NDArray[np.uint8], config: EgomotionConfig) -> float:
    # Scharr's kernels sum to 32 on the unit ramp.
    dx = cv2.Scharr(gray, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(gray, cv2.CV_32F, 0, 1, scale=1 / 32)
    return float(np.mean(cv2.magnitude(dx, dy) > config.min_gradient))


def _pnp_ransac(points: _Points, intrinsics: Intrinsics, config: EgomotionConfig) -> Float64 | None:
    """Motion from the current frame's points alone, or None when RANSAC finds none."""
    if config.ransac_iterations <= 0 or len(points.xyz) < 8:
        return None
    try:
        # OpenCV seeds its generator anew in every call: same input, same answer.
        found, rotation, translation, _ = cv2.solvePnPRansac(
            points.xyz,
            points.target,
            intrinsics.matrix(),
            np.zeros(0),
            iterationsCount=config.ransac_iterations,
            reprojectionError=config.ransac_error_px,
            confidence=0.999,
            flags=cv2.SOLVEPNP_SQPNP,
        )
    except cv2.error:
        # Degenerate points (all in one place): the other hypotheses remain.
        return None
    if not found:
        return None
    result = np.eye(4)
    result[:3, :3] = cv2.Rodrigues(rotation)[0]
    result[:3, 3] = translation.ravel()
    return result if np.all(np.isfinite(result)) else None


def _refusal(
    T_prev_cur: Float64, inlier_fraction: float, median_depth: float, config: EgomotionConfig
) -> str:
    """Return why a motion is not believed, empty when it is."""
    if not np.all(np.isfinite(T_prev_cur)):
        return "the motion is not finite"
    if inlier_fraction < config.min_inlier_fraction:
        return f"only {inlier_fraction:.0%} of the points agree on one motion"
    angle = rigid.rotation_angle(T_prev_cur)
    if angle > config.max_rotation_rad:
        return f"the rotation of {angle:.2f} rad between two frames is not plausible"
    parallax = float(np.linalg.norm(T_prev_cur[:3, 3])) / median_depth
    if parallax > config.max_parallax:
        return f"a step of {parallax:.0%} of the median depth is not plausible"
    return ""


def _lost(reason: str, num_points: int, inlier_fraction: float) -> Egomotion:
    return Egomotion(None, np.eye(6) * LOST_VARIANCE, "none", reason, num_points, inlier_fraction)
