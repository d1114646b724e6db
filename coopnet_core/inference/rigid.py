"""Rigid motions as float64 4x4 matrices; ``T_a_b`` maps points of frame b into frame a."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import InputError

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


def log(transform: Float64) -> Float64:
    """Return the twist, (6,), that :func:`exp` takes back."""
    return np.concatenate([transform[:3, 3], cv2.Rodrigues(transform[:3, :3])[0].ravel()])


def invert(transform: Float64) -> Float64:
    """Return ``T_b_a`` of ``T_a_b``."""
    result = np.eye(4)
    result[:3, :3] = transform[:3, :3].T
    result[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return result


def adjoint(T_a_b: Float64) -> Float64:
    """Return the (6, 6) matrix that turns a twist of frame b into the same one of frame a."""
    rotation = T_a_b[:3, :3]
    result = np.zeros((6, 6))
    result[:3, :3] = result[3:, 3:] = rotation
    x, y, z = T_a_b[:3, 3]
    result[:3, 3:] = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    return result


def nearest_rigid(matrix: npt.ArrayLike) -> Float64:
    """Return the rigid motion nearest to a (4, 4) matrix that is one up to rounding."""
    matrix = np.asarray(matrix, np.float64)
    _, u, vt = cv2.SVDecomp(matrix[:3, :3])
    result = np.eye(4)
    rotation = u @ vt
    if cv2.determinant(rotation) < 0:
        rotation = u @ np.diag([1.0, 1.0, -1.0]) @ vt
    result[:3, :3] = rotation
    result[:3, 3] = matrix[:3, 3]
    return result


def rotation_angle(transform: Float64) -> float:
    """Return the angle of the rotation in radians."""
    return float(np.linalg.norm(cv2.Rodrigues(transform[:3, :3])[0]))


def quaternion_from_rotation(R: Float64) -> tuple[float, float, float, float]:
    """Return (x, y, z, w), w >= 0, of a rotation matrix (3, 3)."""
    # Shepperd's method: the largest of the four is computed first, so nothing cancels.
    trace = float(np.trace(R))
    squares = np.array([*(2 * np.diag(R) - trace), trace])
    largest = int(np.argmax(squares))
    q = np.empty(4)
    if largest == 3:
        q[:3] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
        q[3] = 1.0 + trace
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i] = 1.0 + squares[i]
        q[j], q[k] = R[j, i] + R[i, j], R[k, i] + R[i, k]
        q[3] = R[k, j] - R[j, k]
    q /= np.linalg.norm(q) * (1.0 if q[3] >= 0 else -1.0)
    x, y, z, w = (float(value) for value in q)
    return x, y, z, w


def rotation_from_quaternion(x: float, y: float, z: float, w: float) -> Float64:
    """Return the rotation matrix (3, 3) of a quaternion.

    Raises:
        InputError: All four are (nearly) zero, as in a message that nobody filled.
    """
    norm = float(np.sqrt(x * x + y * y + z * z + w * w))
    if not norm > 1e-6:
        raise InputError(
            f"quaternion ({x}, {y}, {z}, {w}) is no rotation: the transform was not filled"
        )
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
