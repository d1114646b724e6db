"""Parameters of a running node: described, refused with a reason, applied at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from nav_msgs.msg import Path as PathMsg
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from ros_harness import HEIGHT, INTRINSICS, PERIOD_NS, START_NS, WIDTH, Harness
from sensor_msgs.msg import Image
from tiny_bundle import HEIGHT as NET_HEIGHT
from tiny_bundle import WIDTH as NET_WIDTH
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.data.ros_images import array_from_image
from coopnet_ros import parameters

pytestmark = pytest.mark.ros

IMAGE = textured_image(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("parameters")
    depth = np.full((NET_HEIGHT, NET_WIDTH), 12.3456, np.float32)
    depth[0] = 79.0
    with Harness(folder) as harness:
        harness.start_node(
            bundle=write_tiny_bundle(folder / "bundle", depth=depth),
            depth_encoding="16UC1",
            path_period_s=60.0,
        )
        harness.listen("coopnet/path", PathMsg)
        harness.listen("coopnet/depth/image", Image)
        harness.wait_for_node()
        harness.send_info()
        yield harness


def test_every_parameter_says_what_it_is_and_what_it_takes(harness: Harness) -> None:
    names = [parameter.name for parameter in parameters.TABLE]
    request = DescribeParameters.Request(names=names)
    answer = harness.call("coopnet/describe_parameters", DescribeParameters, request)
    for parameter, descriptor in zip(parameters.TABLE, answer.descriptors, strict=True):
        assert descriptor.name == parameter.name
        assert descriptor.description == parameter.description
        assert descriptor.read_only == (not parameter.is_dynamic)
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        assert bool(ranges) == (parameter.minimum is not None)
        for span in ranges:
            assert (span.from_value, span.to_value) == (parameter.minimum, parameter.maximum)
        assert all(choice in descriptor.additional_constraints for choice in parameter.choices)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("path_period_s", -0.1, "out of range"),
        ("path_period_s", 61.0, "out of range"),
        ("path_period_s", math.nan, "out of range"),
        ("path_period_s", math.inf, "out of range"),
        ("path_period_s", "fast", "Wrong parameter type"),
        ("no_image_warning_s", 0.0, "out of range"),
        ("publish_tf", 1, "Wrong parameter type"),
        ("odom_frame", "world", "read-only"),
        ("depth_encoding", "32FC1", "read-only"),
        ("bundel", "", "undeclared"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason(
    harness: Harness, name: str, value: object, reason: str
) -> None:
    result = harness.set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason
    assert harness.node_is_alive()


def test_a_choice_is_checked_wherever_a_value_comes_from() -> None:
    assert parameters.problem({"path_period_s": 1.0, "use_sim_time": True}) == ""
    assert "must be one of 32FC1, 16UC1, got '8UC1'" in parameters.problem(
        {"depth_encoding": "8UC1"}
    )


def test_depth_in_millimetres(harness: Harness) -> None:
    harness.send_image(START_NS, IMAGE)
    msg = harness.wait_for_stamp("coopnet/depth/image", START_NS)
    assert (msg.encoding, msg.step) == ("16UC1", 2 * NET_WIDTH)
    depth = array_from_image(msg)
    assert INTRINSICS.fx == WIDTH, "canonical depth is depth"
    assert (depth[0] == 0).all(), "79 m do not fit"
    assert (depth[1:] == 12346).all()


def test_a_change_at_run_time_is_applied_at_once_and_wholly_or_not_at_all(
    harness: Harness,
) -> None:
    def frame(index: int) -> None:
        harness.send_image(START_NS + index * PERIOD_NS, IMAGE)
        harness.wait_for_stamp("coopnet/depth/image", START_NS + index * PERIOD_NS)

    frame(1)
    frame(2)
    assert len(harness.received["coopnet/path"]) == 1, "one in 60 s"
    both = [
        Parameter("path_period_s", value=0.0).to_parameter_msg(),
        Parameter("bundle", value="/nowhere").to_parameter_msg(),
    ]
    request = SetParametersAtomically.Request(parameters=both)
    answer = harness.call("coopnet/set_parameters_atomically", SetParametersAtomically, request)
    assert not answer.result.successful
    assert "no bundle at /nowhere" in answer.result.reason
    frame(3)
    frame(4)
    assert len(harness.received["coopnet/path"]) == 1, "the other value was not taken either"
    assert harness.set_parameter("path_period_s", 0.0).successful
    for index in (5, 6):
        frame(index)
        harness.wait_for_stamp("coopnet/path", START_NS + index * PERIOD_NS)
