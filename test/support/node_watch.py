"""Looks at every message that a perception node publishes, and keeps what must never be."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, Vector3
from nav_msgs.msg import Odometry, Path
from ros_harness import CAMERA_FRAME, Harness, stamp_of
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from coopnet_core.data.ros_images import array_from_image
from coopnet_ros.outputs import TOPICS

ENCODINGS = {
    "~/depth/image": "32FC1",
    "~/depth/preview": "bgr8",
    "~/flow/image": "32FC2",
    "~/flow/preview": "bgr8",
    "~/motion/mask": "mono8",
    "~/motion/preview": "bgr8",
}
ODOM_FRAME, BASE_FRAME = "odom", "base_link"


class Watch:
    """Checks the frame, stamp, size, encoding and numbers of each message.

    Args:
        harness: Of the node.
        sizes: (width, height) of the networks of every bundle that the node may run.
        max_step_m: How far the base may be from where it was one message before. Further is a
            jump, unless the twist says the same; a reset must explain it.

    Attributes:
        violations: What must never be, in words.
        num_messages: Checked messages by topic.
        num_jumps: How often odometry has jumped.
        last: The latest message of each topic.
    """

    def __init__(
        self, harness: Harness, sizes: Iterable[tuple[int, int]], max_step_m: float
    ) -> None:
        self.violations: list[str] = []
        self.num_messages: Counter[str] = Counter()
        self.num_jumps = 0
        self.last: dict[str, Any] = {}
        self._sizes, self._max_step_m = set(sizes), max_step_m
        self._namespace = harness.namespace
        self._lock = threading.Lock()
        self._frames: dict[int, set[str]] = {}
        self._streams: list[tuple[range, str]] = []
        self._answered: dict[str, set[int]] = {topic: set() for topic in TOPICS}
        self._before: tuple[int, np.ndarray] | None = None
        # Where TF and odometry have the base, by stamp; None where a stamp came again.
        self._tf: dict[int, np.ndarray | None] = {}
        self._odom: dict[int, np.ndarray | None] = {}
        for topic, msg_type in TOPICS.items():
            name = harness.resolve("coopnet" + topic.removeprefix("~"))
            harness.node.create_subscription(msg_type, name, self._checker(topic), 50)
        harness.node.create_subscription(TFMessage, "/tf", self._check_tf, 100)
        harness.node.create_subscription(DiagnosticArray, "/diagnostics", self._keep_status, 10)
        self._statuses: dict[str, tuple[int, Any]] = {}

    # Input: what may come out depends on what goes in

    def expect(self, stamp_ns: int, frame_id: str) -> None:
        """Note that an image with this stamp and frame is sent; before it is."""
        with self._lock:
            self._frames.setdefault(stamp_ns, set()).add(frame_id)

    def expect_stream(self, stamps_ns: range, frame_id: str = CAMERA_FRAME) -> None:
        """Note that somebody else sends images with some of these stamps."""
        with self._lock:
            self._streams.append((stamps_ns, frame_id))

    # Output

    def is_answered(self, topic: str, stamps_ns: Iterable[int]) -> bool:
        """Return whether a message of the topic has come with one of the stamps."""
        return any(stamp in self._answered[topic] for stamp in stamps_ns)

    def status(self, part: str) -> tuple[int, str, dict[str, str]]:
        """Return how many times a status has come, its message and its values."""
        count, status = self._statuses.get(part, (0, None))
        if status is None:
            return 0, "", {}
        return count, status.message, {pair.key: pair.value for pair in status.values}

    def _checker(self, topic: str) -> Any:
        def check(msg: Any) -> None:
            self.num_messages[topic] += 1
            self.last[topic] = msg
            problem = self._problem(topic, msg)
            if problem:
                self.violations.append(f"{topic}: {problem}")
            self._answered[topic].add(stamp_of(msg))

        return check

    def _problem(self, topic: str, msg: Any) -> str:
        frames = self._frames_of(stamp_of(msg))
        if not frames:
            return f"stamp {stamp_of(msg)} is that of no image"
        is_odometry = isinstance(msg, (Odometry, Path))
        expected = {ODOM_FRAME} if is_odometry else frames
        if msg.header.frame_id not in expected:
            return f"frame '{msg.header.frame_id}', expected {expected}"
        if isinstance(msg, Odometry):
            self._follow(msg)
            return _odometry_problem(msg)
        if isinstance(msg, Path):
            numbers = [
                number
                for pose in msg.poses
                for number in (pose.pose.position.x, pose.pose.position.y, pose.pose.position.z)
            ]
            return "" if msg.poses and np.isfinite(numbers).all() else "a pose is not finite"
        if (msg.width, msg.height) not in self._sizes:
            return f"size {msg.width}x{msg.height}"
        if isinstance(msg, Image):
            return _image_problem(topic, msg)
        if isinstance(msg, PointCloud2):
            is_whole = len(msg.data) == msg.row_step * msg.height > 0
            return "" if is_whole else f"{len(msg.data)} bytes, {msg.height} x {msg.row_step}"
        if isinstance(msg, CameraInfo):
            return "" if np.isfinite([*msg.k, *msg.p]).all() and msg.k[0] > 0 else f"K {msg.k}"
        return f"nobody has said how to check a {type(msg).__name__}"

    def _frames_of(self, stamp_ns: int) -> set[str]:
        with self._lock:
            frames = set(self._frames.get(stamp_ns, ()))
            frames.update(frame for stamps, frame in self._streams if stamp_ns in stamps)
        return frames

    def _check_tf(self, msg: TFMessage) -> None:
        for stamped in msg.transforms:
            frames = (stamped.header.frame_id, stamped.child_frame_id)
            if frames != (ODOM_FRAME, BASE_FRAME):
                self.violations.append(f"/tf: frames {frames}")
                continue
            self.num_messages["/tf"] += 1
            if not self._frames_of(stamp_of(stamped)):
                self.violations.append(f"/tf: stamp {stamp_of(stamped)} is that of no image")
            _note(self._tf, stamp_of(stamped), stamped.transform.translation)

    def _follow(self, msg: Odometry) -> None:
        """Compare where the base is now with where it was, and with how fast it says it moves."""
        stamp_ns = stamp_of(msg)
        position = _note(self._odom, stamp_ns, msg.pose.pose.position)
        if self._before is not None:
            linear = msg.twist.twist.linear
            dt_s = max(0, stamp_ns - self._before[0]) / 1e9
            moved_m = float(np.linalg.norm(position - self._before[1]))
            told_m = float(np.linalg.norm([linear.x, linear.y, linear.z])) * dt_s
            if moved_m > self._max_step_m + 1.01 * told_m:
                self.num_jumps += 1
        self._before = stamp_ns, position

    def compare_tf(self) -> None:
        """Hold TF to odometry, for the messages since the last call."""
        tf, self._tf = self._tf, {}
        odom, self._odom = self._odom, {}
        for stamp_ns in tf.keys() & odom.keys():
            here, there = tf[stamp_ns], odom[stamp_ns]
            if here is not None and there is not None and not np.array_equal(here, there):
                self.violations.append(f"/tf: {here}, but ~/odom {there}")

    def _keep_status(self, msg: DiagnosticArray) -> None:
        prefix = f"{self._namespace}/coopnet: ".lstrip("/")
        for status in msg.status:
            if status.name.startswith(prefix):
                part = status.name.removeprefix(prefix)
                count = self._statuses.get(part, (0, None))[0]
                self._statuses[part] = (count + 1, status)


def _note(
    positions: dict[int, np.ndarray | None], stamp_ns: int, vector: Vector3 | Point
) -> np.ndarray:
    position = np.array([vector.x, vector.y, vector.z])
    positions[stamp_ns] = None if stamp_ns in positions else position
    return position


def _odometry_problem(msg: Odometry) -> str:
    if msg.child_frame_id != BASE_FRAME:
        return f"child frame '{msg.child_frame_id}'"
    position, q = msg.pose.pose.position, msg.pose.pose.orientation
    linear, angular = msg.twist.twist.linear, msg.twist.twist.angular
    numbers = [getattr(part, axis) for part in (position, linear, angular) for axis in "xyz"]
    covariances = np.array([msg.pose.covariance, msg.twist.covariance]).reshape(2, 6, 6)
    if not (np.isfinite(numbers).all() and np.isfinite(covariances).all()):
        return f"not finite: {msg}"
    if abs(np.linalg.norm([q.x, q.y, q.z, q.w]) - 1.0) > 1e-6:
        return f"quaternion {q}"
    if (np.diagonal(covariances, axis1=1, axis2=2) < 0).any():
        return "negative variance"
    return ""


def _image_problem(topic: str, msg: Image) -> str:
    if msg.encoding != ENCODINGS[topic]:
        return f"encoding '{msg.encoding}'"
    pixels = array_from_image(msg)  # raises where size, step and data do not fit
    if topic == "~/depth/image" and not (pixels[np.isfinite(pixels)] > 0).all():
        return "depth is not positive"
    if topic == "~/flow/image" and not np.isfinite(pixels).all():
        return "flow is not finite"
    return ""
