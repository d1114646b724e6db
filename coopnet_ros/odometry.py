"""Odometry of the base from the camera motion of one frame after the other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, Transform, TransformStamped
from nav_msgs.msg import Odometry, Path
from std_msgs.msg import Header

from coopnet_core.inference import rigid
from coopnet_core.inference.pipeline import FrameResult, Tracking
from coopnet_core.inference.pose_covariance import PoseCovariance
from coopnet_ros import frames

Matrix = npt.NDArray[np.float64]

# The base is where the first frame puts it by definition; EKFs refuse a variance of zero.
_START_VARIANCE = 1e-9


@dataclass(frozen=True)
class BaseState:
    """Where the base is and how it moves.

    Attributes:
        T_odom_base: (4, 4), held while tracking is lost.
        pose_covariance: (6, 6) along the axes of odom.
        twist: (6,) in the base frame, m/s and rad/s; zeros where unknown.
        twist_covariance: (6, 6) along the axes of base.
    """

    T_odom_base: Matrix
    pose_covariance: Matrix
    twist: Matrix
    twist_covariance: Matrix


class BaseOdometry:
    """Turns the camera's pose and steps into those of the base, with covariance.

    Steps have a part of their errors in common, so that the uncertainty of the pose grows with the
    distance rather than with its root.

    A step that could not be estimated holds the pose, is published with covariance 9999, and later
    shows as an uncertainty of the distance that the last known speed covers in the time.

    Args:
        T_base_cam: (4, 4), the mounting, from optical axes to the base.
    """

    def __init__(self, T_base_cam: Matrix) -> None:
        self._T_base_cam = T_base_cam
        self.restart()

    def restart(self) -> None:
        """Take the base's pose as exactly known from here on: it is back at the origin of odom."""
        # Along the axes of base: this is what composes step by step.
        self._covariance = PoseCovariance(np.eye(6) * _START_VARIANCE)
        self._twist = np.zeros(6)

    def step(self, result: FrameResult, dt_s: float) -> BaseState:
        """Take the camera's motion since the previous frame.

        Args:
            result: Of the frame.
            dt_s: Time since the previous frame; 0 for the first one.

        Returns:
            The state to publish for this frame.
        """
        T_odom_base = frames.in_base_frame(result.T_odom_cam, self._T_base_cam)
        R_odom_base = T_odom_base[:3, :3]
        if result.T_prev_cur is None or dt_s <= 0:
            reach = self._twist * max(dt_s, 0.0)
            self._covariance.add_random(
                np.kron(np.diag([reach[:3] @ reach[:3], reach[3:] @ reach[3:]]), np.eye(3))
            )
            unknown = frames.unknown_covariance()
            is_lost = result.tracking is Tracking.LOST
            known = frames.in_parent_axes(self._covariance.matrix, R_odom_base)
            return BaseState(T_odom_base, unknown if is_lost else known, np.zeros(6), unknown)
        step = frames.in_base_frame(result.T_prev_cur, self._T_base_cam)
        step_covariance = frames.moved_covariance(result.pose_covariance, self._T_base_cam)
        shared = rigid.adjoint(self._T_base_cam) @ result.shared_errors
        self._covariance.add_step(step, step_covariance, shared)
        self._twist = frames.twist_from_step(step, dt_s)
        return BaseState(
            T_odom_base,
            frames.in_parent_axes(self._covariance.matrix, R_odom_base),
            self._twist,
            step_covariance / dt_s**2,
        )


class PathHistory:
    """The last poses, as a Path message.

    Args:
        length: How many poses are kept.
    """

    def __init__(self, length: int) -> None:
        self._poses: deque[PoseStamped] = deque(maxlen=length)

    def clear(self) -> None:
        """Forget every pose."""
        self._poses.clear()

    def append(self, header: Header, T_odom_base: Matrix) -> None:
        """Add a pose; ``header`` is that of odometry."""
        self._poses.append(PoseStamped(header=header, pose=pose_message(T_odom_base)))

    def message(self, header: Header) -> Path:
        """Return the path up to now."""
        return Path(header=header, poses=list(self._poses))


def odometry_message(state: BaseState, stamp: Time, odom_frame: str, base_frame: str) -> Odometry:
    """Return the Odometry message of a state: pose in odom, twist in base."""
    msg = Odometry(header=Header(stamp=stamp, frame_id=odom_frame), child_frame_id=base_frame)
    msg.pose.pose = pose_message(state.T_odom_base)
    msg.pose.covariance = state.pose_covariance.ravel()
    linear, angular = msg.twist.twist.linear, msg.twist.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, state.twist)
    msg.twist.covariance = state.twist_covariance.ravel()
    return msg


def pose_message(T_a_b: Matrix) -> Pose:
    """Return a rigid transform as a Pose message."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = map(float, T_a_b[:3, 3])
    q = pose.orientation
    q.x, q.y, q.z, q.w = rigid.quaternion_from_rotation(T_a_b[:3, :3])
    return pose


def transform_message(
    T_parent_child: Matrix, stamp: Time, parent_frame: str, child_frame: str
) -> TransformStamped:
    """Return a rigid transform as the TransformStamped that TF takes."""
    msg = TransformStamped(
        header=Header(stamp=stamp, frame_id=parent_frame), child_frame_id=child_frame
    )
    translation, q = msg.transform.translation, msg.transform.rotation
    translation.x, translation.y, translation.z = map(float, T_parent_child[:3, 3])
    q.x, q.y, q.z, q.w = rigid.quaternion_from_rotation(T_parent_child[:3, :3])
    return msg


def matrix_from_transform(transform: Transform) -> Matrix:
    """Return a Transform message as a (4, 4) matrix.

    Raises:
        InputError: The quaternion is zero.
    """
    q, t = transform.rotation, transform.translation
    matrix = np.eye(4)
    matrix[:3, :3] = rigid.rotation_from_quaternion(q.x, q.y, q.z, q.w)
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix
