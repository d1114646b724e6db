"""TF through tf2_ros where ROS provides it, and through its topics where it does not."""

from __future__ import annotations

from collections.abc import Callable

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
Lookup = Callable[[str, str], "Matrix | None"]


class TransformTree:
    """The latest transform of every frame to its parent."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Matrix]] = {}

    def update(self, msg: TFMessage) -> None:
        """Take the transforms of a TFMessage.

        Raises:
            InputError: One of them has a zero quaternion.
        """
        for stamped in msg.transforms:
            parent = stamped.header.frame_id.lstrip("/")
            child = stamped.child_frame_id.lstrip("/")
            self._parents[child] = (parent, matrix_from_transform(stamped.transform))

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
        while frame in self._parents:
            parent, T_parent_frame = self._parents[frame]
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


def make_lookup(node: Node) -> Lookup:
    """Start to listen to TF.

    Returns:
        ``lookup(target, source)``: the latest ``T_target_source`` (4, 4), or None while unknown.
    """
    try:
        import tf2_ros
    except ImportError:
        return _listen(node)
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, node)

    def lookup(target: str, source: str, _keep_alive: object = listener) -> Matrix | None:
        try:
            stamped = buffer.lookup_transform(target, source, Time())
        except tf2_ros.TransformException:
            return None
        return matrix_from_transform(stamped.transform)

    return lookup


def _publisher(node: Node, topic: str, *, static: bool) -> Send:
    publisher = node.create_publisher(TFMessage, topic, _tf_qos(static=static))

    def send(transform: TransformStamped) -> None:
        publisher.publish(TFMessage(transforms=[transform]))

    return send


def _listen(node: Node) -> Lookup:
    tree = TransformTree()

    def update(msg: TFMessage) -> None:
        try:
            tree.update(msg)
        except CoopNetError as error:
            node.get_logger().warning(f"ignored a transform: {error}", throttle_duration_sec=5.0)

    for topic, static in (("/tf", False), ("/tf_static", True)):
        node.create_subscription(TFMessage, topic, update, _tf_qos(static=static))
    return tree.lookup


def _tf_qos(*, static: bool) -> QoSProfile:
    """Return the profiles of tf2_ros: a history of 100, and late joiners get what is static."""
    durability = DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=100, durability=durability)
