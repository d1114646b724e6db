"""TF beside others, and time that starts over: real nodes over DDS."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import CAMERA_FRAME, HEIGHT, PERIOD_NS, START_NS, WIDTH, Harness, stamp_of
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_ros import frames
from coopnet_ros.odometry import transform_message

pytestmark = pytest.mark.ros

IMAGE = textured_image(WIDTH, HEIGHT)
STATIC_TF = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OTHER = "another node publishes the transform"


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def start(harness: Harness, tmp_path: Path, **values: object) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", flow=(-2.0, 0.0))
    harness.start_node(bundle=bundle, **values)
    harness.listen("coopnet/odom", Odometry)
    harness.listen("coopnet/depth/image", Image)
    harness.listen("/tf", TFMessage)
    harness.wait_for_node()
    harness.send_info()


def drive(harness: Harness, stamp_ns: int, topic: str = "coopnet/odom") -> Odometry:
    harness.send_image(stamp_ns, IMAGE)
    return harness.wait_for_stamp(topic, stamp_ns)


def odometry_statuses(harness: Harness) -> list[DiagnosticStatus]:
    name = f"{harness.namespace}/coopnet: odometry".lstrip("/")
    arrays = list(harness.received["/diagnostics"])
    return [status for array in arrays for status in array.status if status.name == name]


def publish_transform(
    harness: Harness, parent: str, child: str, stamp_ns: int, *, is_static: bool = False
) -> None:
    """Publish a transform as the node ``test`` and wait until everybody has it."""
    topic = "/tf_static" if is_static else "/tf"
    qos = STATIC_TF if is_static else QoSProfile(depth=100)
    publisher = harness.node.create_publisher(TFMessage, topic, qos)
    harness.until(lambda: publisher.get_subscription_count() > 0, f"a listener on {topic}")
    stamp = harness.header(stamp_ns).stamp
    T_parent_child = frames.base_from_camera([0.0] * 6) if child == CAMERA_FRAME else np.eye(4)
    transform = transform_message(T_parent_child, stamp, parent, child)
    publisher.publish(TFMessage(transforms=[transform]))


def test_another_publisher_of_the_same_transform_is_named_once(
    harness: Harness, tmp_path: Path
) -> None:
    start(harness, tmp_path)
    for index in range(5):
        drive(harness, START_NS + index * PERIOD_NS)
    harness.until(lambda: len(harness.received["/tf"]) >= 5, "the node's transforms")
    harness.wait_for_status("odometry", "tracking")
    assert not any(OTHER in status.message for status in odometry_statuses(harness)), "its own"
    # Same stamp as the node's last one, other values: what an EKF that follows the odometry does.
    publish_transform(harness, "odom", "base_link", START_NS + 4 * PERIOD_NS)
    status = harness.wait_for_status("odometry", OTHER)
    assert status.level == DiagnosticStatus.WARN
    assert "odom -> base_link" in status.message
    assert "(others on /tf: test)" in status.message
    assert "set publish_tf to false" in status.message
    publish_transform(harness, "odom", "base_link", START_NS + 5 * PERIOD_NS)
    publish_transform(harness, "map", "odom", START_NS + 5 * PERIOD_NS)
    drive(harness, START_NS + 5 * PERIOD_NS)
    harness.until(lambda: OTHER in harness.log(), "a warning")
    assert harness.log().count(OTHER) == 1

    # What the warning says helps at once.
    assert harness.set_parameter("publish_tf", False).successful
    ours = len(harness.received["/tf"])
    since = len(odometry_statuses(harness))
    for index in range(6, 9):
        drive(harness, START_NS + index * PERIOD_NS)
    harness.until(lambda: len(odometry_statuses(harness)) > since + 2, "diagnostics")
    assert not any(OTHER in s.message for s in odometry_statuses(harness)[since + 1 :])
    assert len(harness.received["/tf"]) == ours
    # Nobody has touched map.
    parents = {t.header.frame_id for m in harness.received["/tf"] for t in m.transforms}
    assert parents == {"odom", "map"}, "map -> odom is the test's"


def test_a_second_parent_of_the_base_is_the_same_mistake(harness: Harness, tmp_path: Path) -> None:
    start(harness, tmp_path)
    publish_transform(harness, "footprint", "base_link", START_NS, is_static=True)
    drive(harness, START_NS)
    status = harness.wait_for_status("odometry", f"{OTHER} footprint -> base_link too")
    assert "(others on /tf_static: test)" in status.message


def test_without_publish_tf_a_filter_may_publish_it_until_it_is_switched_on(
    harness: Harness, tmp_path: Path
) -> None:
    harness.listen("/tf_static", TFMessage, STATIC_TF)
    start(harness, tmp_path, publish_tf=False)
    publish_transform(harness, "odom", "base_link", START_NS)
    for index in range(3):
        drive(harness, START_NS + index * PERIOD_NS)
    since = len(harness.received["/diagnostics"])
    harness.until(lambda: len(harness.received["/diagnostics"]) > since + 3, "diagnostics")
    assert not any(OTHER in status.message for status in odometry_statuses(harness))
    assert not harness.received["/tf_static"]
    # It may be switched on later, with the mounting that connects the camera.
    assert harness.set_parameter("publish_tf", True).successful
    drive(harness, START_NS + 3 * PERIOD_NS)
    (mounting,) = harness.wait_for("/tf_static").transforms
    assert (mounting.header.frame_id, mounting.child_frame_id) == ("base_link", CAMERA_FRAME)
    harness.wait_for("/tf", lambda m: stamp_of(m.transforms[0]) == START_NS + 3 * PERIOD_NS)


def test_a_clock_that_goes_back_resets_odometry_and_tf(harness: Harness, tmp_path: Path) -> None:
    """`ros2 bag play --loop --clock`: time, images and transforms start over."""
    reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    clock = harness.node.create_publisher(Clock, "/clock", reliable)

    def set_clock(stamp_ns: int) -> None:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))

    start(harness, tmp_path, use_sim_time=True, camera_mounting="tf")
    harness.until(lambda: clock.get_subscription_count() > 0, "a listener on /clock")
    set_clock(START_NS)
    publish_transform(harness, "base_link", CAMERA_FRAME, START_NS)
    ticks = itertools.count()
    while not harness.received["coopnet/odom"]:
        drive(harness, START_NS + next(ticks) * PERIOD_NS, "coopnet/depth/image")
    for _ in range(3):
        last_ns = START_NS + next(ticks) * PERIOD_NS
        odom = drive(harness, last_ns)
        set_clock(last_ns)
    assert odom.pose.pose.position.y > 0.1

    # Forward it may jump: a gap between images is what counts.
    set_clock(last_ns + 5_000_000_000)
    assert drive(harness, last_ns + PERIOD_NS).pose.pose.position.y > odom.pose.pose.position.y
    first_ns = START_NS - 10_000_000_000
    set_clock(first_ns)
    harness.until(
        lambda: stamp_of(harness.received["/diagnostics"][-1]) == first_ns, "the node's clock"
    )
    assert drive(harness, first_ns).pose.pose.position.y == 0.0
    status = harness.wait_for_status("odometry", "the clock went back by 15.")
    assert "stamp" not in status.message, "one reset, not two"
    assert drive(harness, first_ns + PERIOD_NS).pose.pose.position.y > 0.1
    # The mounting is kept, but what TF said in that other time is gone.
    assert harness.call("coopnet/reset", Trigger, Trigger.Request()).success
    drive(harness, first_ns + 2 * PERIOD_NS, "coopnet/depth/image")
    harness.wait_for_status("odometry", "TF has no transform base_link <-")
    publish_transform(harness, "base_link", CAMERA_FRAME, first_ns + 3 * PERIOD_NS)
    found = len(harness.received["coopnet/odom"])
    for index in range(3, 100):
        drive(harness, first_ns + index * PERIOD_NS, "coopnet/depth/image")
        if len(harness.received["coopnet/odom"]) > found:
            break
    assert len(harness.received["coopnet/odom"]) > found


def test_images_that_start_over_make_tf_forget_too(harness: Harness, tmp_path: Path) -> None:
    """`ros2 bag play --loop` without a clock; what is static stays."""
    start(harness, tmp_path, camera_mounting="tf")
    publish_transform(harness, "base_link", "mast", START_NS, is_static=True)
    publish_transform(harness, "mast", CAMERA_FRAME, START_NS)
    ticks = itertools.count()
    while not harness.received["coopnet/odom"]:
        drive(harness, START_NS + next(ticks) * PERIOD_NS, "coopnet/depth/image")
    drive(harness, START_NS + next(ticks) * PERIOD_NS)
    past_ns = START_NS - 60_000_000_000
    assert drive(harness, past_ns).pose.pose.position.y == 0.0, "the mounting is kept"
    harness.wait_for_status("odometry", "the stamp went back by")
    assert harness.call("coopnet/reset", Trigger, Trigger.Request()).success
    drive(harness, past_ns + PERIOD_NS, "coopnet/depth/image")
    harness.wait_for_status("odometry", "no odometry yet: TF has no transform")
    publish_transform(harness, "mast", CAMERA_FRAME, past_ns)
    found = len(harness.received["coopnet/odom"])
    for index in range(2, 100):
        drive(harness, past_ns + index * PERIOD_NS, "coopnet/depth/image")
        if len(harness.received["coopnet/odom"]) > found:
            return
    raise AssertionError("base_link -> mast has been forgotten")
