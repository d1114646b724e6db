"""The motion that best explains where points went: residuals, refinement, covariance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.correspondences import Points
from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.projection import MIN_DEPTH, Mask

Float64 = npt.NDArray[np.float64]

CHI2 = 9.0
"""Squared residual, in standard deviations, up to which a point agrees (2 d.o.f.: 99 %)."""

_FAR_OFF = 1e6
"""Residual of a point behind the camera."""

_LENGTH_ITERATIONS = 4

_MIN_STEP = 1e-2
"""Gauss-Newton stops when an iteration moves every point by less, in standard deviations."""


class _Residuals(NamedTuple):
    """Where a motion puts the points, and how far that is from where flow says, N points.

    ``along`` and ``across`` the epipolar line are in standard deviations, (N,) each; their
    gradients are by the moved point, (3, N) each. ``turned`` are the points in the other frame's
    axes, ``moved`` in its camera, (3, N) each.
    """

    along: Float64
    across: Float64
    along_by_point: Float64
    across_by_point: Float64
    turned: Float64
    moved: Float64

    @property
    def squared(self) -> Float64:
        """Squared distance, (N,); huge behind the camera."""
        return self.along * self.along + self.across * self.across


class MotionProblem:
    """Residuals of a motion on the points of both frames, in standard deviations.

    Args:
        cur: Points of the current frame, with their targets in the previous one.
        prev: Points of the previous frame, with their targets in the current one.
        intrinsics: Camera of both.
        config: Tolerances.
    """

    def __init__(
        self, cur: Points, prev: Points, intrinsics: Intrinsics, config: EgomotionConfig
    ) -> None:
        self._split = len(cur.xyz)
        self._xyz = np.concatenate([cur.xyz, prev.xyz]).T.copy()
        self._target = np.concatenate([cur.target, prev.target]).T.copy()
        self._intrinsics = intrinsics
        self._config = config
        is_polished = np.concatenate([cur.is_polished, prev.is_polished])
        lengths: Float64 = np.linalg.norm(np.concatenate([cur.flow, prev.flow]), axis=1)
        self._loose_sigma = config.flow_sigma_px + config.flow_sigma_relative * lengths
        self._tight_sigma = np.where(
            is_polished,
            config.polished_sigma_px + config.polished_sigma_relative * lengths,
            self._loose_sigma,
        )
        self.median_depth = float(np.median(self._xyz[2]))

    def agrees(self, T_prev_cur: Float64) -> Mask:
        """Tell which points agree with a motion, (N,) bool."""
        return self._loose_squared(T_prev_cur) < CHI2

    def cost(self, T_prev_cur: Float64) -> float:
        """Return the mean of the squared residuals, each cut off where a point disagrees."""
        return float(np.minimum(self._loose_squared(T_prev_cur), CHI2).mean())

    def displacements(self, T_prev_cur: Float64) -> Float64:
        """Return how far a motion moves each point in the image, (N,), pixels."""
        focal = np.array([[self._intrinsics.fx], [self._intrinsics.fy]])
        _, moved = self._moved(T_prev_cur)
        before, after = (p[:2] / np.maximum(p[2], MIN_DEPTH) for p in (self._xyz, moved))
        lengths: Float64 = np.linalg.norm((after - before) * focal, axis=0)
        return lengths

    def refine(self, T_prev_cur: Float64) -> Float64:
        """Minimise Tukey's biweight cost, first with a wide tolerance, then with a narrow one.

        Args:
            T_prev_cur: (4, 4) to start from.

        Returns:
            Rotation and direction from what depth cannot bend, the length of the step from depth.
        """
        config = self._config
        for widening, iterations in ((16.0, 2), (4.0, 2), (1.0, config.refine_iterations)):
            for _ in range(iterations):
                residuals = self._residuals(T_prev_cur, self._tight_sigma, config.depth_bend_sigma)
                weights = _robust_weights(residuals, widening)
                normal, gradient = self._normal_equations(T_prev_cur, residuals, weights)
                # The tiny ridge keeps the system solvable when the points say nothing.
                ridge = 1e-12 * (1 + np.trace(normal)) * np.eye(6)
                step: Float64 = -np.linalg.solve(normal + ridge, gradient)
                T_prev_cur = np.matmul(T_prev_cur, rigid.exp(step))
                if float(step @ normal @ step) < _MIN_STEP**2 * len(weights):
                    break
        return self._with_length_of_depth(rigid.nearest_rigid(T_prev_cur))

    def _with_length_of_depth(self, T_prev_cur: Float64) -> Float64:
        """Find the length that most points agree on, with rotation and direction fixed."""
        config = self._config
        T_prev_cur = T_prev_cur.copy()
        for sigma in (config.depth_sigma, config.depth_length_sigma):
            for _ in range(_LENGTH_ITERATIONS):
                residuals = self._residuals(T_prev_cur, self._tight_sigma, sigma)
                weights = _robust_weights(residuals, 1.0)
                # A longer step moves each point by its own translation.
                steps = residuals.moved - residuals.turned
                by_growth = (residuals.along_by_point * steps).sum(axis=0)
                curvature = float(weights @ (by_growth * by_growth))
                growth = -float(weights @ (by_growth * residuals.along)) / (curvature + 1e-12)
                T_prev_cur[:3, 3] *= 1 + float(np.clip(growth, -0.5, 1.0))
                if abs(growth) < 1e-3:
                    break
        return T_prev_cur

    def covariance(self, T_prev_cur: Float64, inliers: Mask) -> Float64:
        """Return the covariance of a motion.

        Args:
            T_prev_cur: (4, 4).
            inliers: (N,) bool, the points that it rests on.

        Returns:
            (6, 6): x, y, z, rotation about x, y, z, seen from the current camera.
        """
        config = self._config
        bent = self._covariance(T_prev_cur, inliers, config.depth_sigma)
        free = self._covariance(T_prev_cur, inliers, config.depth_bend_sigma)
        step = T_prev_cur[:3, :3].T @ T_prev_cur[:3, 3]
        length = float(np.linalg.norm(step))
        if length > 0:
            # Along the step the length counts, whose error is that of the scale of depth.
            direction = np.concatenate([step / length, np.zeros(3)])
            from_depth = direction @ bent @ direction + (config.step_scale_sigma * length) ** 2
            variance = min(float(from_depth), float(direction @ free @ direction))
            others = np.eye(6) - np.outer(direction, direction)
            along = variance * np.outer(direction, direction)
            free = np.matmul(np.matmul(others, free), others) + along
        symmetric: Float64 = (free + free.T) / 2
        return symmetric

    def _covariance(self, T_prev_cur: Float64, inliers: Mask, depth_sigma: float) -> Float64:
        residuals = self._residuals(T_prev_cur, self._tight_sigma, depth_sigma)
        weights = inliers.astype(np.float64)
        normal, _ = self._normal_equations(T_prev_cur, residuals, weights)
        squared = np.minimum(residuals.squared, CHI2)
        variance = max(1.0, float(squared @ weights) / (2 * max(float(weights.sum()), 1.0)))
        # Both flow directions see the same points, hence the factor 2.
        factor = 2 * self._config.correlation * variance
        inverse: Float64 = np.asarray(np.linalg.pinv(normal, hermitian=True), np.float64)
        return inverse * factor

    def _loose_squared(self, T_prev_cur: Float64) -> Float64:
        """Return squared residuals for judging a motion, (N,); huge behind the camera."""
        return self._residuals(T_prev_cur, self._loose_sigma, self._config.depth_sigma).squared

    def _residuals(
        self, T_prev_cur: Float64, flow_sigma: Float64, depth_sigma: float
    ) -> _Residuals:
        camera = self._intrinsics
        turned, moved = self._moved(T_prev_cur)
        is_behind = moved[2] < MIN_DEPTH
        inverse_z = 1 / np.where(is_behind, MIN_DEPTH, moved[2])
        x, y = moved[0] * inverse_z, moved[1] * inverse_z
        error_u = camera.fx * x + camera.cx - self._target[0]
        error_v = camera.fy * y + camera.cy - self._target[1]
        # How the projection moves when the point's depth grows: the epipolar direction.
        line_u = camera.fx * (turned[0] - x * turned[2]) * inverse_z
        line_v = camera.fy * (turned[1] - y * turned[2]) * inverse_z
        parallax = np.sqrt(line_u * line_u + line_v * line_v)
        has_line = parallax > 1e-9
        inverse_parallax = 1 / np.where(has_line, parallax, 1.0)
        line_u = np.where(has_line, line_u * inverse_parallax, 1.0)
        line_v = np.where(has_line, line_v * inverse_parallax, 0.0)
        weight_along = 1 / np.sqrt(flow_sigma * flow_sigma + (depth_sigma * parallax) ** 2)
        along = (line_u * error_u + line_v * error_v) * weight_along
        along[is_behind] = _FAR_OFF
        across = (line_u * error_v - line_v * error_u) / flow_sigma

        # Gradient by the moved point: rows of the projection's Jacobian
        # (fx, 0, -fx x; 0, fy, -fy y) / z, combined as above.
        def by_point(towards_u: Float64, towards_v: Float64, weight: Float64) -> Float64:
            by_x = towards_u * (weight * inverse_z * camera.fx)
            by_y = towards_v * (weight * inverse_z * camera.fy)
            return np.stack([by_x, by_y, -x * by_x - y * by_y])

        return _Residuals(
            along=along,
            across=across,
            along_by_point=by_point(line_u, line_v, weight_along),
            across_by_point=by_point(-line_v, line_u, 1 / flow_sigma),
            turned=turned,
            moved=moved,
        )

    def _normal_equations(
        self, T_prev_cur: Float64, residuals: _Residuals, weights: Float64
    ) -> tuple[Float64, Float64]:
        """Return ``J^T W J`` (6, 6) and ``J^T W r`` (6,) by ``T_prev_cur @ exp(twist)``."""
        split = self._split
        jacobian = np.empty((6, 2, len(weights)))
        by_point = jacobian[:3]
        # The twist turns and shifts a point of the current frame before it is moved, and one of the
        # previous frame, the other way, after it.
        back = T_prev_cur[:3, :3].T
        for row, gradient in enumerate((residuals.along_by_point, residuals.across_by_point)):
            by_point[:, row, :split] = back @ gradient[:, :split]
            by_point[:, row, split:] = -gradient[:, split:]
        lever = np.concatenate([self._xyz[:, :split], residuals.moved[:, split:]], axis=1)
        # d(point)/d(rotation) = -[point]x, and g . (-[p]x) = p x g.
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            jacobian[3 + i] = lever[j] * by_point[k] - lever[k] * by_point[j]
        flat = jacobian.reshape(6, -1)
        weighted = (jacobian * weights).reshape(6, -1)
        normal: Float64 = weighted @ flat.T
        right: Float64 = weighted @ np.concatenate([residuals.along, residuals.across])
        return normal, right

    def _moved(self, T_prev_cur: Float64) -> tuple[Float64, Float64]:
        """Return the points in the other frame's axes, and in its camera, (3, N) each."""
        turned = np.empty_like(self._xyz)
        moved = np.empty_like(self._xyz)
        halves = (slice(0, self._split), slice(self._split, None))
        for half, T_b_a in zip(halves, (T_prev_cur, rigid.invert(T_prev_cur)), strict=True):
            turned[:, half] = T_b_a[:3, :3] @ self._xyz[:, half]
            moved[:, half] = turned[:, half] + T_b_a[:3, 3:]
        return turned, moved


def _robust_weights(residuals: _Residuals, widening: float) -> Float64:
    """Tukey's biweight: a point that disagrees has no say, (N,).

    Even a small weight is too much for what lies far off, a thing that moves by itself: where the
    points hardly tell a step to the side from a turn, nothing else would hold the motion.
    """
    weights: Float64 = np.maximum(1 - residuals.squared / (CHI2 * widening), 0) ** 2
    return weights
