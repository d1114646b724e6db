"""Configure, activate, bundle changes, wrong parameters."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rclpy.qos import ReliabilityPolicy
from ros_harness import HEIGHT, PERIOD_NS, START_NS, WIDTH, Harness
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.inference.bundle import load_bundle

pytestmark = pytest.mark.ros

IMAGE = textured_image(WIDTH, HEIGHT)


def state_of(harness: Harness) -> int:
    return int(harness.call("coopnet/get_state", GetState, GetState.Request()).current_state.id)


def change_state(harness: Harness, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(harness.call("coopnet/change_state", ChangeState, request).success)


def damaged(bundle: Path) -> Path:
    """Return a copy of a bundle with one byte of a network changed."""
    copy = bundle.with_name(bundle.name + "_damaged")
    shutil.copytree(bundle, copy)
    data = bytearray((copy / "flow.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "flow.onnx").write_bytes(data)
    return copy


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def test_a_bundle_with_a_wrong_hash_fails_to_configure_and_a_good_one_repairs_it(
    harness: Harness, tmp_path: Path
) -> None:
    good = write_tiny_bundle(tmp_path / "good", flow=(-2.0, 0.0))
    bad = damaged(good)
    harness.start_node(bundle=bad, autostart=True)
    status = harness.wait_for_status("model", "SHA-256")
    assert status.level == DiagnosticStatus.ERROR
    assert "flow.onnx" in status.message
    assert state_of(harness) == State.PRIMARY_STATE_UNCONFIGURED
    assert "cannot configure" in harness.log()
    assert "flow.onnx" in harness.log()

    # The node is alive and takes another bundle.
    assert harness.set_parameter("bundle", str(good)).successful
    assert change_state(harness, Transition.TRANSITION_CONFIGURE)
    assert state_of(harness) == State.PRIMARY_STATE_INACTIVE
    harness.wait_for_status("model", "running")
    harness.wait_for_status("input", "not active")
    assert change_state(harness, Transition.TRANSITION_ACTIVATE)
    harness.listen("coopnet/odom", Odometry)
    harness.wait_for_node()
    harness.send_info()
    for index in range(3):
        harness.send_image(START_NS + index * PERIOD_NS, IMAGE)
        odom = harness.wait_for_stamp("coopnet/odom", START_NS + index * PERIOD_NS)
    assert odom.pose.pose.position.y > 0.1

    # While it runs, a bad bundle is refused by name and the old one keeps running.
    refused = harness.set_parameter("bundle", str(bad))
    assert not refused.successful
    assert "flow.onnx" in refused.reason
    status = harness.wait_for_status("model", "refused bundle")
    assert status.level == DiagnosticStatus.WARN
    refused = harness.set_parameter("bundle", str(tmp_path / "nowhere"))
    assert "no bundle at" in refused.reason
    refused = harness.set_parameter("bundle", "~nosuchuser/bundle")
    assert "bundle ~nosuchuser/bundle cannot be used: RuntimeError" in refused.reason
    harness.send_image(START_NS + 3 * PERIOD_NS, IMAGE)
    odom = harness.wait_for_stamp("coopnet/odom", START_NS + 3 * PERIOD_NS)
    assert odom.twist.twist.linear.y > 1.0

    # A good one takes over, and the robot has not jumped.
    other = write_tiny_bundle(tmp_path / "other", flow=(0.0, 0.0), name="other")
    assert harness.set_parameter("bundle", str(other)).successful
    harness.wait_for_status("odometry", "bundle changed to other-")
    harness.send_image(START_NS + 4 * PERIOD_NS, IMAGE)
    after = harness.wait_for_stamp("coopnet/odom", START_NS + 4 * PERIOD_NS)
    before, now = odom.pose.pose, after.pose.pose
    for part in ("position", "orientation"):
        for axis in "xyzw" if part == "orientation" else "xyz":
            expected = getattr(getattr(before, part), axis)
            assert getattr(getattr(now, part), axis) == pytest.approx(expected, abs=1e-9)
    harness.send_image(START_NS + 5 * PERIOD_NS, IMAGE)
    still = harness.wait_for_stamp("coopnet/odom", START_NS + 5 * PERIOD_NS)
    assert still.twist.twist.linear.y == 0.0

    # Down and up again.
    assert change_state(harness, Transition.TRANSITION_DEACTIVATE)
    assert harness.image_publisher.get_subscription_count() == 0
    assert change_state(harness, Transition.TRANSITION_CLEANUP)
    assert state_of(harness) == State.PRIMARY_STATE_UNCONFIGURED
    assert change_state(harness, Transition.TRANSITION_CONFIGURE)
    assert change_state(harness, Transition.TRANSITION_ACTIVATE)
    harness.wait_for_node()
    harness.send_info()
    harness.send_image(START_NS + 6 * PERIOD_NS, IMAGE)
    anew = harness.wait_for_stamp("coopnet/odom", START_NS + 6 * PERIOD_NS)
    assert anew.pose.pose.position.y == 0.0
    harness.wait_for_status("odometry", "reset: cleanup")
    assert harness.stop_node() == 0
    assert "Traceback" not in harness.log(), harness.log()


def test_no_autostart_a_namespaced_yaml_file_and_qos_overrides(
    harness: Harness, tmp_path: Path
) -> None:
    """It waits for a lifecycle manager; files and overrides reach it in any namespace."""
    topic, info_topic = harness.resolve("image"), harness.resolve("camera_info")
    odom_topic = harness.resolve("coopnet/odom")
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(
        f"""\
/**:
  coopnet:
    ros__parameters:
      autostart: false
      base_frame: from_file
      qos_overrides:
        {info_topic}:
          subscription: {{reliability: best_effort, depth: 7}}
        {odom_topic}:
          publisher: {{depth: 1, reliability: best_effort}}
"""
    )
    bundle = write_tiny_bundle(tmp_path / "bundle")
    harness.start_node(bundle=bundle, arguments=("--params-file", str(parameters)))
    harness.wait_for_status("model", "not configured")
    assert state_of(harness) == State.PRIMARY_STATE_UNCONFIGURED
    # An impossible request is answered, and no reason to die.
    assert not change_state(harness, Transition.TRANSITION_ACTIVATE)
    assert "request refused" in harness.log()
    assert state_of(harness) == State.PRIMARY_STATE_UNCONFIGURED
    assert change_state(harness, Transition.TRANSITION_CONFIGURE)
    assert change_state(harness, Transition.TRANSITION_ACTIVATE)
    harness.until(lambda: harness.image_publisher.get_subscription_count() > 0, "a subscription")
    (subscription,) = harness.node.get_subscriptions_info_by_topic(info_topic)
    assert subscription.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    (subscription,) = harness.node.get_subscriptions_info_by_topic(topic)
    assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    (publisher,) = harness.node.get_publishers_info_by_topic(odom_topic)
    assert publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    refused = harness.set_parameter("base_frame", "other")
    assert not refused.successful, "read-only"
    refused = harness.set_parameter("no_image_warning_s", -1.0)
    assert "out of range" in refused.reason


# What a big bundle on a slow disk does, and what a defect does.
SLOW_AND_BROKEN = """\
import sys, time
from coopnet_core.inference.engines.progress import Progress
from coopnet_ros import perception_node as node
load = node.load_model
def load_model(path, *rest):
    if path.endswith("broken"):
        raise ZeroDivisionError("a defect")
    if path.endswith("unfit"):
        time.sleep(1.0)
        raise node.CoopNetError("it does not fit this machine")
    if path.endswith("slow"):
        with Progress("depth.onnx", period_s=1.0):
            time.sleep(3.0)
    return load(path, *rest)
node.load_model = load_model
sys.exit(node.main())
"""


def test_the_camera_goes_on_while_another_bundle_loads(harness: Harness, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW_AND_BROKEN)
    bundle = write_tiny_bundle(tmp_path / "bundle", flow=(-2.0, 0.0))
    slow = write_tiny_bundle(tmp_path / "slow", flow=(-2.0, 0.0), name="slow")
    slow_version = load_bundle(slow).version
    harness.start_node(bundle=bundle, program=(str(script),))
    harness.listen("coopnet/odom", Odometry)
    harness.wait_for_node()
    harness.send_info()
    index = 0

    def drive() -> Odometry:
        nonlocal index
        harness.send_image(START_NS + index * PERIOD_NS, IMAGE)
        index += 1
        return harness.wait_for_stamp("coopnet/odom", START_NS + (index - 1) * PERIOD_NS)

    for _ in range(3):
        drive()
    assert harness.set_parameter("bundle", str(slow)).successful
    during = 0
    while f"bundle {slow_version} ready" not in harness.log():
        odom = drive()
        during += 1
    assert during >= 3
    assert "building depth.onnx, 1 s" in harness.log()
    for _ in range(3):
        after = drive()
    assert after.pose.pose.position.y > odom.pose.pose.position.y > 0.1
    status = harness.wait_for_status("odometry", "bundle changed to slow-")
    values = {pair.key: pair.value for pair in status.values}
    assert values["resets"] == "1"
    assert values["last reset"].startswith("bundle changed to slow-")


def test_a_transition_that_breaks_leaves_its_traceback_in_the_log(
    harness: Harness, tmp_path: Path
) -> None:
    script = tmp_path / "broken.py"
    script.write_text(SLOW_AND_BROKEN)
    harness.start_node(bundle=tmp_path / "broken", program=(str(script),))
    harness.until(lambda: "ZeroDivisionError: a defect" in harness.log(), "the traceback")
    assert state_of(harness) == State.PRIMARY_STATE_UNCONFIGURED


def test_an_override_that_makes_no_sense_leaves_nothing_behind(
    harness: Harness, tmp_path: Path
) -> None:
    """The image subscription fails after that of camera_info: both are gone."""
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(
        f"""\
/**:
  coopnet:
    ros__parameters:
      qos_overrides:
        {harness.resolve("image")}:
          subscription: {{reliability: sometimes}}
"""
    )
    bundle = write_tiny_bundle(tmp_path / "bundle")
    harness.start_node(bundle=bundle, arguments=("--params-file", str(parameters)))
    harness.until(lambda: "cannot activate, no subscription" in harness.log(), "a refusal")
    assert state_of(harness) == State.PRIMARY_STATE_INACTIVE
    assert harness.node.get_subscriptions_info_by_topic(harness.resolve("camera_info")) == []
    harness.wait_for_status("input", "not active")


def test_a_wrong_parameter_ends_the_node_with_a_message(harness: Harness) -> None:
    harness.start_node(image_transport="h264")
    assert harness.wait_for_exit() == 1
    assert "image_transport' must be one of raw, compressed, got 'h264'" in harness.log()
    assert "Traceback" not in harness.log()


def test_a_bundle_that_cannot_be_loaded_leaves_the_old_one_and_its_name(
    harness: Harness, tmp_path: Path
) -> None:
    script = tmp_path / "unfit.py"
    script.write_text(SLOW_AND_BROKEN)
    bundle = write_tiny_bundle(tmp_path / "bundle", flow=(-2.0, 0.0))
    unfit = write_tiny_bundle(tmp_path / "unfit", flow=(-2.0, 0.0), name="unfit")
    harness.start_node(bundle=bundle, program=(str(script),))
    harness.wait_for_node()
    assert harness.set_parameter("bundle", str(unfit)).successful
    harness.wait_for_status("model", "refused bundle: it does not fit this machine")
    harness.until(lambda: harness.get_parameter("bundle") == str(bundle), "the old bundle's name")
    status = harness.wait_for_status("model", "refused bundle")
    assert {pair.key: pair.value for pair in status.values}["path"] == str(bundle)
