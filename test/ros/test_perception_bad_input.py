"""Input that nobody wants: each kind is named in /diagnostics, and the node goes on."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import HEIGHT, INTRINSICS, PERIOD_NS, START_NS, WIDTH, Harness
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.image_messages import image_from_array

pytestmark = pytest.mark.ros

IMAGE = textured_image(WIDTH, HEIGHT)
ticks = itertools.count()


def next_stamp() -> int:
    return START_NS + next(ticks) * PERIOD_NS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """One node for every test here: whatever one test sends, the next one still finds it alive."""
    folder = tmp_path_factory.mktemp("bad_input")
    with Harness(folder) as harness:
        harness.start_node(bundle=write_tiny_bundle(folder / "bundle", flow=(-2.0, 0.0)))
        harness.listen("coopnet/odom", Odometry)
        harness.listen("coopnet/depth/image", Image)
        harness.wait_for_node()
        harness.send_image(next_stamp(), IMAGE)
        harness.wait_for_status("input", "no camera_info yet on")
        yield harness


@pytest.fixture
def harness(running: Harness) -> Iterator[Harness]:
    """The node with a good camera, before and after."""
    running.received["/diagnostics"].clear()
    running.send_info()
    send_good_frame(running)
    yield running
    assert running.node_is_alive(), running.log()
    running.send_info()
    send_good_frame(running)


def send_good_frame(harness: Harness) -> Odometry:
    stamp_ns = next_stamp()
    harness.send_image(stamp_ns, IMAGE)
    return harness.wait_for_stamp("coopnet/odom", stamp_ns)


def send_refused(harness: Harness, msg: Image, cause: str) -> None:
    """Send an image; it must be named in the diagnostics and nothing may come of it."""
    num_outputs = len(harness.received["coopnet/odom"])
    harness.image_publisher.publish(msg)
    status = harness.wait_for_status("input", cause)
    assert status.level == DiagnosticStatus.WARN
    assert len(harness.received["coopnet/odom"]) == num_outputs


def test_images_without_camera_info(running: Harness) -> None:
    status = running.wait_for_status("input", "no camera_info yet on")
    assert status.level == DiagnosticStatus.WARN
    assert running.resolve("camera_info") in status.message
    # Discovery may tell of the publisher before it tells the name of its node.
    assert "publishers there: 1 (" in status.message
    assert ": reliable, volatile)" in status.message
    assert running.received["coopnet/odom"] == []


def test_zero_focal_length(harness: Harness) -> None:
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob")
    harness.send_info_message(info)
    msg = image_from_array(IMAGE, "rgb8", harness.header(next_stamp()))
    send_refused(harness, msg, "camera_info has zero focal length (K[0]=0, K[4]=0)")


def test_unknown_encoding(harness: Harness) -> None:
    msg = image_from_array(IMAGE, "rgb8", harness.header(next_stamp()))
    msg.encoding = "bayer_martian8"
    send_refused(harness, msg, "encoding 'bayer_martian8'")


def test_image_with_too_few_bytes(harness: Harness) -> None:
    msg = image_from_array(IMAGE, "rgb8", harness.header(next_stamp()))
    msg.data = msg.data[:1000]
    send_refused(harness, msg, "cut short")


def test_empty_image(harness: Harness) -> None:
    msg = Image(header=harness.header(next_stamp()), encoding="rgb8")
    send_refused(harness, msg, "image is empty")


def test_stamps_that_do_not_advance(harness: Harness) -> None:
    stamp_ns = next_stamp()
    harness.send_image(stamp_ns, IMAGE)
    harness.wait_for_stamp("coopnet/odom", stamp_ns)
    msg = image_from_array(IMAGE, "rgb8", harness.header(stamp_ns))
    send_refused(harness, msg, "the stamp does not advance")


def test_size_change_in_mid_stream(harness: Harness) -> None:
    """Refused while camera_info is still the old one; then a reset that holds the pose."""
    before = send_good_frame(harness)
    smaller = textured_image(96, 48)
    msg = image_from_array(smaller, "rgb8", harness.header(next_stamp()))
    send_refused(harness, msg, "camera_info is for 128x64 pixels, the image has 96x48")
    harness.send_info(INTRINSICS.resized(96, 48))
    stamp_ns = next_stamp()
    harness.send_image(stamp_ns, smaller)
    after = harness.wait_for_stamp("coopnet/odom", stamp_ns)
    status = harness.wait_for_status("odometry", "the camera changed from")
    assert status.level == DiagnosticStatus.WARN
    assert after.pose.pose == before.pose.pose
    assert np.array(after.twist.covariance)[0] == 9999.0


def test_intrinsics_change_in_mid_stream(harness: Harness) -> None:
    harness.send_info(Intrinsics(WIDTH, HEIGHT, 100.0, 100.0, 63.5, 31.5))
    send_good_frame(harness)
    harness.wait_for_status("odometry", "the camera changed from")


def test_a_stamp_that_goes_backwards(harness: Harness) -> None:
    """As when a bag starts over: odometry goes back to the origin."""
    assert send_good_frame(harness).pose.pose.position.y > 0.1
    past_ns = START_NS - 3600 * 1_000_000_000
    harness.send_image(past_ns, IMAGE)
    odom = harness.wait_for_stamp("coopnet/odom", past_ns)
    assert odom.pose.pose.position.y == 0.0
    harness.wait_for_status("odometry", "the stamp went back by")


def test_a_gap_in_the_stream(harness: Harness) -> None:
    for _ in range(20):
        next_stamp()
    send_good_frame(harness)
    harness.wait_for_status("odometry", "no image for 2.1")


def test_a_picture_without_texture_is_reported_as_lost(harness: Harness) -> None:
    before = send_good_frame(harness)
    stamp_ns = next_stamp()
    harness.send_image(stamp_ns, np.full_like(IMAGE, 128))
    odom = harness.wait_for_stamp("coopnet/odom", stamp_ns)
    assert odom.pose.pose == before.pose.pose
    assert np.diag(np.array(odom.pose.covariance).reshape(6, 6)).tolist() == [9999.0] * 6
    status = harness.wait_for_status("odometry", "lost: the image has no texture")
    assert status.level == DiagnosticStatus.WARN


def test_a_transform_without_rotation_on_tf(harness: Harness) -> None:
    publisher = harness.node.create_publisher(TFMessage, "/tf", 10)
    harness.until(lambda: publisher.get_subscription_count() > 0, "a listener on /tf")
    bad = TransformStamped()
    bad.transform.rotation.w = 0.0
    publisher.publish(TFMessage(transforms=[bad]))
    # The node's own words, or those of tf2_ros where that is installed.
    said = ("ignored a transform", "TF_DENORMALIZED_QUATERNION")
    harness.until(lambda: any(words in harness.log() for words in said), "a warning")


def test_reset_starts_odometry_anew(harness: Harness) -> None:
    assert send_good_frame(harness).pose.pose.position.y > 0.1
    response = harness.call("coopnet/reset", Trigger, Trigger.Request())
    assert response.success
    assert send_good_frame(harness).pose.pose.position.y == 0.0
    harness.wait_for_status("odometry", "~/reset was called")


def test_a_silent_camera(harness: Harness) -> None:
    assert harness.set_parameter("no_image_warning_s", 0.5).successful
    status = harness.wait_for_status("input", "no image for")
    assert status.level == DiagnosticStatus.WARN
    assert f"on {harness.resolve('image')}, publishers there: 1 (test: reliable" in status.message
    assert harness.set_parameter("no_image_warning_s", 5.0).successful


def test_a_camera_that_the_node_cannot_hear(harness: Harness, tmp_path: Path) -> None:
    """The commonest mistakes: the driver publishes the other kind, or best effort only."""
    harness.node.destroy_publisher(harness.image_publisher)
    assert harness.set_parameter("no_image_warning_s", 0.5).successful
    harness.wait_for_status("input", "set image_transport to compressed")
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    unheard = harness.node.create_publisher(Image, "image", best_effort)
    harness.wait_for_status("input", "a reliable subscription receives nothing from best-effort")
    harness.node.destroy_publisher(unheard)
    # One participant cannot have two types on a topic.
    with Harness(tmp_path, harness, has_camera=False) as other:
        other.node.create_publisher(CompressedImage, "image", 1)
        harness.wait_for_status("input", "they send sensor_msgs/msg/CompressedImage, expected")
    assert harness.set_parameter("no_image_warning_s", 5.0).successful
    harness.image_publisher = harness.node.create_publisher(Image, "image", 10)
    harness.until(lambda: harness.image_publisher.get_subscription_count() > 0, "the node")


def test_a_jpeg_whose_header_asks_for_gigabytes(tmp_path: Path) -> None:
    """Decoded, this one keeps the node busy for twelve seconds."""
    with Harness(tmp_path) as harness:
        bundle = write_tiny_bundle(tmp_path / "bundle", flow=(-2.0, 0.0))
        harness.start_node(bundle=bundle, image_transport="compressed")
        harness.listen("coopnet/odom", Odometry)
        harness.wait_for_node()
        harness.send_info()
        data = bytearray(cv2.imencode(".jpg", IMAGE)[1].tobytes())
        start = data.find(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", 4372, 62695)
        header = harness.header(next_stamp())
        harness.compressed_publisher.publish(
            CompressedImage(header=header, format="jpeg", data=bytes(data))
        )
        harness.wait_for_status("input", "for 128x64 pixels, the image has 62695x4372")
        stamp_ns = next_stamp()
        harness.send_jpeg(stamp_ns, IMAGE)
        harness.wait_for_stamp("coopnet/odom", stamp_ns)
