"""`tf2_msgs` as scripts/setup.sh builds it (or ROS brings it) talks real DDS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: run scripts/setup.sh")
pytestmark = pytest.mark.ros

# The type hash of tf2_msgs/msg/TFMessage in Jazzy and later, as `ros2 topic info -v /tf` shows it.
TYPE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"


@pytest.fixture
def nodes() -> Iterator[tuple[Any, Any]]:
    """A sending and a receiving node in a context of their own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    pair = tuple(
        rclpy.create_node(name, context=context, namespace="/tf2_msgs_test")
        for name in ("sender", "receiver")
    )
    yield pair[0], pair[1]
    for node in pair:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_transforms_survive_publish_and_subscribe(nodes: tuple[Any, Any]) -> None:
    from geometry_msgs.msg import TransformStamped
    from rclpy.executors import SingleThreadedExecutor
    from tf2_msgs.msg import TFMessage

    sender, receiver = nodes
    first = TransformStamped()
    first.header.stamp.sec, first.header.stamp.nanosec = 12, 345
    first.header.frame_id, first.child_frame_id = "odom", "base_link"
    first.transform.translation.x = 1.5
    first.transform.rotation.z, first.transform.rotation.w = 0.6, 0.8
    second = TransformStamped()
    second.header.frame_id, second.child_frame_id = "base_link", "kamera_ö"
    sent = TFMessage(transforms=[first, second])

    received: list[Any] = []
    receiver.create_subscription(TFMessage, "tf", received.append, 10)
    publisher = sender.create_publisher(TFMessage, "tf", 10)
    executor = SingleThreadedExecutor(context=receiver.context)
    executor.add_node(receiver)
    deadline = time.monotonic() + 15.0
    while not received and time.monotonic() < deadline:
        publisher.publish(sent)
        executor.spin_once(timeout_sec=0.1)
    executor.remove_node(receiver)
    assert received, "nothing arrived in 15 s"
    assert received[0] == sent


def test_other_robots_see_the_standard_type(nodes: tuple[Any, Any]) -> None:
    from tf2_msgs.msg import TFMessage

    sender, _ = nodes
    sender.create_publisher(TFMessage, "tf", 10)
    deadline = time.monotonic() + 15.0
    while not (infos := sender.get_publishers_info_by_topic("/tf2_msgs_test/tf")):
        assert time.monotonic() < deadline, "the publisher did not show up in 15 s"
        time.sleep(0.05)
    assert infos[0].topic_type == "tf2_msgs/msg/TFMessage"
    if not hasattr(infos[0], "topic_type_hash"):
        pytest.skip("this ROS (Humble) has no type hashes")
    assert str(infos[0].topic_type_hash) == TYPE_HASH


def test_an_empty_message_is_valid(nodes: tuple[Any, Any]) -> None:
    from rclpy.serialization import deserialize_message, serialize_message
    from tf2_msgs.msg import TFMessage

    assert deserialize_message(serialize_message(TFMessage()), TFMessage) == TFMessage()
