"""``ros2 launch`` for real where launch and an installed package exist; its files anywhere."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "kitti_03"
LAUNCH_FILES = ("coopnet.launch.py", "replay.launch.py", "multi_camera.launch.py")
SHOWN = {
    "depth/image",
    "depth/preview",
    "flow/preview",
    "motion/mask",
    "motion/preview",
    "odom",
    "path",
    "points",
}


def test_rviz_shows_every_output_in_the_frame_odom() -> None:
    config = yaml.safe_load((ROOT / "config" / "coopnet.rviz").read_text())["Visualization Manager"]
    assert config["Global Options"]["Fixed Frame"] == "odom"
    topics = set()
    for display in config["Displays"]:
        topics.add(display.get("Depth Map Topic", display.get("Topic", {}).get("Value")))
    assert topics >= {f"/coopnet/{topic}" for topic in SHOWN}
    assert "rviz_default_plugins/TF" in {display["Class"] for display in config["Displays"]}


def launch_constant(name: str, file: str = "coopnet.launch.py") -> Any:
    """A constant of a launch file, which cannot be imported where launch is not installed."""
    tree = ast.parse((ROOT / "launch" / file).read_text("utf-8"))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            return node.value  # type: ignore[attr-defined]
    raise AssertionError(f"no {name} in {file}")


def arguments(file: str) -> set[str]:
    """Names of the arguments that a launch file declares itself."""
    return {entry.elts[0].value for entry in launch_constant("ARGUMENTS", file).elts}


def test_the_launch_page_has_every_launch_file() -> None:
    assert {path.name for path in (ROOT / "launch").glob("*.launch.py")} == set(LAUNCH_FILES)


@pytest.mark.parametrize("file", LAUNCH_FILES)
def test_the_launch_page_explains_every_argument_and_no_other(file: str) -> None:
    page = (ROOT / "docs" / "launch.md").read_text("utf-8")
    section = page.partition(f"## {file}\n")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(arguments(file))


def test_arguments_that_stand_for_parameters_have_their_names() -> None:
    parameters = pytest.importorskip("coopnet_ros.parameters")
    types = {parameter.name: parameter.type_name for parameter in parameters.TABLE}
    choices = {parameter.name: parameter.choices for parameter in parameters.TABLE}
    strings, flags = (ast.literal_eval(launch_constant(name)) for name in ("STRINGS", "FLAGS"))
    for names, type_name in ((strings, "string"), (flags, "bool"), (["num_threads"], "integer")):
        assert {types[name] for name in names} == {type_name}
        assert set(names) <= arguments("coopnet.launch.py")
    for entry in launch_constant("ARGUMENTS").elts:
        words = set(re.findall(r"\w+", ast.unparse(entry.elts[2])))
        assert words >= set(choices.get(entry.elts[0].value, ()))


def test_the_files_that_include_the_first_one_replace_arguments_that_it_has() -> None:
    first = arguments("coopnet.launch.py")
    assert arguments("replay.launch.py") & first == {"image_topic", "use_sim_time"}
    own = arguments("multi_camera.launch.py") & first
    decided = set(ast.literal_eval(launch_constant("PER_CAMERA", "multi_camera.launch.py")))
    assert own | decided == {"namespace", "image_topic", "num_threads", "publish_tf"}


def test_rviz_is_remapped_for_every_output_and_the_demo_records_all_but_the_cloud() -> None:
    demo = pytest.importorskip("coopnet_ros.demo")
    outputs = pytest.importorskip("coopnet_ros.outputs")
    topics = {name.removeprefix("~/") for name in outputs.TOPICS}
    assert set(demo.OUTPUTS) == topics - {"points"}
    assert set(ast.literal_eval(launch_constant("OUTPUTS"))) == topics


@pytest.fixture
def installed() -> None:
    """Skips where there is no launch, or no installed package that it could start."""
    pytest.importorskip("launch_ros", reason="launch_ros is not installed (no wheel): source ROS 2")
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        packages.get_package_prefix("coopnet_ros")
    except (packages.PackageNotFoundError, OSError):  # the latter: no workspace is sourced
        pytest.skip("coopnet_ros is not installed: colcon build, then source install/setup.bash")


@contextmanager
def launched(
    harness: Any, folder: Path, file: str, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A launch file while it runs; nothing that it starts may end with an error."""
    path = folder / "launch.log"
    with path.open("wb") as log:
        launch = subprocess.Popen(
            ["ros2", "launch", "coopnet_ros", file, *arguments],
            env=harness.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield launch
        finally:
            if launch.poll() is None:
                launch.send_signal(signal.SIGINT)
            try:
                launch.wait(timeout=30)
            finally:
                launch.kill()
    text = path.read_text()
    assert "Traceback" not in text, text


@pytest.mark.launch
@pytest.mark.parametrize("file", LAUNCH_FILES)
def test_show_args_lists_all_arguments(file: str, installed: None) -> None:
    command = ["ros2", "launch", "coopnet_ros", file, "--show-args"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    expected = arguments(file) | arguments("coopnet.launch.py")
    if file == "multi_camera.launch.py":
        expected -= {"publish_tf"}
    assert set(re.findall(r"^    '(\w+)':", shown, re.MULTILINE)) == expected


@pytest.mark.ros
@pytest.mark.launch
def test_one_camera_in_a_namespace(tmp_path: Path, installed: None) -> None:
    from nav_msgs.msg import Odometry
    from ros_harness import INTRINSICS, START_NS, Harness
    from tiny_bundle import textured_image, write_tiny_bundle

    from coopnet_ros.camera_info import camera_info_from_intrinsics

    bundle = write_tiny_bundle(tmp_path / "bundle")
    with Harness(tmp_path) as harness:
        harness.listen("robot1/coopnet/odom", Odometry)
        settings = [f"bundle:={bundle}", f"namespace:={harness.namespace}/robot1", "num_threads:=1"]
        settings += [f"image_topic:={harness.resolve('image/compressed')}", "base_frame:=chassis"]
        info = camera_info_from_intrinsics(INTRINSICS, harness.header(START_NS))
        with launched(harness, tmp_path, "coopnet.launch.py", *settings):
            harness.wait_for_node()
            for number in range(600):
                harness.info_publisher.publish(info)
                harness.send_jpeg(START_NS + number * 10**8, textured_image(128, 64))
                if harness.received["robot1/coopnet/odom"]:
                    break
                time.sleep(0.1)
        odom = harness.received["robot1/coopnet/odom"][0]
        assert (odom.header.frame_id, odom.child_frame_id) == ("odom", "chassis")


@pytest.mark.ros
@pytest.mark.launch
def test_rviz_gets_the_topics_of_each_camera(
    tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for rviz2, which says how it was started."""
    from ros_harness import Harness

    program = tmp_path / "lib" / "rviz2" / "rviz2"
    marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "rviz2"
    for path in (program, marker):
        path.parent.mkdir(parents=True)
        path.touch()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\n', "utf-8")
    program.chmod(0o755)
    prefixes = os.environ["AMENT_PREFIX_PATH"]
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}{os.pathsep}{prefixes}")
    started = tmp_path / "started"
    settings = ["cameras:=front rear", "namespace:=robot1", "rviz:=true", "autostart:=false"]
    with (
        Harness(tmp_path, has_camera=False) as harness,
        launched(harness, tmp_path, "multi_camera.launch.py", *settings),
    ):
        # Both nodes spin when they can be interrupted.
        for camera in ("front", "rear"):
            harness.wait_for("/diagnostics", lambda msg, c=camera: f"/{c}/" in msg.status[0].name)
        harness.until(
            lambda: started.exists() and len(started.read_text().splitlines()) == 2, "two windows"
        )
    outputs = ast.literal_eval(launch_constant("OUTPUTS"))
    commands = started.read_text()
    for camera in ("front", "rear"):
        (command,) = (line for line in commands.splitlines() if f"/{camera}/" in line)
        assert "coopnet.rviz" in command
        for output in outputs:
            assert f"/coopnet/{output}:=/robot1/{camera}/coopnet/{output}" in command


@pytest.mark.ros
@pytest.mark.launch
def test_a_replay_is_recorded_from_its_first_image_and_ends(
    tmp_path: Path, installed: None
) -> None:
    from ros_harness import Harness
    from tiny_bundle import write_tiny_bundle

    from coopnet_core.data.bag_reader import Bag

    bundle = write_tiny_bundle(tmp_path / "bundle")
    with Harness(tmp_path, has_camera=False) as harness:
        settings = [f"bundle:={bundle}", f"bag:={DEMO}", f"record:={tmp_path / 'run'}"]
        settings += ["start_offset_s:=8.95", "num_threads:=1", "namespace:=robot1"]
        with launched(harness, tmp_path, "replay.launch.py", *settings) as launch:
            assert launch.wait(timeout=60) == 0
    with Bag(tmp_path / "run") as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        stamps = [
            [message.stamp_ns for message in bag.messages([topic])]
            for topic in ("/camera/image/compressed", "/robot1/coopnet/odom")
        ]
    assert counts["/camera/image/compressed"] == counts["/camera/camera_info"] == 10
    assert counts["/robot1/coopnet/depth/image"] >= 5
    assert counts["/robot1/coopnet/motion/preview"] >= 5
    assert counts["/ground_truth/odom"] == 10
    # Received one after the other: the output of the first image, too.
    assert stamps[0][0] < stamps[1][0] < stamps[0][2]


@pytest.mark.ros
@pytest.mark.launch
def test_several_cameras_share_cores_and_only_one_publishes_tf(
    tmp_path: Path, installed: None
) -> None:
    from nav_msgs.msg import Odometry
    from rcl_interfaces.srv import GetParameters
    from ros_harness import Harness, stamp_of
    from tf2_msgs.msg import TFMessage
    from tiny_bundle import write_tiny_bundle

    bundle = write_tiny_bundle(tmp_path / "bundle")
    names = ["num_threads", "publish_tf", "rectify", "max_gap_s", "bundle"]
    cameras = ("front", "rear")
    example = ROOT / "config" / "examples" / "multi_camera.yaml"
    with Harness(tmp_path, has_camera=False) as harness:
        for camera in cameras:
            harness.listen(f"/robot1/{camera}/coopnet/odom", Odometry)
        harness.listen("/tf", TFMessage)
        settings = ["cameras:=front rear", "namespace:=robot1", "image_topic:=image/compressed"]
        settings += [f"bundle:={bundle}", f"params_file:={example}", "tf_camera:=rear"]
        with launched(harness, tmp_path, "multi_camera.launch.py", *settings):
            values = {}
            for camera in cameras:
                request = GetParameters.Request(names=names)
                answer = harness.call(
                    f"/robot1/{camera}/coopnet/get_parameters", GetParameters, request
                )
                values[camera] = dict(zip(names, answer.values, strict=True))
            # One replay per camera, as its driver.
            command = (sys.executable, "-m", "coopnet_ros.replay_node", str(DEMO), "--ros-args")
            command += ("-p", "start_offset_s:=8.95")
            drivers = []
            for camera in cameras:
                own = [
                    f"/camera/{t}:=/robot1/{camera}/{t}"
                    for t in ("image/compressed", "camera_info")
                ]
                own = [word for remap in own for word in ("-r", remap)]
                own += [
                    "-r",
                    f"__node:={camera}_driver",
                    "-p",
                    f"clock:={str(camera == 'front').lower()}",
                ]
                drivers.append(
                    subprocess.Popen([*command, *own], cwd=ROOT, env=harness.environment())
                )
            try:
                for camera in cameras:
                    harness.wait_for(f"/robot1/{camera}/coopnet/odom")
                harness.wait_for("/tf")
            finally:
                for driver in drivers:
                    driver.wait(timeout=60)
    num_threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for camera in cameras:
        assert values[camera]["num_threads"].integer_value == num_threads
        assert values[camera]["publish_tf"].bool_value == (camera == "rear")
        assert values[camera]["bundle"].string_value == str(bundle)
    # The sections of the parameter file, one for all and one for each.
    assert [values[c]["rectify"].bool_value for c in cameras] == [False, True]
    assert [values[c]["max_gap_s"].double_value for c in cameras] == [0.5, 1.0]
    # Both see the same pictures: with two publishers every stamp would come twice.
    stamps = [stamp_of(t) for msg in harness.received["/tf"] for t in msg.transforms]
    assert len(set(stamps)) == len(stamps)
