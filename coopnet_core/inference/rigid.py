"""Rigid motions as float64 4x4 matrices; ``T_a_b`` maps points of frame b into frame a."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def skew(vector: Float64) -> Float64:
    """Return [v]x, shape (..., 3, 3), with ``[v]x @ w == cross(v, w)``."""
    zero = np.zeros_like(vector[..., 0])
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, axis=-1).reshape(*vector.shape[:-1], 3, 3)


def exp(twist: Float64) -> Float64:
    """Return the motion of a small twist, (6,): translation, then axis-angle in radians."""
    result = np.eye(4)
    result[:3, :3] = cv2.Rodrigues(np.asarray(twist[3:], np.float64))[0]
    result[:3, 3] = twist[:3]
    return result


def invert(transform: Float64) -> Float64:
    """Return ``T_b_a`` of ``T_a_b``."""
    result = np.eye(4)
    result[:3, :3] = transform[:3, :3].T
    result[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return result


def nearest_rigid(matrix: npt.ArrayLike) -> Float64:
    """Return the rigid motion nearest to a (4, 4) matrix that is one up to rounding."""
    matrix = np.asarray(matrix, np.float64)
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    result = np.eye(4)
    result[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    result[:3, 3] = matrix[:3, 3]
    return result


def rotation_angle(transform: Float64) -> float:
    """Return the angle of the rotation in radians."""
    return float(np.linalg.norm(cv2.Rodrigues(transform[:3, :3])[0]))
