"""The node's parts that need no DDS: axes, odometry, mailbox, parameter table, TF tree."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

import rclpy
import yaml
from geometry_msgs.msg import TransformStamped
from rclpy.parameter import Parameter

from coopnet_core.errors import ConfigError, InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.egomotion import LOST_VARIANCE
from coopnet_core.inference.pipeline import FrameResult, Tracking
from coopnet_core.inference.pose_covariance import SCALE_ERROR, no_shared_errors
from coopnet_ros import frames, parameters
from coopnet_ros.demo_processes import free_domain_id
from coopnet_ros.mailbox import Mailbox
from coopnet_ros.odometry import BaseOdometry, odometry_message, transform_message
from coopnet_ros.stop_flag import StopFlag
from coopnet_ros.transforms import TransformTree

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]


def motion(translation: tuple[float, float, float], rotation: tuple[float, float, float]):
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array(rotation, np.float64))[0]
    T[:3, 3] = translation
    return T


def result(T_prev_cur, T_odom_cam, tracking=Tracking.TRACKING, variance=1e-4) -> FrameResult:
    return FrameResult(
        stamp_ns=0,
        intrinsics=Intrinsics(64, 32, 64, 64, 31.5, 15.5),
        depth=np.ones((32, 64), np.float32),
        flow=None,
        motion_mask=None,
        T_prev_cur=T_prev_cur,
        T_odom_cam=T_odom_cam,
        pose_covariance=np.eye(6) * variance,
        tracking=tracking,
        reset_reason=None,
        timings_ms={},
    )


def test_a_camera_that_looks_forward_turns_optical_axes_into_flu() -> None:
    T_base_cam = frames.base_from_camera([0, 0, 0, 0, 0, 0])
    right, down, forward = np.eye(3)
    R = T_base_cam[:3, :3]
    np.testing.assert_allclose(R @ forward, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(R @ right, [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(R @ down, [0, 0, -1], atol=1e-12)


def test_the_mounting_follows_urdf_order() -> None:
    # Yawed to the left by 90 degrees and then pitched down by 30: it looks left and down.
    T_base_cam = frames.base_from_camera([1, 2, 3, 0, np.pi / 6, np.pi / 2])
    looks = T_base_cam[:3, :3] @ [0, 0, 1]
    np.testing.assert_allclose(looks, [0, np.cos(np.pi / 6), -0.5], atol=1e-12)
    np.testing.assert_allclose(T_base_cam[:3, 3], [1, 2, 3])
    with pytest.raises(ConfigError, match="six finite numbers"):
        frames.base_from_camera([0, 0, 0])


def test_driving_forward_moves_the_base_along_x() -> None:
    T_base_cam = frames.base_from_camera([1.5, 0, 1.2, 0, 0, 0])
    base_step = frames.in_base_frame(motion((0, 0, 2), (0, 0, 0)), T_base_cam)
    np.testing.assert_allclose(base_step[:3, 3], [2, 0, 0], atol=1e-12)


def test_turning_about_the_base_swings_a_camera_in_front_of_it() -> None:
    """The base turns left on the spot: the camera ahead of it moves sideways, the base does not."""
    T_base_cam = frames.base_from_camera([1.5, 0, 0, 0, 0, 0])
    turn = motion((0, 0, 0), (0, 0, 0.3))
    camera_step = rigid.invert(T_base_cam) @ turn @ T_base_cam
    assert np.linalg.norm(camera_step[:3, 3]) > 0.4
    np.testing.assert_allclose(frames.in_base_frame(camera_step, T_base_cam), turn, atol=1e-12)


@pytest.mark.parametrize("rotation", [(0, 0, 0), (1e-7, 0, 0), (0.2, -0.4, 0.9), (0, 0, 3.0)])
def test_the_twist_integrates_to_the_step(rotation: tuple[float, float, float]) -> None:
    step = motion((1.0, 0.2, -0.1), rotation)
    twist = frames.twist_from_step(step, 0.5)
    np.testing.assert_allclose(twist[3:] * 0.5, rotation, atol=1e-9)
    small = 0.5 / 20000
    piece = motion(tuple(twist[:3] * small), tuple(twist[3:] * small))
    np.testing.assert_allclose(np.linalg.matrix_power(piece, 20000), step, atol=1e-3)


def test_the_twist_needs_time() -> None:
    with pytest.raises(InputError, match="positive time step"):
        frames.twist_from_step(np.eye(4), 0.0)


def test_covariances_move_as_samples_do() -> None:
    rng = np.random.default_rng(1)
    T_base_cam = frames.base_from_camera([0.5, -0.2, 0.3, 0.1, 0.2, 0.3])
    root = rng.normal(size=(6, 6)) * 1e-3
    covariance = root @ root.T
    samples = rng.multivariate_normal(np.zeros(6), covariance, 4000)
    moved = []
    for sample in samples:
        base = frames.in_base_frame(motion(tuple(sample[:3]), tuple(sample[3:])), T_base_cam)
        moved.append([*base[:3, 3], *cv2.Rodrigues(base[:3, :3])[0].ravel()])
    expected = np.cov(np.array(moved).T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    error = (frames.moved_covariance(covariance, T_base_cam) - expected) / scale
    assert np.abs(error).max() < 0.1


def test_odometry_grows_uncertain_and_says_so_when_lost() -> None:
    odometry = BaseOdometry(frames.base_from_camera([0, 0, 0, 0, 0, 0]))
    start = odometry.step(result(None, np.eye(4), Tracking.INITIALISING), 0.0)
    assert start.pose_covariance[0, 0] < 1e-6
    assert start.twist_covariance[0, 0] == LOST_VARIANCE
    step = motion((0, 0, 1.0), (0, 0, 0))
    first = odometry.step(result(step, step), 0.1)
    second = odometry.step(result(step, step @ step), 0.1)
    np.testing.assert_allclose(first.twist, [10, 0, 0, 0, 0, 0], atol=1e-9)
    assert first.twist_covariance[0, 0] == pytest.approx(1e-4 / 0.1**2)
    assert second.pose_covariance[0, 0] > 1.5 * first.pose_covariance[0, 0]
    # A step forward turns uncertain yaw into uncertain y.
    assert second.pose_covariance[1, 1] > second.pose_covariance[0, 0] * 1.2
    lost = odometry.step(result(None, step @ step, Tracking.LOST), 0.1)
    assert lost.pose_covariance[0, 0] == lost.twist_covariance[5, 5] == LOST_VARIANCE
    np.testing.assert_allclose(lost.T_odom_base, second.T_odom_base)
    found = odometry.step(result(step, step @ step @ step), 0.1)
    # It went on at 10 m/s for 0.1 s, so the held pose may be off by a metre.
    assert 1.0 < found.pose_covariance[0, 0] < 1.5


def test_an_error_of_the_scale_adds_up_along_the_path() -> None:
    odometry = BaseOdometry(frames.base_from_camera([0.5, 0, 1, 0, 0, 0]))
    step = motion((0, 0, 1.0), (0, 0, 0))
    shared = no_shared_errors()
    shared[2, SCALE_ERROR] = 0.1
    T_odom_cam = np.eye(4)
    for _ in range(20):
        T_odom_cam = T_odom_cam @ step
        frame = result(step, T_odom_cam)
        frame = replace(
            frame, pose_covariance=np.eye(6) * 1e-9 + shared @ shared.T, shared_errors=shared
        )
        state = odometry.step(frame, 0.1)
    assert state.T_odom_base[0, 3] == pytest.approx(20)
    assert np.sqrt(state.pose_covariance[0, 0]) == pytest.approx(2.0, rel=1e-3)
    odometry.restart()
    assert odometry.step(frame, 0.1).pose_covariance[0, 0] == pytest.approx(0.01, rel=1e-3)


def test_pose_covariance_lies_along_the_axes_of_odom() -> None:
    odometry = BaseOdometry(frames.base_from_camera([0, 0, 0, 0, 0, 0]))
    turn_left = motion((0, 0, 0), (0, -np.pi / 2, 0))
    odometry.step(result(turn_left, turn_left, variance=1e-12), 0.1)
    forward = result(motion((0, 0, 1), (0, 0, 0)), turn_left @ motion((0, 0, 1), (0, 0, 0)))
    forward.pose_covariance[:] = np.diag([1e-12, 1e-12, 0.04, 1e-12, 1e-12, 1e-12])
    state = odometry.step(forward, 0.1)
    np.testing.assert_allclose(state.T_odom_base[:3, 3], [0, 1, 0], atol=1e-9)
    assert state.pose_covariance[1, 1] == pytest.approx(0.04, rel=1e-3)
    assert state.pose_covariance[0, 0] < 1e-6
    msg = odometry_message(state, TransformStamped().header.stamp, "odom", "base_link")
    assert msg.pose.covariance[7] == pytest.approx(0.04, rel=1e-3)
    assert msg.twist.twist.linear.x == pytest.approx(10.0)
    assert (msg.header.frame_id, msg.child_frame_id) == ("odom", "base_link")


def test_the_mailbox_keeps_only_the_newest() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(item) for item in (1, 2, 3)] == [False, True, True]
    assert mailbox.take() == 3
    taken: list[int | None] = []
    consumer = threading.Thread(target=lambda: taken.append(mailbox.take()))
    consumer.start()
    mailbox.close()
    consumer.join(timeout=5)
    assert taken == [None]


def test_the_tf_tree_connects_frames_through_a_common_ancestor() -> None:
    T_base_mast, T_mast_cam = motion((0, 0, 1), (0, 0, 0.5)), motion((0.1, 0, 0), (0.2, 0, 0))
    T_base_lidar = motion((0.3, 0, 0), (0, 0, 0))
    stamp = TransformStamped().header.stamp
    tree = TransformTree()
    tree.update(transform_message(T_base_mast, stamp, "base", "mast"))
    tree.update(transform_message(T_mast_cam, stamp, "/mast", "camera"))
    tree.update(transform_message(T_base_lidar, stamp, "base", "lidar"))
    np.testing.assert_allclose(tree.lookup("base", "camera"), T_base_mast @ T_mast_cam)
    expected = rigid.invert(T_base_lidar) @ T_base_mast @ T_mast_cam
    np.testing.assert_allclose(tree.lookup("lidar", "camera"), expected)
    assert tree.lookup("base", "elsewhere") is None
    bad = TransformStamped()
    bad.transform.rotation.w = 0.0
    with pytest.raises(InputError, match="no rotation"):
        tree.update(bad)


def test_when_time_starts_over_tf_keeps_what_is_static() -> None:
    stamp = TransformStamped().header.stamp
    tree = TransformTree()
    tree.update(transform_message(np.eye(4), stamp, "base", "mast"), is_static=True)
    tree.update(transform_message(np.eye(4), stamp, "mast", "head"))
    tree.clear()
    assert tree.lookup("base", "mast") is not None
    assert tree.lookup("base", "head") is None


def test_a_loop_in_tf_does_not_hang() -> None:
    stamp = TransformStamped().header.stamp
    tree = TransformTree()
    for a, b in (("a", "b"), ("b", "a")):
        tree.update(transform_message(np.eye(4), stamp, a, b))
    assert tree.lookup("base", "a") is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_gap_s", 5, "'max_gap_s' must be of type double.*write 5.0, not 5"),
        ("max_gap_s", 100.0, r"'max_gap_s' must be of type double \(0.05 to 60\).*out of range"),
        ("num_threads", "two", "'num_threads' must be of type integer"),
        ("device", "tpu", "'device' must be one of auto, cpu, .*, cuda, .*, got 'tpu'"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(name: str, value: object, message: str) -> None:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=free_domain_id())
    overrides = [Parameter(name, value=value)]
    try:
        node = rclpy.create_node("test", context=context, parameter_overrides=overrides)
        with pytest.raises(ConfigError, match=message):
            parameters.declare(node)
    finally:
        context.try_shutdown()


def test_the_parameter_file_is_the_one_of_the_table() -> None:
    text = (ROOT / "config" / "coopnet.yaml").read_text()
    assert text == parameters.yaml_text(), "python -m coopnet_ros.parameters yaml"
    values = yaml.safe_load(text)["/**"][parameters.NODE_NAME]["ros__parameters"]
    assert values == {parameter.name: parameter.default for parameter in parameters.TABLE}


def test_the_parameter_page_is_the_one_of_the_table() -> None:
    text = (ROOT / "docs" / "parameters.md").read_text()
    assert text == parameters.markdown_text(), "python -m coopnet_ros.parameters markdown"


def test_a_second_interrupt_ends_the_program_but_not_the_same_one_twice() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop = StopFlag()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the terminal's, and that of ros2 launch
        assert stop.is_set
        stop._first_s -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
