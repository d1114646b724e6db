"""The transform odom -> base: published here, and nowhere else."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from coopnet_ros.odometry import transform_message
from coopnet_ros.parameters import Settings
from coopnet_ros.transforms import Send

# More than a listener's queue of 100 holds: own transforms come back, late after a busy moment.
_NUM_REMEMBERED = 300
_RECENT_S = 5.0

_Fingerprint = tuple[str, int, int, float, float, float, float, float, float, float]


class OdomTransform:
    """Publishes odom -> base while ``publish_tf`` asks for it, and notices who else does.

    TF takes one publisher per child frame. With two, or with two parents, the robot jumps back and
    forth between them, and nothing in TF says so. A subscription in rclpy does not tell who has
    sent a message, so own transforms are recognised by their stamp and values.

    Args:
        node: Logs, and knows who publishes on ``/tf``.
        settings: Returns the parameters as they are now.
        publish: Publishes a transform.
    """

    def __init__(self, node: Node, settings: Callable[[], Settings], publish: Send) -> None:
        self._node = node
        self._settings = settings
        self._publish = publish
        # The worker sends, the executor hears.
        self._lock = threading.Lock()
        self._own: deque[_Fingerprint] = deque(maxlen=_NUM_REMEMBERED)
        self._foreign = ("", "")  # topic, parent frame
        self._foreign_until_s = float("-inf")
        self._has_warned = False

    def send(self, T_odom_base: npt.NDArray[np.float64], stamp: Time) -> None:
        """Publish where the base is, (4, 4), if ``publish_tf`` says so."""
        settings = self._settings()
        if not settings.publish_tf:
            return
        msg = transform_message(T_odom_base, stamp, settings.odom_frame, settings.base_frame)
        with self._lock:
            self._own.append(_fingerprint(msg))  # first: it may come back at once
        self._publish(msg)

    def hear(self, msg: TransformStamped, topic: str) -> None:
        """Take a transform that somebody has published on ``/tf`` or ``/tf_static``."""
        if msg.child_frame_id.lstrip("/") != self._settings().base_frame:
            return
        is_static = topic == "/tf_static"
        with self._lock:
            if not is_static and _fingerprint(msg) in self._own:
                return
            self._foreign = (topic, msg.header.frame_id.lstrip("/"))
            self._foreign_until_s = float("inf") if is_static else time.monotonic() + _RECENT_S
        if not self._has_warned:
            self.problem()

    def problem(self) -> str:
        """Return who else publishes the transform, empty when nobody does; the log has it once."""
        with self._lock:
            is_clash = self._settings().publish_tf and len(self._own) > 0
            is_clash = is_clash and time.monotonic() < self._foreign_until_s
            topic, parent = self._foreign
        if not is_clash:
            return ""
        base = self._settings().base_frame
        names = [end.node_name for end in self._node.get_publishers_info_by_topic(topic)]
        if self._node.get_name() in names:
            names.remove(self._node.get_name())
        problem = (
            f"another node publishes the transform {parent} -> {base} too, and {base} jumps "
            f"between both (others on {topic}: {', '.join(sorted(set(names))) or 'none now'}): "
            "set publish_tf to false here, or switch it off there"
        )
        if not self._has_warned:
            self._has_warned = True
            self._node.get_logger().warning(problem)
        return problem


def _fingerprint(msg: TransformStamped) -> _Fingerprint:
    t, q, stamp = msg.transform.translation, msg.transform.rotation, msg.header.stamp
    parent = msg.header.frame_id
    return (parent, stamp.sec, stamp.nanosec, t.x, t.y, t.z, q.x, q.y, q.z, q.w)
