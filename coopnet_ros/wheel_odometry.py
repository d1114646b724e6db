"""Wheel odometry as a source of metric scale: how far the camera went between two images."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from rclpy.subscription import Subscription

from coopnet_core.errors import InputError
from coopnet_core.inference import rigid
from coopnet_core.inference.metric_scale import distance_of_camera
from coopnet_ros import qos

Matrix = npt.NDArray[np.float64]

TOPIC = "wheel_odometry"

_KEPT_NS = 5_000_000_000
"""An image that is older than this when its turn comes was late by more than any network takes."""

_MAX_GAP_NS = 200_000_000
"""Between messages further apart the path is not known well enough, nor beyond the last one."""


class _Sample(NamedTuple):
    stamp_ns: int
    T_odom_base: Matrix


class WheelOdometry:
    """Keeps the last poses of a wheel odometry topic.

    Its methods may be called from any thread.

    Args:
        node: Subscribes.
        reliability: See ``qos.input_qos``.
    """

    def __init__(self, node: LifecycleNode, reliability: str) -> None:
        self._node = node
        self._reliability = reliability
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque()
        self._subscription: Subscription | None = None
        self.topic = node.resolve_topic_name(TOPIC)

    def open(self) -> None:
        """Subscribe.

        Raises:
            RuntimeError, ValueError, ParameterException: rclpy cannot subscribe as the QoS
                overrides ask.
        """
        profile = qos.input_qos(self._reliability)
        profile.depth = 50  # they come faster than images, and each counts
        self._subscription = self._node.create_subscription(
            Odometry, self.topic, self.hear, profile, qos_overriding_options=qos.overridable()
        )

    def close(self) -> None:
        """Unsubscribe and forget."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = None
        with self._lock:
            self._samples.clear()

    def hear(self, msg: Odometry) -> None:
        """Keep a message; one that goes back in time starts anew."""
        stamp_ns = msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec
        position, q = msg.pose.pose.position, msg.pose.pose.orientation
        pose = np.eye(4)
        pose[:3, 3] = position.x, position.y, position.z
        try:
            pose[:3, :3] = rigid.rotation_from_quaternion(q.x, q.y, q.z, q.w)
        except InputError as error:
            self._node.get_logger().warning(
                f"{self.topic}: {error}; the message is left out", throttle_duration_sec=5.0
            )
            return
        if not np.all(np.isfinite(pose)):
            return
        with self._lock:
            if self._samples and stamp_ns <= self._samples[-1].stamp_ns:
                self._samples.clear()
            self._samples.append(_Sample(stamp_ns, pose))
            while stamp_ns - self._samples[0].stamp_ns > _KEPT_NS:
                self._samples.popleft()

    def distance(self, from_ns: int, to_ns: int, T_base_cam: Matrix) -> float | None:
        """Return how far the camera went between two stamps.

        Args:
            from_ns: Stamp of the previous image.
            to_ns: Stamp of the current one.
            T_base_cam: (4, 4), the mounting.

        Returns:
            Metres; None where the poses at these stamps are not known.
        """
        with self._lock:
            samples = list(self._samples)
        before, after = (_pose_at(samples, stamp_ns) for stamp_ns in (from_ns, to_ns))
        if before is None or after is None:
            return None
        return distance_of_camera(rigid.invert(before) @ after, T_base_cam)

    def problem(self) -> str:
        """Return why there is no wheel odometry, empty when there is some."""
        with self._lock:
            is_fine = self._subscription is None or bool(self._samples)
        if is_fine:
            return ""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        return (
            f"no wheel odometry on {self.topic}, publishers there: "
            f"{qos.describe_publishers(publishers)}"
        )


def _pose_at(samples: list[_Sample], stamp_ns: int) -> Matrix | None:
    """Return the pose at a stamp: between two samples, or going on from the last ones."""
    if len(samples) < 2 or stamp_ns < samples[0].stamp_ns:
        return None
    place = next((i for i, s in enumerate(samples) if s.stamp_ns >= stamp_ns), len(samples) - 1)
    a, b = samples[max(place, 1) - 1], samples[max(place, 1)]
    if b.stamp_ns - a.stamp_ns > _MAX_GAP_NS or stamp_ns - b.stamp_ns > _MAX_GAP_NS:
        return None
    share = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    return a.T_odom_base @ rigid.exp(share * rigid.log(rigid.invert(a.T_odom_base) @ b.T_odom_base))
