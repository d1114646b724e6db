"""Clouds, depth images and camera_info of a frame, without a node; and who makes them for whom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

import rclpy
from point_clouds import arrays_from_cloud
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from coopnet_core.data.camera_info import Calibration, calibration_from_camera_info, rectify
from coopnet_core.data.ros_images import array_from_image
from coopnet_core.errors import InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.pipeline import FrameResult, Tracking
from coopnet_ros import frame_messages, parameters
from coopnet_ros.camera_input import Picture
from coopnet_ros.demo_processes import free_domain_id
from coopnet_ros.frame_messages import FrameMessages, FrameView
from coopnet_ros.image_messages import millimetres
from coopnet_ros.outputs import TOPICS, Outputs
from coopnet_ros.point_cloud import PointCloud

pytestmark = pytest.mark.ros

SMALL = Intrinsics(8, 6, 10.0, 12.0, 3.3, 2.6)
NETWORK = (416, 128)


def result_of(intrinsics: Intrinsics, depth: float = 7.0) -> FrameResult:
    shape = (intrinsics.height, intrinsics.width)
    return FrameResult(
        stamp_ns=0,
        intrinsics=intrinsics,
        depth=np.full(shape, depth, np.float32),
        flow=np.ones((*shape, 2), np.float32),
        motion_mask=np.zeros(shape, np.bool_),
        T_prev_cur=np.eye(4),
        T_odom_cam=np.eye(4),
        pose_covariance=np.eye(6),
        tracking=Tracking.TRACKING,
        reset_reason=None,
        timings_ms={},
    )


def test_a_cloud_is_organised_and_invalid_where_depth_is() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1.0, 50.0, (6, 8)).astype(np.float32)
    depth[1, 2], depth[3, 4], depth[5, 0] = np.nan, np.inf, 0.0
    picture = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    msg = PointCloud().message(depth, picture, SMALL, Header(frame_id="optical"))
    xyz, rgb = arrays_from_cloud(msg)
    assert (msg.header.frame_id, msg.width, msg.height) == ("optical", 8, 6)
    assert not msg.is_dense
    assert [field.name for field in msg.fields] == ["x", "y", "z", "rgb"]
    np.testing.assert_array_equal(rgb, picture)
    is_valid = np.isfinite(depth) & (depth > 0)
    assert np.isnan(xyz[~is_valid]).all()
    # What image_geometry's projectPixelTo3dRay says, times depth.
    v, u = np.nonzero(is_valid)
    z = depth[v, u]
    expected = np.stack([(u - 3.3) / 10.0 * z, (v - 2.6) / 12.0 * z, z], axis=-1)
    np.testing.assert_allclose(xyz[v, u], expected, rtol=1e-5, atol=1e-5)


def test_a_grey_picture_makes_a_grey_cloud_and_messages_share_nothing() -> None:
    cloud = PointCloud()
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    first = cloud.message(np.ones((6, 8), np.float32), gray, SMALL, Header())
    before = bytes(first.data)
    wide = Intrinsics(16, 6, 10.0, 12.0, 3.3, 2.6)
    cloud.message(np.ones((6, 16), np.float32), np.zeros((6, 16), np.uint8), wide, Header())
    cloud.message(2 * np.ones((6, 8), np.float32), 255 - gray, SMALL, Header())
    assert bytes(first.data) == before
    np.testing.assert_array_equal(arrays_from_cloud(first)[1], np.stack([gray] * 3, axis=-1))


def test_a_cloud_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"8x6 pixels cannot come from depth of shape \(3, 4\)"):
        PointCloud().message(
            np.ones((3, 4), np.float32), np.zeros((6, 8), np.uint8), SMALL, Header()
        )


def test_sixteen_bit_depth_is_in_millimetres_and_zero_where_it_has_no_value() -> None:
    depth = np.array([[0.0004, 0.001, 1.2345, 65.535, 65.536, 80.0, np.nan, np.inf, -1.0]])
    found = millimetres(depth.astype(np.float32))
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 1, 1234, 65535, 0, 0, 0, 0, 0]]
    view = FrameView(result_of(SMALL, depth=1.5), picture_of(SMALL), Header())
    msg = FrameMessages("16UC1").makers["~/depth/image"](view)
    assert msg.encoding == "16UC1"
    assert (array_from_image(msg) == 1500).all()


def picture_of(intrinsics: Intrinsics) -> Picture:
    info = frame_messages.camera_info_from_intrinsics(intrinsics, Header())
    image = np.zeros((intrinsics.height, intrinsics.width, 3), np.uint8)
    return Picture(image, calibration_from_camera_info(info), None)


# A sensor whose lens bends, and whose rectified camera is another one, turned and beside the first.
SENSOR = (1280, 960)
K = np.array([[900.0, 0.0, 655.0], [0.0, 910.0, 470.0], [0.0, 0.0, 1.0]])
D = np.array([-0.28, 0.09, 0.001, -0.0007, 0.0])
R = cv2.Rodrigues(np.array([0.01, -0.02, 0.005]))[0]
P = np.array([[820.0, 0.0, 640.0, -98.4], [0.0, 820.0, 480.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
WINDOW = (160, 200, 960, 560)


def sensor_info(window: tuple[int, int, int, int] | None, binning: int) -> CameraInfo:
    info = CameraInfo(width=SENSOR[0], height=SENSOR[1], distortion_model="plumb_bob")
    info.k, info.d, info.r, info.p = K.ravel(), D.tolist(), R.ravel(), P.ravel()
    info.binning_x = info.binning_y = binning
    if window is not None:
        info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = window
    return info


def depth_camera_info(info: CameraInfo, picture: Picture) -> CameraInfo:
    intrinsics = picture.calibration.intrinsics().resized(*NETWORK)
    view = FrameView(result_of(intrinsics), picture, Header(frame_id="optical"))
    return FrameMessages("32FC1").makers["~/depth/camera_info"](view)


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("binning", [0, 1, 2, 4])
def test_p_follows_roi_binning_and_resize(
    window: tuple[int, int, int, int] | None, binning: int
) -> None:
    """Points in space, through the sensor's P and then pixel by pixel to the depth image."""
    info = sensor_info(window, binning)
    calibration = calibration_from_camera_info(info)
    picture = Picture(
        np.zeros((calibration.height, calibration.width), np.uint8), calibration, None
    )
    moved = depth_camera_info(info, picture)
    x, y, width, height = window or (0, 0, *SENSOR)
    points = np.random.default_rng(1).uniform([-2, -1, 4], [2, 1, 20], (50, 3))
    u, v, w = P @ np.column_stack([points, np.ones(50)]).T
    factor = max(binning, 1)
    # A pixel is an area: the edges of the picture, half a pixel out, stay where they are.
    expected = [
        ((number / w - offset + 0.5) / factor * new / (old // factor)) - 0.5
        for number, offset, old, new in ((u, x, width, NETWORK[0]), (v, y, height, NETWORK[1]))
    ]
    found_p = np.array(moved.p).reshape(3, 4)
    u2, v2, w2 = found_p @ np.column_stack([points, np.ones(50)]).T
    np.testing.assert_allclose([u2 / w2, v2 / w2], expected, atol=1e-9)
    np.testing.assert_allclose(np.array(moved.k).reshape(3, 3), found_p[:, :3])
    assert found_p[0, 3] == pytest.approx(P[0, 3] * NETWORK[0] / width)
    assert (moved.width, moved.height) == NETWORK
    # Describes the depth image alone: no lens, no window, no binning of the camera.
    assert not any(moved.d)
    assert np.array(moved.r).reshape(3, 3).tolist() == np.eye(3).tolist()
    assert (moved.roi.width, moved.binning_x) == (0, 0)


@pytest.mark.parametrize(("window", "binning"), [(None, 1), (WINDOW, 1), (WINDOW, 2)])
def test_a_light_is_seen_where_p_says(
    window: tuple[int, int, int, int] | None, binning: int
) -> None:
    """A light in space through the lens onto the sensor, cropped, binned, rectified, resized."""
    light = np.array([0.3, 0.25, 3.0])  # axes of the rectified camera
    x, y = cv2.projectPoints((R.T @ light)[None], np.zeros(3), np.zeros(3), K, D)[0].ravel()
    rows, columns = np.mgrid[: SENSOR[1], : SENSOR[0]]
    raw = (255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 12.0**2))).astype(np.uint8)
    x0, y0, width, height = window or (0, 0, *SENSOR)
    raw = raw[y0 : y0 + height, x0 : x0 + width]
    size = (width // binning, height // binning)
    raw = cv2.resize(raw, size, interpolation=cv2.INTER_AREA)
    info = sensor_info(window, binning)
    calibration = calibration_from_camera_info(info, *size)
    picture = rectified(raw, calibration)
    view = FrameView(result_of(calibration.intrinsics().resized(*NETWORK)), picture, Header())
    seen = view.colors.astype(np.float64)
    total = seen.sum()
    u = (seen * np.arange(NETWORK[0])).sum() / total
    v = (seen * np.arange(NETWORK[1])[:, None]).sum() / total
    p = np.array(depth_camera_info(info, picture).p).reshape(3, 4)
    expected = p[:, :3] @ light
    assert (u, v) == pytest.approx(tuple(expected[:2] / expected[2]), abs=0.1)


def rectified(raw: np.ndarray, calibration: Calibration) -> Picture:
    image, valid = rectify(raw, calibration)
    return Picture(image, calibration, valid)


def spy(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: list[str]) -> None:
    """Note every call of ``owner.name``."""
    call = getattr(owner, name)

    def record(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call(*args, **kwargs)

    monkeypatch.setattr(owner, name, record)


@pytest.fixture
def lifecycle_node() -> Iterator[LifecycleNode]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=free_domain_id())
    node = LifecycleNode("coopnet", context=context, use_global_arguments=False)
    yield node
    node.destroy_node()
    context.try_shutdown()


def test_nothing_is_made_for_outputs_without_subscribers(
    lifecycle_node: LifecycleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lifecycle_node
    camera = Intrinsics(*NETWORK, 400.0, 400.0, 207.5, 63.5)
    # Part of it was not seen, which costs a mask for those who ask.
    valid = np.ones((NETWORK[1], NETWORK[0]), np.bool_)
    valid[0] = False
    picture = picture_of(camera)._replace(valid=valid)
    made = Outputs(node, parameters.declare(node))
    calls: list[str] = []
    rendering = frame_messages.rendering
    for owner, name in (
        (frame_messages, "image_from_array"),
        (frame_messages, "camera_info_from_intrinsics"),
        (PointCloud, "message"),
        (frame_messages.cv2, "resize"),
        (rendering, "depth_range"),
        (rendering, "render_depth"),
        (rendering, "render_flow"),
        (rendering, "render_mask"),
    ):
        spy(monkeypatch, owner, name, calls)

    def calls_for(topic: str) -> set[str]:
        calls.clear()
        subscription = node.create_subscription(TOPICS[topic], topic, lambda _: None, 1)
        end_s = time.monotonic() + 30
        while not made._publishers[topic].get_subscription_count():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        made.publish_maps(result_of(camera), picture, Header())
        node.destroy_subscription(subscription)
        while made._publishers[topic].get_subscription_count():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        return set(calls)

    made.publish_maps(result_of(camera), picture, Header())
    assert calls == []
    assert made.wanted() == frozenset()
    image = "image_from_array"
    assert calls_for("~/depth/camera_info") == {"camera_info_from_intrinsics"}
    assert calls_for("~/flow/image") == {image}
    assert calls_for("~/depth/image") == {image, "resize"}
    assert calls_for("~/motion/mask") == {image, "resize"}
    assert calls_for("~/points") == {"message", "resize"}
    assert calls_for("~/depth/preview") == {image, "resize", "depth_range", "render_depth"}
    assert calls_for("~/flow/preview") == {image, "render_flow"}
    assert calls_for("~/motion/preview") == {image, "resize", "render_mask"}
