"""TF through tf2_ros where ROS provides it, and through its topics where it does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from coopnet_core.errors import CoopNetError
from coopnet_core.inference import rigid
from coopnet_ros.odometry import matrix_from_transform

Matrix = npt.NDArray[np.float64]
Send = Callable[[TransformStamped], None]
Hear = Callable[[TransformStamped, str], None]


class TransformSource(Protocol):
    """What has been said on TF."""

    def lookup(self, target: str, source: str) -> Matrix | None:
        """Return the latest ``T_target_source``, (4, 4), or None while it is unknown."""

    def clear(self) -> None:
        """Forget what is not static: time has started over."""


class TransformTree:
    """The latest transform of every frame to its parent."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Matrix]] = {}
        self._static: set[str] = set()

    def update(self, stamped: TransformStamped, *, is_static: bool = False) -> None:
        """Take a transform.

        Raises:
            InputError: It has a zero quaternion.
        """
        parent = stamped.header.frame_id.lstrip("/")
        child = stamped.child_frame_id.lstrip("/")
        self._parents[child] = (parent, matrix_from_transform(stamped.transform))
        (self._static.add if is_static else self._static.discard)(child)

    def clear(self) -> None:
        """Forget what is not static."""
        self._parents = {
            child: parent for child, parent in self._parents.items() if child in self._static
        }

    def lookup(self, target: str, source: str) -> Matrix | None:
        """Return ``T_target_source``, (4, 4), or None when the two frames are not connected."""
        to_target, to_source = self._to_ancestors(target), self._to_ancestors(source)
        for ancestor, T_ancestor_source in to_source.items():
            if ancestor in to_target:
                return rigid.invert(to_target[ancestor]) @ T_ancestor_source
        return None

    def _to_ancestors(self, frame: str) -> dict[str, Matrix]:
        """Return ``T_ancestor_frame`` of the frame and everything above it, nearest first."""
        T_ancestor_frame = np.eye(4)
        found = {frame: T_ancestor_frame}
        parents = self._parents  # another thread may clear it
        while frame in parents:
            parent, T_parent_frame = parents[frame]
            if parent in found:  # a loop: somebody publishes nonsense
                break
            T_ancestor_frame = T_parent_frame @ T_ancestor_frame
            found[parent] = T_ancestor_frame
            frame = parent
        return found


def make_broadcasters(node: Node) -> tuple[Send, Send]:
    """Return functions that publish a transform: one for moving frames, one for static ones."""
    try:
        import tf2_ros
    except ImportError:
        return _publisher(node, "/tf", static=False), _publisher(node, "/tf_static", static=True)
    return (
        tf2_ros.TransformBroadcaster(node).sendTransform,
        tf2_ros.StaticTransformBroadcaster(node).sendTransform,
    )


def listen(node: Node, hear: Hear) -> TransformSource:
    """Start to listen to TF.

    Args:
        node: Subscribes.
        hear: Called with every transform and the topic, ``/tf`` or ``/tf_static``, in the thread
            that spins the node.

    Returns:
        Knows what has been heard.
    """
    try:
        import tf2_ros
    except ImportError:
        return _listen_alone(node, hear)
    return _Tf2Source(tf2_ros, node, hear)


class _Tf2Source:
    """A buffer of tf2_ros, kept full by its listener."""

    def __init__(self, tf2_ros: Any, node: Node, hear: Hear) -> None:
        class Buffer(tf2_ros.Buffer):  # type: ignore[misc]  # exists only where ROS provides it
            """Lets ``hear`` in: a subscription of its own would receive everything twice."""

            def set_transform(self, transform: TransformStamped, authority: str) -> None:
                super().set_transform(transform, authority)
                hear(transform, "/tf")

            def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
                super().set_transform_static(transform, authority)
                hear(transform, "/tf_static")

        self._unknown = tf2_ros.TransformException
        self._buffer = Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def lookup(self, target: str, source: str) -> Matrix | None:
        try:
            stamped = self._buffer.lookup_transform(target, source, Time())
        except self._unknown:
            return None
        return matrix_from_transform(stamped.transform)

    def clear(self) -> None:
        self._buffer.clear()


def _listen_alone(node: Node, hear: Hear) -> TransformSource:
    tree = TransformTree()

    def update(msg: TFMessage, topic: str) -> None:
        for stamped in msg.transforms:
            try:
                tree.update(stamped, is_static=topic == "/tf_static")
            except CoopNetError as error:
                node.get_logger().warning(
                    f"ignored a transform: {error}", throttle_duration_sec=5.0
                )
            else:
                hear(stamped, topic)

    for topic, is_static in (("/tf", False), ("/tf_static", True)):
        callback = functools.partial(update, topic=topic)
        node.create_subscription(TFMessage, topic, callback, _tf_qos(static=is_static))
    return tree


def _publisher(node: Node, topic: str, *, static: bool) -> Send:
    publisher = node.create_publisher(TFMessage, topic, _tf_qos(static=static))

    def send(transform: TransformStamped) -> None:
        publisher.publish(TFMessage(transforms=[transform]))

    return send


def _tf_qos(*, static: bool) -> QoSProfile:
    """Return the profiles of tf2_ros: a history of 100, and late joiners get what is static."""
    durability = DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=100, durability=durability)
