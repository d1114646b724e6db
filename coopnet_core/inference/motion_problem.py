"""The motion that best explains where points went: residuals, refinement, covariance."""

from __future__ import annotations

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

_MIN_STEP = 1e-3
"""Gauss-Newton stops when an iteration moves every point by less, in standard deviations."""


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
        self._halves = (cur, prev)
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
        self.median_depth = float(np.median(np.concatenate([cur.xyz[:, 2], prev.xyz[:, 2]])))

    def agrees(self, T_prev_cur: Float64) -> Mask:
        """Tell which points agree with a motion, (N,) bool."""
        return self._loose_squared(T_prev_cur) < CHI2

    def cost(self, T_prev_cur: Float64) -> float:
        """Return the mean of the squared residuals, each cut off where a point disagrees."""
        return float(np.minimum(self._loose_squared(T_prev_cur), CHI2).mean())

    def displacements(self, T_prev_cur: Float64) -> Float64:
        """Return how far a motion moves each point in the image, (N,), pixels."""
        lengths = []
        for T_b_a, points in zip((T_prev_cur, rigid.invert(T_prev_cur)), self._halves, strict=True):
            moved = points.xyz @ T_b_a[:3, :3].T + T_b_a[:3, 3]
            before, after = (
                p[:, :2] / np.maximum(p[:, 2:], MIN_DEPTH) for p in (points.xyz, moved)
            )
            focal = (self._intrinsics.fx, self._intrinsics.fy)
            lengths.append(np.linalg.norm((after - before) * focal, axis=1))
        return np.concatenate(lengths)

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
                along, across, jacobian = self._whitened(
                    T_prev_cur, self._tight_sigma, config.depth_bend_sigma, with_jacobian=True
                )
                weights = _robust_weights(along, across, widening)
                normal, gradient = _normal_equations(along, across, jacobian, weights)
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
                along, across, jacobian = self._whitened(
                    T_prev_cur, self._tight_sigma, sigma, with_jacobian=True
                )
                weights = _robust_weights(along, across, 1.0)
                step = T_prev_cur[:3, :3].T @ T_prev_cur[:3, 3]
                by_growth = step @ jacobian[:3, 0]
                curvature = float(weights @ (by_growth * by_growth))
                growth = -float(weights @ (by_growth * along)) / (curvature + 1e-12)
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
        along, across, jacobian = self._whitened(
            T_prev_cur, self._tight_sigma, depth_sigma, with_jacobian=True
        )
        weights = inliers.astype(np.float64)
        normal, _ = _normal_equations(along, across, jacobian, weights)
        squared = np.minimum(along * along + across * across, CHI2)
        variance = max(1.0, float(squared @ weights) / (2 * max(float(weights.sum()), 1.0)))
        # Both flow directions see the same points, hence the factor 2.
        factor = 2 * self._config.correlation * variance
        inverse: Float64 = np.asarray(np.linalg.pinv(normal, hermitian=True), np.float64)
        return inverse * factor

    def _loose_squared(self, T_prev_cur: Float64) -> Float64:
        """Return squared residuals for judging a motion, (N,); huge behind the camera."""
        along, across, _ = self._whitened(T_prev_cur, self._loose_sigma, self._config.depth_sigma)
        return along * along + across * across

    def _whitened(
        self,
        T_prev_cur: Float64,
        flow_sigma: Float64,
        depth_sigma: float,
        *,
        with_jacobian: bool = False,
    ) -> tuple[Float64, Float64, Float64]:
        """Residuals along and across the epipolar line, (N,) each, and their Jacobian (6, 2, N).

        The Jacobian is by a twist on the right: ``T_prev_cur @ exp(twist)``.
        """
        split = len(self._halves[0].xyz)
        along, across = np.empty((2, len(flow_sigma)))
        jacobian = np.empty((6, 2, len(flow_sigma) if with_jacobian else 0))
        for is_inverse, part in ((False, slice(0, split)), (True, slice(split, None))):
            T_b_a = rigid.invert(T_prev_cur) if is_inverse else T_prev_cur
            points = self._halves[is_inverse]
            sigma = flow_sigma[part]
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
            weight_along = 1 / np.hypot(sigma, depth_sigma * parallax)
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
                by_point = (rotation.T @ by_point.reshape(3, -1)).reshape(by_point.shape)
                lever = points.xyz.T
            jacobian[:3, :, part] = by_point
            # d(point)/d(rotation) = -[point]x, and g . (-[p]x) = p x g.
            for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                jacobian[3 + i, :, part] = lever[j] * by_point[k] - lever[k] * by_point[j]
        return along, across, jacobian


def _robust_weights(along: Float64, across: Float64, widening: float) -> Float64:
    """Tukey's biweight: a point that disagrees has no say, (N,).

    Even a small weight is too much for what lies far off, a thing that moves by itself: where the
    points hardly tell a step to the side from a turn, nothing else would hold the motion.
    """
    squared = along * along + across * across
    weights: Float64 = np.maximum(1 - squared / (CHI2 * widening), 0) ** 2
    return weights


def _normal_equations(
    along: Float64, across: Float64, jacobian: Float64, weights: Float64
) -> tuple[Float64, Float64]:
    flat = jacobian.reshape(6, -1)
    weighted = (jacobian * weights).reshape(6, -1)
    normal: Float64 = weighted @ flat.T
    gradient: Float64 = weighted @ np.concatenate([along, across])
    return normal, gradient
