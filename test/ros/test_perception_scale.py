"""Metric scale in the node: depth and odometry are multiplied, and diagnostics say by what."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from ros_harness import INTRINSICS, PERIOD_NS, START_NS, Harness
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tiny_bundle import textured_strip, write_tiny_bundle

from coopnet_core.data.ros_images import array_from_image
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.wheel_odometry import WheelOdometry

pytestmark = pytest.mark.ros

# The networks' image is the camera's: 128x64, fx == width.
DEPTH, FLOW_U, NUM_FRAMES = 40.0, -2.0, 12
STEP = -FLOW_U * DEPTH / INTRINSICS.fx
"""How far the camera goes to the left per frame, in the unit of the bundle."""
CAMERA = Intrinsics(128, 64, 128.0, 128.0, 63.5, 31.5)


def start(harness: Harness, folder: Path, **parameters: object) -> None:
    bundle = write_tiny_bundle(
        folder / "bundle", width=128, height=64, depth=DEPTH, flow=(FLOW_U, 0.0), metric=False
    )
    harness.listen("coopnet/odom", Odometry)
    harness.listen("coopnet/depth/image", Image)
    harness.start_node(bundle=bundle, **parameters)
    harness.wait_for_node()
    harness.send_info(CAMERA)


def drive(harness: Harness) -> None:
    """Send frames, one after the answer to the other."""
    wall = textured_strip(CAMERA.width + int(-FLOW_U) * NUM_FRAMES, CAMERA.height)
    for index in range(NUM_FRAMES):
        offset = int(-FLOW_U) * (NUM_FRAMES - index)
        stamp_ns = START_NS + index * PERIOD_NS
        harness.send_image(stamp_ns, wall[:, offset : offset + CAMERA.width].copy())
        harness.wait_for_stamp("coopnet/odom", stamp_ns)


def last_step_m(harness: Harness) -> float:
    before, after = (m.pose.pose.position for m in harness.received["coopnet/odom"][-2:])
    return float(np.hypot(after.x - before.x, after.y - before.y))


def depth_m(harness: Harness) -> float:
    stamp_ns = START_NS + (NUM_FRAMES - 1) * PERIOD_NS
    msg = harness.wait_for_stamp("coopnet/depth/image", stamp_ns)
    return float(np.nanmedian(array_from_image(msg)))


def test_without_a_source_nothing_is_called_metres(tmp_path: Path) -> None:
    with Harness(tmp_path) as harness:
        start(harness, tmp_path)
        drive(harness)
        assert depth_m(harness) == pytest.approx(DEPTH)
        status = harness.wait_for_status("scale", "no metric scale")
        values = {pair.key: pair.value for pair in status.values}
        assert (values["metric"], values["source"]) == ("false", "none")


def test_a_fixed_scale_multiplies_depth_and_odometry(tmp_path: Path) -> None:
    with Harness(tmp_path) as harness:
        start(harness, tmp_path, scale_mode="fixed", scale_fixed=2.5)
        drive(harness)
        assert depth_m(harness) == pytest.approx(2.5 * DEPTH)
        assert last_step_m(harness) == pytest.approx(2.5 * STEP, rel=0.1)
        status = harness.wait_for_status("scale", "fixed, updated")
        values = {pair.key: pair.value for pair in status.values}
        assert (values["metric"], values["factor"]) == ("true", "2.5000")


def test_wheel_odometry_gives_the_scale(tmp_path: Path) -> None:
    """The wheels go three times as far as the bundle says."""
    with Harness(tmp_path) as harness:
        wheels = harness.node.create_publisher(
            Odometry, harness.resolve("wheel_odometry"), QoSProfile(depth=100)
        )
        start(harness, tmp_path, scale_mode="odometry")
        harness.wait_for_status("scale", "no wheel odometry on")
        harness.until(lambda: wheels.get_subscription_count() > 0, "the node to hear the wheels")
        for number in range(5 * NUM_FRAMES):
            wheels.publish(odometry(START_NS + number * PERIOD_NS // 5, 3 * STEP * number / 5))
        time.sleep(0.5)
        drive(harness)
        assert depth_m(harness) == pytest.approx(3 * DEPTH, rel=0.1)
        assert last_step_m(harness) == pytest.approx(3 * STEP, rel=0.1)
        status = harness.wait_for_status("scale", "odometry, updated")
        values = {pair.key: pair.value for pair in status.values}
        assert float(values["factor"]) == pytest.approx(3, rel=0.1)
        assert 0 < float(values["variance"]) < 0.1
        # The unit has changed on the way, and a path cannot be in two.
        harness.wait_for_status("odometry", "depth and odometry are metres by odometry")


def test_camera_height_has_to_be_given(tmp_path: Path) -> None:
    with Harness(tmp_path) as harness:
        harness.start_node(
            bundle=write_tiny_bundle(tmp_path / "bundle"), scale_mode="camera_height"
        )
        harness.wait_for_status("model", "'camera_height' must be the height of the camera")
        assert harness.node_is_alive()


# The path of the wheels, without a graph


def odometry(stamp_ns: int, x: float, yaw: float = 0.0) -> Odometry:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    msg = Odometry(header=Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id="odom"))
    msg.pose.pose.position.x = float(x)
    q = msg.pose.pose.orientation
    q.z, q.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    return msg


@pytest.fixture
def wheels() -> WheelOdometry:
    node = SimpleNamespace(resolve_topic_name=str, get_logger=lambda: logging.getLogger("wheels"))
    result = WheelOdometry(node, "reliable")
    for number in range(10):  # 1 m/s at 20 Hz
        result.hear(odometry(number * 50_000_000, 0.05 * number))
    return result


def test_distances_are_interpolated_and_go_on_for_a_moment(wheels: WheelOdometry) -> None:
    ahead = np.eye(4)
    assert wheels.distance(10_000_000, 135_000_000, ahead) == pytest.approx(0.125)
    assert wheels.distance(400_000_000, 500_000_000, ahead) == pytest.approx(0.1)
    assert wheels.distance(400_000_000, 900_000_000, ahead) is None, "too far beyond the last"
    assert wheels.distance(-1, 100_000_000, ahead) is None, "before the first"


def test_a_camera_in_front_of_the_axle_goes_further_in_a_turn(wheels: WheelOdometry) -> None:
    for number in range(10, 13):
        wheels.hear(odometry(number * 50_000_000, 0.45, yaw=0.1 * (number - 9)))
    T_base_cam = np.eye(4)
    T_base_cam[0, 3] = 2.0
    chord = 2 * 2.0 * np.sin(0.2 / 2)
    assert wheels.distance(500_000_000, 600_000_000, T_base_cam) == pytest.approx(chord)


def test_a_gap_or_a_time_that_goes_back_is_no_distance(wheels: WheelOdometry) -> None:
    wheels.hear(odometry(2_000_000_000, 2.0))
    assert wheels.distance(1_000_000_000, 1_100_000_000, np.eye(4)) is None
    wheels.hear(odometry(0, 0.0))
    assert wheels.distance(50_000_000, 100_000_000, np.eye(4)) is None


def test_a_message_that_nobody_filled_is_left_out(
    wheels: WheelOdometry, caplog: pytest.LogCaptureFixture
) -> None:
    broken = odometry(450_000_000 + 50_000_000, 0.5)
    broken.pose.pose.orientation.w = 0.0
    wheels._node.get_logger = lambda: SimpleNamespace(  # rclpy's logger throttles
        warning=lambda text, throttle_duration_sec: logging.getLogger("wheels").warning(text)
    )
    wheels.hear(broken)
    assert "the message is left out" in caplog.text
    assert wheels.distance(400_000_000, 450_000_000, np.eye(4)) == pytest.approx(0.05)
