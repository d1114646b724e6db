"""The motion that best explains where points went: residuals, refinement, covariance."""

from __future__ import annotations

from typing import NamedTuple

import cv2
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

_FAR_OFF = 1e12
"""Squared residual of a point behind the camera."""

_LENGTH_ITERATIONS = 4

_MIN_STEP = 1e-2
"""Gauss-Newton stops when an iteration moves every point by less, in standard deviations."""


class _Placed(NamedTuple):
    """Where a motion puts the points, N of them, pixels of the other frame.

    Attributes:
        place: (2, N), where they are seen.
        error: (2, N), how far that is from where flow says.
        parallax: (2, N), derivative of ``place`` by the logarithm of depth, which points along the
            epipolar line.
        inverse_z: (N,), of their depth in the other frame.
        is_behind: (N,) bool, they are not seen at all.
    """

    place: Float64
    error: Float64
    parallax: Float64
    inverse_z: Float64
    is_behind: Mask


class _Residuals(NamedTuple):
    """Errors weighed by the inverse of ``variance I + depth_sigma^2 parallax parallax^T``, (N,).

    By Sherman and Morrison it is ``(I - parallax parallax^T / total) / variance``.

    Attributes:
        squared: Squared distance in standard deviations; huge behind the camera.
        projected: ``parallax . error``.
        squared_parallax: ``parallax . parallax``.
        total: See above.
    """

    squared: Float64
    projected: Float64
    squared_parallax: Float64
    total: Float64


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
        self._intrinsics = intrinsics
        self._config = config
        self._K = intrinsics.matrix()
        num_cur = len(cur.depth)
        self._halves = (slice(0, num_cur), slice(num_cur, None))
        flow = np.concatenate([cur.flow, prev.flow]).T.copy()
        pixel = np.concatenate([cur.pixel, prev.pixel]).T
        depth = np.concatenate([cur.depth, prev.depth])
        self._flow = flow
        self._target = pixel + flow
        # Points are divided by their depth: rotation turns the ray, translation counts by the
        # inverse of depth.
        self._rays = np.ones((3, len(depth)))
        self._rays[0] = (pixel[0] - intrinsics.cx) / intrinsics.fx
        self._rays[1] = (pixel[1] - intrinsics.cy) / intrinsics.fy
        self._inverse_depth = 1 / depth
        self._nearest = MIN_DEPTH * self._inverse_depth
        lengths = np.sqrt(flow[0] * flow[0] + flow[1] * flow[1])
        is_polished = np.concatenate([cur.is_polished, prev.is_polished])
        loose = config.flow_sigma_px + config.flow_sigma_relative * lengths
        tight = config.polished_sigma_px + config.polished_sigma_relative * lengths
        self._loose_variance = loose * loose
        self._tight_variance = np.where(is_polished, tight * tight, self._loose_variance)
        self.median_depth = float(np.median(depth))

    def squared(self, T_prev_cur: Float64) -> Float64:
        """Return squared residuals for judging a motion, (N,); huge behind the camera."""
        placed = self._place(T_prev_cur)
        return _residuals(placed, self._loose_variance, self._config.depth_sigma).squared

    def agrees(self, T_prev_cur: Float64) -> Mask:
        """Tell which points agree with a motion, (N,) bool."""
        return self.squared(T_prev_cur) < CHI2

    def displacements(self, T_prev_cur: Float64) -> Float64:
        """Return how far a motion moves each point in the image, (N,), pixels."""
        moved = self._place(T_prev_cur).error + self._flow
        lengths: Float64 = np.sqrt(moved[0] * moved[0] + moved[1] * moved[1])
        return lengths

    def refine(self, T_prev_cur: Float64) -> Float64:
        """Minimise Tukey's biweight cost, first with a wide tolerance, then with a narrow one.

        Args:
            T_prev_cur: (4, 4) to start from.

        Returns:
            Rotation and direction from what depth cannot bend, the length of the step from depth.
        """
        config = self._config
        for widening, iterations in ((16.0, 1), (4.0, 1), (1.0, config.refine_iterations)):
            for _ in range(iterations):
                placed = self._place(T_prev_cur)
                residuals = _residuals(placed, self._tight_variance, config.depth_bend_sigma)
                weights = _robust_weights(residuals, widening)
                normal, gradient = self._normal_equations(
                    T_prev_cur, placed, self._jacobian(placed), residuals, weights
                )
                # The tiny ridge keeps the system solvable when the points say nothing.
                ridge = 1e-12 * (1 + normal.trace()) * np.eye(6)
                step: Float64 = -np.linalg.solve(normal + ridge, gradient)
                T_prev_cur = np.matmul(T_prev_cur, rigid.exp(step))
                if float(step @ normal @ step) < _MIN_STEP**2 * len(weights):
                    break
        return self._with_length_of_depth(rigid.nearest_rigid(T_prev_cur))

    def _with_length_of_depth(self, T_prev_cur: Float64) -> Float64:
        """Find the length that most points agree on, with rotation and direction fixed."""
        config = self._config
        turned, shift = self._moved(T_prev_cur)
        length = 1.0
        # The length that the first one finds is only where the second one starts.
        for sigma, tolerance in ((config.depth_sigma, 1e-2), (config.depth_length_sigma, 3e-3)):
            for _ in range(_LENGTH_ITERATIONS):
                placed = self._project(turned, length * shift)
                residuals = _residuals(placed, self._tight_variance, sigma)
                # A longer step shifts a point as a smaller depth does: by minus its parallax.
                weights = _robust_weights(residuals, 1.0) / residuals.total
                curvature = float(weights @ residuals.squared_parallax)
                growth = float(weights @ residuals.projected) / (curvature + 1e-12)
                length *= 1 + min(max(growth, -0.5), 1.0)
                if abs(growth) < tolerance:
                    break
        result = T_prev_cur.copy()
        result[:3, 3] *= length
        return result

    def covariance(self, T_prev_cur: Float64, inliers: Mask) -> Float64:
        """Return the covariance of a motion as far as it is random: noise of flow and depth.

        Args:
            T_prev_cur: (4, 4).
            inliers: (N,) bool, the points that it rests on.

        Returns:
            (6, 6): x, y, z, rotation about x, y, z, seen from the current camera.
        """
        config = self._config
        placed = self._place(T_prev_cur)
        jacobian = self._jacobian(placed)
        weights = inliers.astype(np.float64)

        def at(depth_sigma: float) -> Float64:
            residuals = _residuals(placed, self._tight_variance, depth_sigma)
            normal, _ = self._normal_equations(T_prev_cur, placed, jacobian, residuals, weights)
            squared = np.minimum(residuals.squared, CHI2)
            variance = max(1.0, float(squared @ weights) / (2 * max(float(weights.sum()), 1.0)))
            # Both flow directions see the same scene, hence the factor 2.
            factor = 2 * config.correlation * variance
            # The pseudo-inverse, where the points say nothing about some direction.
            return np.asarray(cv2.invert(normal, flags=cv2.DECOMP_SVD)[1], np.float64) * factor

        bent, free = at(config.depth_sigma), at(config.depth_bend_sigma)
        step = T_prev_cur[:3, :3].T @ T_prev_cur[:3, 3]
        length = float(np.linalg.norm(step))
        if length > 0:
            # Along the step the length counts, which depth gives.
            direction = np.concatenate([step / length, np.zeros(3)])
            along = np.outer(direction, direction)
            others = np.eye(6) - along
            variance = float(direction @ bent @ direction)
            free = np.matmul(np.matmul(others, free), others) + variance * along
        symmetric: Float64 = (free + free.T) / 2
        return symmetric

    def _place(self, T_prev_cur: Float64) -> _Placed:
        """Move the points into the other frame's image."""
        return self._project(*self._moved(T_prev_cur))

    def _moved(self, T_prev_cur: Float64) -> tuple[Float64, Float64]:
        """Return how rotation and translation move points, homogeneous pixels, (3, N) each."""
        turned = np.empty((3, len(self._nearest)))
        shift = np.empty_like(turned)
        for half, T_b_a in zip(self._halves, (T_prev_cur, rigid.invert(T_prev_cur)), strict=True):
            projection = self._K @ T_b_a[:3]
            np.matmul(projection[:, :3], self._rays[:, half], out=turned[:, half])
            np.multiply(projection[:, 3:], self._inverse_depth[half], out=shift[:, half])
        return turned, shift

    def _project(self, turned: Float64, shift: Float64) -> _Placed:
        seen = turned + shift
        is_behind = seen[2] < self._nearest
        inverse = 1 / np.maximum(seen[2], self._nearest)
        place = seen[:2] * inverse
        parallax = (place * shift[2] - shift[:2]) * inverse
        return _Placed(
            place, place - self._target, parallax, inverse * self._inverse_depth, is_behind
        )

    def _jacobian(self, placed: _Placed) -> Float64:
        """Return the derivative of places by a twist of the other frame, (2, 7, N).

        The seventh column holds the errors, for ``J^T W r``.
        """
        camera = self._intrinsics
        x = (placed.place[0] - camera.cx) * (1 / camera.fx)
        y = (placed.place[1] - camera.cy) * (1 / camera.fy)
        jacobian = np.zeros((2, 7, len(x)))
        by_u, by_v = jacobian
        np.multiply(placed.inverse_z, camera.fx, out=by_u[0])
        np.multiply(placed.inverse_z, camera.fy, out=by_v[1])
        np.multiply(by_u[0], -x, out=by_u[2])
        np.multiply(by_v[1], -y, out=by_v[2])
        xy = x * y
        np.multiply(xy, -camera.fx, out=by_u[3])
        np.multiply(xy, camera.fy, out=by_v[4])
        by_u[4] = camera.fx + camera.fx * x * x
        by_v[3] = -camera.fy - camera.fy * y * y
        np.multiply(y, -camera.fx, out=by_u[5])
        np.multiply(x, camera.fy, out=by_v[5])
        jacobian[:, 6] = placed.error
        return jacobian

    def _normal_equations(
        self,
        T_prev_cur: Float64,
        placed: _Placed,
        jacobian: Float64,
        residuals: _Residuals,
        weights: Float64,
    ) -> tuple[Float64, Float64]:
        """Return ``J^T W J`` (6, 6) and ``J^T W r`` (6,) by ``T_prev_cur @ exp(twist)``."""
        by_u, by_v = jacobian
        line_u, line_v = placed.parallax
        weights = weights / self._tight_variance
        share = weights / residuals.total
        mixed = -share * line_u * line_v
        weighted_u = by_u * (weights - share * line_u * line_u) + by_v * mixed
        weighted_v = by_v * (weights - share * line_v * line_v) + by_u * mixed
        # A twist of the current frame is one of the previous frame, seen from there; the points
        # of the previous frame go the other way.
        of_cur, of_prev = (
            weighted_u[:6, half] @ by_u[:, half].T + weighted_v[:6, half] @ by_v[:, half].T
            for half in self._halves
        )
        change = rigid.adjoint(T_prev_cur)
        normal: Float64 = change.T @ of_cur[:, :6] @ change + of_prev[:, :6]
        gradient: Float64 = change.T @ of_cur[:, 6] - of_prev[:, 6]
        return normal, gradient


def _residuals(placed: _Placed, variance: Float64, depth_sigma: float) -> _Residuals:
    (error_u, error_v), (line_u, line_v) = placed.error, placed.parallax
    projected = error_u * line_u + error_v * line_v
    squared_parallax = line_u * line_u + line_v * line_v
    total = squared_parallax + variance * (1 / depth_sigma**2)
    squared = (error_u * error_u + error_v * error_v - projected * projected / total) / variance
    squared[placed.is_behind] = _FAR_OFF
    return _Residuals(squared, projected, squared_parallax, total)


def _robust_weights(residuals: _Residuals, widening: float) -> Float64:
    """Tukey's biweight: a point that disagrees has no say, (N,).

    Even a small weight is too much for what lies far off, a thing that moves by itself: where the
    points hardly tell a step to the side from a turn, nothing else would hold the motion.
    """
    weights: Float64 = np.maximum(1 - residuals.squared / (CHI2 * widening), 0) ** 2
    return weights
