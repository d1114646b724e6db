"""What comes out of the node: topics, frames, stamps, encodings, QoS; the newest frame only."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMsg
from point_clouds import arrays_from_cloud
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import (
    CAMERA_FRAME,
    HEIGHT,
    INTRINSICS,
    PERIOD_NS,
    START_NS,
    WIDTH,
    Harness,
    stamp_of,
)
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from tiny_bundle import block_flow, textured_image, textured_strip, write_tiny_bundle

from coopnet_core.data.ros_images import array_from_image
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.image_messages import image_from_array
from coopnet_ros.odometry import transform_message

pytestmark = pytest.mark.ros

IMAGES = {
    "coopnet/depth/image": "32FC1",
    "coopnet/depth/preview": "bgr8",
    "coopnet/flow/image": "32FC2",
    "coopnet/flow/preview": "bgr8",
    "coopnet/motion/mask": "mono8",
    "coopnet/motion/preview": "bgr8",
}
OTHERS = {
    "coopnet/depth/camera_info": CameraInfo,
    "coopnet/odom": Odometry,
    "coopnet/path": PathMsg,
    "coopnet/points": PointCloud2,
}
NUM_FRAMES = 6
# The networks' image is half the camera's, and the camera has fx == width. It is large enough for
# few points of the odometry to lie at an edge of the block, where their surroundings hold two
# motions: in a picture of 64x32, where many do, a step comes out up to 40 % too long.
NET_WIDTH, NET_HEIGHT = 256, 128
CAMERA = Intrinsics(512, 256, 512.0, 512.0, 255.5, 127.5)
DEPTH, FLOW_U = 40.0, -2.0
MAX_FRAMES = 700
STEP_M = 2.0 * DEPTH / NET_WIDTH
BLOCK = (144, 24, 96, 88)
BLOCK_FLOW_V = 5
STATIC_TF = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def stamp(index: int) -> int:
    return START_NS + index * PERIOD_NS


@lru_cache(maxsize=1)
def strip() -> np.ndarray:
    return textured_strip(CAMERA.width + int(-2 * FLOW_U) * MAX_FRAMES, CAMERA.height)


def wall(index: int) -> np.ndarray:
    """A picture that moves as the networks say, at twice their size."""
    offset = int(-2 * FLOW_U) * (MAX_FRAMES - index)
    return strip()[:, offset : offset + CAMERA.width].copy()


def frame(index: int) -> np.ndarray:
    """The wall, and a block of it that moves by itself."""
    picture = wall(index)
    shift = (-2 * BLOCK_FLOW_V * index, int(-2 * FLOW_U) * index)
    x, y, w, h = (2 * number for number in BLOCK)
    mover = np.roll(textured_strip(w, h, seed=1), shift, axis=(0, 1))
    picture[y : y + h, x : x + w] = mover
    return picture


def write_bundle(path: Path, *, with_block: bool = False) -> Path:
    """A bundle that sees the camera move to the left along the wall."""
    # Everything was further left in the previous image: the camera went to the left.
    block = (FLOW_U, BLOCK_FLOW_V if with_block else 0.0)
    flow = block_flow((FLOW_U, 0.0), block, BLOCK, NET_WIDTH, NET_HEIGHT)
    return write_tiny_bundle(path, width=NET_WIDTH, height=NET_HEIGHT, depth=DEPTH, flow=flow)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A node that has seen six frames, over which the camera moves to the left."""
    folder = tmp_path_factory.mktemp("outputs")
    bundle = write_bundle(folder / "bundle", with_block=True)
    with Harness(folder) as harness:
        harness.start_node(bundle=bundle, path_period_s=0.0, base_frame="robot")
        for topic in IMAGES:
            harness.listen(topic, Image)
        for topic, msg_type in OTHERS.items():
            harness.listen(topic, msg_type)
        harness.listen("/tf", TFMessage)
        harness.listen("/tf_static", TFMessage, STATIC_TF)
        harness.wait_for_node()
        harness.send_info(CAMERA)
        for index in range(NUM_FRAMES):
            harness.send_image(stamp(index), frame(index))
            harness.wait_for_stamp("coopnet/odom", stamp(index))
        last = stamp(NUM_FRAMES - 1)
        for topic in (*IMAGES, *OTHERS):
            harness.wait_for_stamp(topic, last)
        yield harness


@pytest.mark.parametrize(("topic", "encoding"), IMAGES.items())
def test_images_have_the_camera_frame_the_encoding_and_the_network_size(
    harness: Harness, topic: str, encoding: str
) -> None:
    msg = harness.wait_for_stamp(topic, stamp(NUM_FRAMES - 1))
    assert (msg.encoding, msg.header.frame_id) == (encoding, CAMERA_FRAME)
    assert (msg.width, msg.height) == (NET_WIDTH, NET_HEIGHT)


@pytest.mark.parametrize("topic", [*IMAGES, *OTHERS])
def test_stamps_are_those_of_the_input(harness: Harness, topic: str) -> None:
    stamps = [stamp_of(m) for m in harness.received[topic]]
    # Flow and motion need two frames.
    first = (
        1 if topic in ("coopnet/flow/image", "coopnet/flow/preview", "coopnet/motion/mask") else 0
    )
    assert stamps == [stamp(index) for index in range(first, NUM_FRAMES)]


@pytest.mark.parametrize("topic", [*IMAGES, *OTHERS])
def test_outputs_are_published_reliably(harness: Harness, topic: str) -> None:
    (endpoint,) = harness.node.get_publishers_info_by_topic(harness.resolve(topic))
    assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert endpoint.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_depth_and_its_camera_info_fit_together(harness: Harness) -> None:
    depth = array_from_image(harness.wait_for_stamp("coopnet/depth/image", stamp(2)))
    np.testing.assert_allclose(depth, DEPTH, rtol=1e-5)
    info = harness.wait_for_stamp("coopnet/depth/camera_info", stamp(2))
    assert (info.width, info.height) == (NET_WIDTH, NET_HEIGHT)
    assert info.header.frame_id == CAMERA_FRAME
    expected = CAMERA.resized(NET_WIDTH, NET_HEIGHT).matrix()
    np.testing.assert_allclose(np.array(info.k).reshape(3, 3), expected)
    np.testing.assert_allclose(np.array(info.p).reshape(3, 4)[:, :3], expected)
    assert not any(info.d)


def test_points_are_the_depth_image_in_space_with_the_colours_of_the_picture(
    harness: Harness,
) -> None:
    points = harness.wait_for_stamp("coopnet/points", stamp(2))
    assert points.header.frame_id == CAMERA_FRAME
    assert (points.width, points.height, points.is_dense) == (NET_WIDTH, NET_HEIGHT, False)
    xyz, rgb = arrays_from_cloud(points)
    depth = array_from_image(harness.wait_for_stamp("coopnet/depth/image", stamp(2)))
    np.testing.assert_array_equal(xyz[..., 2], depth)
    info = harness.wait_for_stamp("coopnet/depth/camera_info", stamp(2))
    projected = xyz @ np.array(info.p).reshape(3, 4)[:, :3].T
    columns, rows = np.meshgrid(np.arange(NET_WIDTH), np.arange(NET_HEIGHT))
    np.testing.assert_allclose(projected[..., 0] / projected[..., 2], columns, atol=1e-3)
    np.testing.assert_allclose(projected[..., 1] / projected[..., 2], rows, atol=1e-3)
    picture = cv2.resize(frame(2), (NET_WIDTH, NET_HEIGHT), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(rgb, picture)


def test_flow_is_the_motion_since_the_previous_frame(harness: Harness) -> None:
    flow = array_from_image(harness.wait_for_stamp("coopnet/flow/image", stamp(2)))
    assert flow.shape == (NET_HEIGHT, NET_WIDTH, 2)
    assert flow[2, 2].tolist() == [-FLOW_U, 0.0]


def test_the_motion_mask_marks_what_moves_by_itself(harness: Harness) -> None:
    mask = array_from_image(harness.wait_for_stamp("coopnet/motion/mask", stamp(2)))
    assert set(np.unique(mask)) == {0, 255}
    x, y, w, h = BLOCK
    # Its lower edge comes from outside the block, so flow there and back disagrees.
    inside = mask[y + 3 : y + h - BLOCK_FLOW_V - 3, x + 5 : x + w - 3]
    assert (inside == 255).all()
    assert mask[:, : x - 6].max() == 0


def test_odometry_is_in_flu_axes_with_the_twist_in_the_child_frame(harness: Harness) -> None:
    odom = harness.wait_for_stamp("coopnet/odom", stamp(5))
    assert (odom.header.frame_id, odom.child_frame_id) == ("odom", "robot")
    position, linear = odom.pose.pose.position, odom.twist.twist.linear
    # The camera moves to its left, which is +y. In front of a wall that is nearly a turn: a single
    # step varies by 2 %, which evens out.
    assert position.y == pytest.approx(5 * STEP_M, rel=0.02)
    assert abs(position.x) < 0.02
    assert abs(position.z) < 0.05
    assert linear.y == pytest.approx(STEP_M / 0.1, rel=0.05)
    covariance = np.array(odom.pose.covariance).reshape(6, 6)
    assert (np.diag(covariance) > 0).all()
    assert (np.diag(covariance) < 9999).all()
    first = harness.wait_for_stamp("coopnet/odom", stamp(0))
    assert first.pose.pose.orientation.w == 1.0
    assert np.diag(np.array(first.twist.covariance).reshape(6, 6))[0] == 9999.0


def test_tf_says_the_same_as_odometry(harness: Harness) -> None:
    transforms = [t for m in harness.received["/tf"] for t in m.transforms]
    (found,) = [t for t in transforms if stamp_of(t) == stamp(5)]
    assert (found.header.frame_id, found.child_frame_id) == ("odom", "robot")
    position = harness.wait_for_stamp("coopnet/odom", stamp(5)).pose.pose.position
    assert found.transform.translation.y == position.y


def test_the_mounting_from_the_parameter_is_published_so_that_tf_is_connected(
    harness: Harness,
) -> None:
    (found,) = harness.wait_for("/tf_static").transforms
    assert (found.header.frame_id, found.child_frame_id) == ("robot", CAMERA_FRAME)
    rotation = found.transform.rotation
    # Optical axes seen from FLU: the usual quaternion (-0.5, 0.5, -0.5, 0.5).
    assert [rotation.x, rotation.y, rotation.z, rotation.w] == pytest.approx([-0.5, 0.5, -0.5, 0.5])


def test_the_path_has_one_pose_per_frame(harness: Harness) -> None:
    path = harness.wait_for_stamp("coopnet/path", stamp(5))
    assert path.header.frame_id == "odom"
    assert [stamp_of(p) for p in path.poses] == [stamp(index) for index in range(NUM_FRAMES)]


def test_diagnostics_have_rate_latency_device_bundle_and_state(harness: Harness) -> None:
    harness.wait_for_status("odometry", "tracking")
    processing = harness.wait_for_status("processing", "processing")
    values = {pair.key: pair.value for pair in processing.values}
    assert float(values["rate out [Hz]"]) > 0
    assert float(values["latency max [ms]"]) > 0
    assert {"decode [ms]", "depth [ms]", "flow [ms]", "publish [ms]"} <= values.keys()
    assert 30 < float(values["memory [MB]"]) < 3000
    model = harness.wait_for_status("model", "running")
    values = {pair.key: pair.value for pair in model.values}
    assert values["bundle"].startswith("tiny-")
    assert re.match(r"(onnxruntime|openvino) [\d.]+, CPU", values["device"])
    assert re.search(r"\((cpu|openvino): no", values["device"]), "and why"
    assert values["metric"] == "true"
    received = harness.wait_for_status("input", "receiving")
    values = {pair.key: pair.value for pair in received.values}
    assert values["image topic"] == harness.resolve("image")


def test_only_the_newest_frame_is_processed(tmp_path: Path) -> None:
    """A camera that is faster than the node: frames are skipped, and the last one comes out."""
    bundle = write_tiny_bundle(tmp_path / "bundle", width=1024, height=512, flow=(1.0, 0.0))
    # Frames that are quick to send and slow to process.
    camera = Intrinsics(320, 160, 320.0, 320.0, 159.5, 79.5)
    image = textured_image(320, 160)
    with Harness(tmp_path) as harness:
        harness.start_node(bundle=bundle)
        harness.listen("coopnet/odom", Odometry)
        harness.listen("coopnet/motion/mask", Image)
        harness.wait_for_node()
        harness.send_info(camera)
        num_frames = 40
        for index in range(num_frames):
            harness.send_image(START_NS + index * PERIOD_NS // 5, image)
            time.sleep(0.005)
        last = START_NS + (num_frames - 1) * PERIOD_NS // 5
        harness.wait_for_stamp("coopnet/odom", last)
        stamps = [stamp_of(m) for m in harness.received["coopnet/odom"]]
        assert stamps == sorted(stamps)
        # What came and did not come out had given way to a newer one.
        counts: dict[str, int] = {}

        def accounted() -> bool:
            status = harness.wait_for_status("input", "")
            counts.update({p.key: int(p.value) for p in status.values if p.value.isdigit()})
            return counts["received"] == len(stamps) + counts["dropped for a newer one"]

        harness.until(accounted, "every frame to be accounted for")
        assert counts["dropped for a newer one"] > 0
        assert counts["refused"] == 0


def test_without_tf_the_mounting_is_a_makeshift_that_tf_replaces(tmp_path: Path) -> None:
    """It waits, goes on with the parameter, says so, and never speaks for the robot on TF."""
    bundle = write_bundle(tmp_path / "bundle")
    with Harness(tmp_path) as harness:
        harness.start_node(bundle=bundle, camera_mounting="auto")
        harness.listen("coopnet/odom", Odometry)
        harness.listen("coopnet/depth/image", Image)
        harness.listen("/tf_static", TFMessage, STATIC_TF)
        harness.listen("/tf", TFMessage)
        harness.wait_for_node()
        harness.send_info(CAMERA)
        sent = 0

        def drive() -> None:
            nonlocal sent
            harness.send_image(stamp(sent), wall(sent))
            harness.wait_for_stamp("coopnet/depth/image", stamp(sent))
            sent += 1

        drive()
        harness.wait_for_status("odometry", "no odometry yet: TF has no transform base_link <-")
        assert harness.received["coopnet/odom"] == []
        while not harness.received["coopnet/odom"]:
            assert sent < 600, harness.log()
            drive()
        for _ in range(3):
            drive()
        status = harness.wait_for_status("odometry", "camera_xyz_rpy is taken for now: TF has no")
        assert status.level == DiagnosticStatus.WARN
        before = harness.wait_for_stamp("coopnet/odom", stamp(sent - 1))
        assert before.twist.twist.linear.y > 1.0

        T_base_cam = np.eye(4)
        T_base_cam[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        mounting = transform_message(
            T_base_cam, harness.header(stamp(0)).stamp, "base_link", CAMERA_FRAME
        )
        tf = harness.node.create_publisher(TFMessage, "/tf_static", STATIC_TF)
        tf.publish(TFMessage(transforms=[mounting]))
        harness.until(lambda: len(harness.received["/tf_static"]) > 0, "our own transform")
        for _ in range(30):
            drive()
            odom = harness.wait_for_stamp("coopnet/odom", stamp(sent - 1))
            if odom.twist.twist.linear.x < -1.0:
                break
        # Left of a camera that looks to the left is backwards.
        assert odom.twist.twist.linear.x == pytest.approx(-STEP_M / 0.1, rel=0.05)
        # Another mounting, another odometry: its first pose is the origin, with that certainty.
        status = harness.wait_for_status("odometry", "reset: camera mounting from TF base_link <-")
        first = next(
            m
            for m in harness.received["coopnet/odom"]
            if stamp_of(m) > stamp_of(before) and m.pose.pose.position.y == 0.0
        )
        assert first.pose.pose.position.x == 0.0
        assert odom.pose.pose.position.x < 0.0
        harness.wait_for_status("odometry", "tracking")
        assert len(harness.received["/tf_static"]) == 1, "the node has published a mounting"
        assert harness.received["/tf"], "odom to base_link goes on"


def test_defaults_hear_a_best_effort_camera_with_a_lens_and_may_stay_off_tf(
    tmp_path: Path,
) -> None:
    """Default QoS, a wide lens called rectified, and no word on TF beside a filter."""
    bundle = write_tiny_bundle(tmp_path / "bundle", depth=DEPTH, flow=(0.0, 0.0))
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    with Harness(tmp_path, has_camera=False) as harness:
        camera = harness.node.create_publisher(Image, "image_rect_color", best_effort)
        calibration = harness.node.create_publisher(CameraInfo, "camera_info", best_effort)
        harness.start_node(
            bundle=bundle,
            publish_tf=False,
            image_reliability="best_effort",
            arguments=("-r", "image:=image_rect_color"),
        )
        for topic, msg_type in (
            ("coopnet/depth/image", Image),
            ("coopnet/depth/camera_info", CameraInfo),
            ("coopnet/odom", Odometry),
            ("/tf", TFMessage),
        ):
            harness.listen(topic, msg_type)
        harness.listen("/tf_static", TFMessage, STATIC_TF)
        harness.until(
            lambda: (
                camera.get_subscription_count() > 0 and calibration.get_subscription_count() > 0
            ),
            "the node to listen",
        )
        info = camera_info_from_intrinsics(INTRINSICS, harness.header(START_NS))
        # A pincushion: the corners of the rectified picture lie outside what the camera saw.
        info.d = [0.5, 0.0, 0.0, 0.0, 0.0]
        for index in range(3):
            calibration.publish(info)
            header = harness.header(stamp(index))
            camera.publish(image_from_array(textured_image(WIDTH, HEIGHT), "rgb8", header))
            time.sleep(0.3)
        depth = array_from_image(harness.wait_for("coopnet/depth/image"))
        assert np.isnan(depth[0, 0])
        assert depth[16, 32] == pytest.approx(DEPTH, rel=1e-5)
        assert not any(harness.wait_for("coopnet/depth/camera_info").d)
        harness.wait_for("coopnet/odom")
        harness.until(lambda: "is called rectified" in harness.log(), "a warning")
        assert harness.received["/tf"] == harness.received["/tf_static"] == []


def test_compressed_input_with_the_mounting_from_tf(tmp_path: Path) -> None:
    """JPEG in, a truncated one refused; TF says late that the camera looks to the left."""
    bundle = write_bundle(tmp_path / "bundle")
    with Harness(tmp_path) as harness:
        harness.start_node(bundle=bundle, image_transport="compressed", camera_mounting="tf")
        harness.listen("coopnet/odom", Odometry)
        harness.listen("coopnet/depth/image", Image)
        harness.wait_for_node()
        harness.send_info(CAMERA)
        harness.send_jpeg(stamp(-1), wall(0), num_bytes=700)
        status = harness.wait_for_status("input", "truncated JPEG: 700 bytes and no end marker")
        assert status.level == DiagnosticStatus.WARN
        harness.send_jpeg(stamp(0), wall(0))
        harness.wait_for_stamp("coopnet/depth/image", stamp(0))
        harness.wait_for_status("odometry", "TF has no transform base_link <- camera_optical_frame")
        assert harness.received["coopnet/odom"] == []

        T_base_cam = np.eye(4)
        T_base_cam[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        T_base_cam[:3, 3] = [0.3, 0.0, 1.0]
        tf = harness.node.create_publisher(TFMessage, "/tf_static", STATIC_TF)
        mounting: TransformStamped = transform_message(
            T_base_cam, harness.header(stamp(0)).stamp, "base_link", CAMERA_FRAME
        )
        tf.publish(TFMessage(transforms=[mounting]))
        for index in range(1, 30):
            harness.send_jpeg(stamp(index), wall(index))
            harness.wait_for_stamp("coopnet/depth/image", stamp(index))
            if len(harness.received["coopnet/odom"]) > 3:
                break
        first, odom = (harness.received["coopnet/odom"][index] for index in (0, -1))
        # Images have come before, but odometry starts where it is first known.
        assert first.pose.pose.position.x == first.pose.pose.position.y == 0.0
        assert odom.pose.covariance[0] > 1e-6
        # Left of a camera that looks to the left is backwards.
        assert odom.twist.twist.linear.x == pytest.approx(-STEP_M / 0.1, rel=0.05)
        assert abs(odom.twist.twist.linear.y) < 0.5
