"""Camera motion to base motion: axes, extrinsics, twist and covariance (no ROS in here).

The pipeline speaks of the camera in optical axes (x right, y down, z forward); ROS wants the base
in FLU axes (x forward, y left, z up). Transforms follow ``T_a_b``: ``p_a = T_a_b @ p_b``. Vectors
and covariances of six are ordered translation first: x, y, z, rotation about x, y, z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import ConfigError, InputError
from coopnet_core.inference import rigid
from coopnet_core.inference.egomotion import LOST_VARIANCE

Matrix = npt.NDArray[np.float64]

# Columns are the optical axes in FLU: right = -y, down = -z, forward = x (REP 103).
R_FLU_OPTICAL: Matrix = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def base_from_camera(xyz_rpy: Sequence[float]) -> Matrix:
    """Return ``T_base_cam`` for a camera whose mounting is given in FLU axes.

    Args:
        xyz_rpy: Position [m] of the camera in the base frame, then roll, pitch, yaw [rad] of its
            body (x where it looks, y left, z up), as in URDF: R = Rz(yaw) Ry(pitch) Rx(roll).

    Returns:
        (4, 4), from optical axes to the base.

    Raises:
        ConfigError: Not six finite numbers.
    """
    values = np.asarray(xyz_rpy, np.float64)
    if values.shape != (6,) or not np.isfinite(values).all():
        raise ConfigError(
            "the camera's mounting must be six finite numbers x, y, z [m], roll, pitch, yaw [rad], "
            f"got {list(xyz_rpy)}"
        )
    roll, pitch, yaw = values[3:]
    (sr, sp, sy), (cr, cp, cy) = np.sin([roll, pitch, yaw]), np.cos([roll, pitch, yaw])
    R_base_body = np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3] = R_base_body @ R_FLU_OPTICAL
    T_base_cam[:3, 3] = values[:3]
    return T_base_cam


def in_base_frame(T_cam: Matrix, T_base_cam: Matrix) -> Matrix:
    """Turn a motion of the camera into the same motion of the base it is mounted on.

    It serves a step (``T_prev_cur``) and a pose relative to the start (``T_odom_cam``) alike.

    Args:
        T_cam: (4, 4) in optical axes.
        T_base_cam: (4, 4), the mounting.

    Returns:
        (4, 4) in FLU axes of the base.
    """
    return T_base_cam @ T_cam @ rigid.invert(T_base_cam)


def twist_from_step(T_prev_cur: Matrix, dt_s: float) -> npt.NDArray[np.float64]:
    """Return the constant twist that makes a step, seen from the moving (child) frame.

    Args:
        T_prev_cur: (4, 4), pose of the current frame in the previous one.
        dt_s: Duration of the step, positive.

    Returns:
        (6,): velocity [m/s] along and angular velocity [rad/s] about the axes of the child frame.

    Raises:
        InputError: ``dt_s`` is not positive.
    """
    if not dt_s > 0:
        raise InputError(f"a twist needs a positive time step, got {dt_s} s: check the stamps")
    # Through the quaternion: cv2.Rodrigues returns zero for angles below 1e-5.
    x, y, z, w = rigid.quaternion_from_rotation(T_prev_cur[:3, :3])
    half_sine = float(np.linalg.norm([x, y, z]))
    angle = 2.0 * float(np.arctan2(half_sine, w))
    rotation = np.array([x, y, z]) * (angle / half_sine if half_sine > 0 else 2.0)
    translation = T_prev_cur[:3, 3]
    skew = rigid.skew(rotation)
    # Inverse of the left Jacobian of SO(3): a curved path is longer than its chord.
    if angle < 1e-4:
        factor = 1.0 / 12.0
    else:
        factor = (1.0 - 0.5 * angle / np.tan(0.5 * angle)) / angle**2
    velocity = translation - 0.5 * skew @ translation + factor * skew @ skew @ translation
    return np.concatenate([velocity, rotation]) / dt_s


def moved_covariance(covariance: Matrix, T_a_b: Matrix) -> Matrix:
    """Return the covariance (6, 6) of a small motion known in frame b, seen from frame a."""
    A = rigid.adjoint(T_a_b)
    return A @ covariance @ A.T


def in_parent_axes(covariance: Matrix, R_parent_child: Matrix) -> Matrix:
    """Return a pose covariance (6, 6) along the child's axes as one along the parent's axes.

    ``nav_msgs/Odometry`` gives the pose in the parent frame, so its covariance is along the
    parent's axes, about the child's origin.
    """
    rotation = np.kron(np.eye(2), R_parent_child)
    return rotation @ covariance @ rotation.T


def unknown_covariance() -> Matrix:
    """Return the (6, 6) covariance of something unknown."""
    return np.eye(6) * LOST_VARIANCE
