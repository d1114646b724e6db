"""The whole interface, as it stands on the graph: encodings, parameters, services, transitions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import (
    ChangeState,
    GetAvailableStates,
    GetAvailableTransitions,
    GetState,
)
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMsg
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import ReliabilityPolicy
from ros_harness import HEIGHT, INTRINSICS, PERIOD_NS, START_NS, WIDTH, Harness
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.data.ros_images import array_from_image
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.image_messages import image_from_array
from coopnet_ros.outputs import TOPICS
from coopnet_ros.parameters import TABLE

pytestmark = pytest.mark.ros

PICTURE = textured_image(WIDTH, HEIGHT)
GREY = PICTURE[..., 1]
OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
# A picture as each encoding has it.
PIXELS = {
    "rgb8": PICTURE,
    "bgr8": PICTURE[..., ::-1],
    "8UC3": PICTURE[..., ::-1],
    "rgba8": np.concatenate([PICTURE, OPAQUE], axis=2),
    "bgra8": np.concatenate([PICTURE[..., ::-1], OPAQUE], axis=2),
    "mono8": GREY,
    "8UC1": GREY,
    "mono16": GREY.astype(np.uint16) * 256 + 77,
}
TYPES = {
    "bool": ParameterType.PARAMETER_BOOL,
    "integer": ParameterType.PARAMETER_INTEGER,
    "double": ParameterType.PARAMETER_DOUBLE,
    "string": ParameterType.PARAMETER_STRING,
    "double array": ParameterType.PARAMETER_DOUBLE_ARRAY,
    "string array": ParameterType.PARAMETER_STRING_ARRAY,
}
ticks = itertools.count()


def next_stamp() -> int:
    return START_NS + next(ticks) * PERIOD_NS


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A node with its defaults."""
    folder = tmp_path_factory.mktemp("interface")
    with Harness(folder) as harness:
        harness.start_node(bundle=write_tiny_bundle(folder / "bundle", flow=(-2.0, 0.0)))
        harness.listen("coopnet/motion/preview", Image)
        harness.wait_for_node()
        harness.send_info()
        yield harness


def preview_of(harness: Harness, pixels: np.ndarray, encoding: str) -> np.ndarray:
    """Send a picture twice, and return how people see it: small, and as BGR."""
    for _ in range(2):
        stamp_ns = next_stamp()
        harness.send_image(stamp_ns, np.ascontiguousarray(pixels), encoding)
        msg = harness.wait_for_stamp("coopnet/motion/preview", stamp_ns)
    return array_from_image(msg).astype(int)


@pytest.mark.parametrize("encoding", PIXELS)
def test_every_encoding_shows_the_same_picture(harness: Harness, encoding: str) -> None:
    seen = preview_of(harness, PIXELS[encoding], encoding)
    size = seen.shape[1::-1]
    picture = cv2.resize(PICTURE, size, interpolation=cv2.INTER_AREA)[..., ::-1]
    if PIXELS[encoding].ndim == 2:
        picture = picture[..., 1:2]
    # Here and there the mask lies over it.
    assert np.median(np.abs(seen - picture)) <= 1


@pytest.mark.parametrize("encoding", ["32FC1", "32FC2", "16UC1"])
def test_measurements_are_no_pictures(harness: Harness, encoding: str) -> None:
    pixels = {
        "32FC1": np.ones((HEIGHT, WIDTH), np.float32),
        "32FC2": np.ones((HEIGHT, WIDTH, 2), np.float32),
        "16UC1": np.ones((HEIGHT, WIDTH), np.uint16),
    }[encoding]
    harness.send_image(next_stamp(), pixels, encoding)
    harness.wait_for_status("input", f"image encoding '{encoding}' holds measurements")


def test_rows_with_padding_and_the_other_byte_order(harness: Harness) -> None:
    expected = preview_of(harness, GREY, "mono8")
    wide = np.zeros((HEIGHT, WIDTH + 9), ">u2")
    wide[:, :WIDTH] = GREY.astype(np.uint16) * 256
    stamp_ns = next_stamp()
    msg = image_from_array(GREY, "mono8", harness.header(stamp_ns))
    msg.encoding, msg.is_bigendian, msg.step = "mono16", 1, 2 * (WIDTH + 9)
    msg.data = wide.tobytes()
    harness.image_publisher.publish(msg)
    seen = array_from_image(harness.wait_for_stamp("coopnet/motion/preview", stamp_ns))
    assert np.median(np.abs(seen.astype(int) - expected)) == 0


def test_every_topic_is_on_the_graph_once_with_its_type_and_qos(harness: Harness) -> None:
    node = harness.node
    for topic, msg_type in TOPICS.items():
        name = harness.resolve("coopnet" + topic.removeprefix("~"))
        (endpoint,) = node.get_publishers_info_by_topic(name)
        package, _, module = msg_type.__module__.partition(".")
        assert endpoint.topic_type == f"{package}/{module.partition('.')[0]}/{msg_type.__name__}"
        assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    for topic in ("image", "camera_info"):
        (endpoint,) = node.get_subscriptions_info_by_topic(harness.resolve(topic))
        assert endpoint.node_name == "coopnet"
    for topic in ("/tf", "/tf_static", "/diagnostics"):
        names = [endpoint.node_name for endpoint in node.get_publishers_info_by_topic(topic)]
        assert names == ["coopnet"], topic


def test_the_node_declares_the_parameters_of_the_table(harness: Harness) -> None:
    answer = harness.call("coopnet/list_parameters", ListParameters, ListParameters.Request())
    names = [name for name in answer.result.names if not name.startswith("qos_overrides.")]
    # What rclpy declares by itself.
    own = {name for name in names if name not in ("use_sim_time", "start_type_description_service")}
    assert own == {parameter.name for parameter in TABLE}


def test_parameters_change_at_run_time_or_not_as_the_table_says(harness: Harness) -> None:
    for parameter in TABLE:
        request = GetParameters.Request(names=[parameter.name])
        (found,) = harness.call("coopnet/get_parameters", GetParameters, request).values
        assert found.type == TYPES[parameter.type_name], parameter.name
        # What it has already: for what may change, nothing changes.
        value = parameter_value_to_python(found)
        if isinstance(parameter.default, list):
            value = list(value)
        result = harness.set_parameter(parameter.name, value)
        assert result.successful is parameter.is_dynamic, f"{parameter.name}: {result.reason}"
        another_type = 1 if isinstance(parameter.default, str) else "text"
        assert not harness.set_parameter(parameter.name, another_type).successful, parameter.name


def test_every_service_answers(harness: Harness) -> None:
    states = harness.call(
        "coopnet/get_available_states", GetAvailableStates, GetAvailableStates.Request()
    ).available_states
    assert {"unconfigured", "inactive", "active", "finalized"} <= {s.label for s in states}
    for name in ("get_available_transitions", "get_transition_graph"):
        answer = harness.call(
            f"coopnet/{name}", GetAvailableTransitions, GetAvailableTransitions.Request()
        )
        labels = {found.transition.label for found in answer.available_transitions}
        assert {"deactivate", "shutdown"} <= labels, name
    assert harness.call("coopnet/reset", Trigger, Trigger.Request()).success


def test_parameters_do_what_they_say(tmp_path: Path) -> None:
    """Those that no other test sets: frames, mounting, gap, path, rectification."""
    bundle = write_tiny_bundle(tmp_path / "bundle", flow=(-2.0, 0.0))
    with Harness(tmp_path) as harness:
        harness.start_node(
            bundle=bundle,
            device="cpu",
            num_threads=1,
            odom_frame="start",
            camera_xyz_rpy=[0.5, 0.0, 1.5, 0.0, 0.0, np.pi / 2],
            max_gap_s=5.0,
            path_length=3,
            path_period_s=0.0,
            rectify=False,
        )
        harness.listen("coopnet/odom", Odometry)
        harness.listen("coopnet/path", PathMsg)
        harness.listen("coopnet/depth/image", Image)
        harness.listen("/tf_static", TFMessage, 10)
        harness.wait_for_node()
        info = camera_info_from_intrinsics(INTRINSICS, harness.header(START_NS))
        info.d = [0.5, 0.0, 0.0, 0.0, 0.0]
        harness.send_info_message(info)
        # Three seconds between images, which is a gap by default.
        stamps = [START_NS + index * 3_000_000_000 for index in range(5)]
        for stamp_ns in stamps:
            harness.send_image(stamp_ns, PICTURE)
            odom = harness.wait_for_stamp("coopnet/odom", stamp_ns)
        assert odom.header.frame_id == "start"
        # The camera looks to the left, and goes to its left.
        assert odom.pose.pose.position.x < -0.5
        assert abs(odom.pose.pose.position.y) < 0.2
        status = harness.wait_for_status("odometry", "tracking")
        assert {pair.key: pair.value for pair in status.values}["resets"] == "0"
        path = harness.wait_for_stamp("coopnet/path", stamps[-1])
        assert len(path.poses) == 3
        depth = array_from_image(harness.wait_for_stamp("coopnet/depth/image", stamps[-1]))
        assert np.isfinite(depth).all(), "nothing is rectified, so all of it was seen"


def test_png_on_the_compressed_transport(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", flow=(-2.0, 0.0))
    with Harness(tmp_path) as harness:
        harness.start_node(bundle=bundle, image_transport="compressed")
        harness.listen("coopnet/odom", Odometry)
        harness.wait_for_node()
        harness.send_info()
        data = cv2.imencode(".png", PICTURE)[1].tobytes()
        msg = CompressedImage(header=harness.header(START_NS), format="png", data=data)
        harness.compressed_publisher.publish(msg)
        harness.wait_for_stamp("coopnet/odom", START_NS)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ([], Transition.TRANSITION_UNCONFIGURED_SHUTDOWN),
        ([Transition.TRANSITION_CONFIGURE], Transition.TRANSITION_INACTIVE_SHUTDOWN),
        (
            [Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE],
            Transition.TRANSITION_ACTIVE_SHUTDOWN,
        ),
    ],
    ids=["unconfigured", "inactive", "active"],
)
def test_shutdown_from_every_state(tmp_path: Path, first: list[int], last: int) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with Harness(tmp_path) as harness:
        harness.start_node(bundle=bundle, autostart=False)
        harness.listen("coopnet/transition_event", TransitionEvent, 10)
        harness.until(
            lambda: harness.node.count_publishers(harness.resolve("coopnet/transition_event")) > 0,
            "the node",
        )
        for transition in [*first, last]:
            request = ChangeState.Request(transition=Transition(id=transition))
            assert harness.call("coopnet/change_state", ChangeState, request).success
        state = harness.call("coopnet/get_state", GetState, GetState.Request()).current_state
        assert state.id == State.PRIMARY_STATE_FINALIZED
        harness.wait_for(
            "coopnet/transition_event", lambda event: event.goal_state.label == "finalized"
        )
        # It is off the graph, and ends when it is told to.
        assert harness.node.count_publishers(harness.resolve("coopnet/odom")) == 0
        assert harness.image_publisher.get_subscription_count() == 0
        assert harness.stop_node() == 0
        assert "Traceback" not in harness.log(), harness.log()
