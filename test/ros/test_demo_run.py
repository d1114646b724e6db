"""The demo as people start it: real processes over a real DDS, with a bundle of a few kilobytes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from synthetic_recording import odometry
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.data.bag_reader import Bag, default_typestore
from coopnet_core.errors import CoopNetError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros import bag_messages
from coopnet_ros.bag_writer import BagWriter
from coopnet_ros.demo import find_camera, included_bag, main
from coopnet_ros.demo_processes import Child, free_domain_id, ros_environment

pytest.importorskip("rclpy")
pytest.importorskip("tf2_msgs")
pytestmark = pytest.mark.ros

STORE = default_typestore()
CAMERA = Intrinsics(128, 64, 64.0, 64.0, 63.5, 31.5)
COUNT = 12
# An upper bound for a machine that is busy with other things.
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("model") / "bundle", flow=(2.0, 0.0))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera whose compressed images lack the usual ending of the topic, with ground truth."""
    path = tmp_path_factory.mktemp("source") / "bag"
    picture = textured_image(CAMERA.width, CAMERA.height)
    with BagWriter(path) as writer:
        writer.add_topic("/cam/jpeg", "sensor_msgs/msg/CompressedImage")
        writer.add_topic("/cam/camera_info", "sensor_msgs/msg/CameraInfo")
        writer.add_topic("/ground_truth/odom", "nav_msgs/msg/Odometry")
        for index in range(COUNT):
            stamp_ns = 10**18 + index * 10**8
            head = bag_messages.header(STORE, stamp_ns, "camera")
            moved = np.roll(picture, index * 2, axis=1)
            jpeg = cv2.imencode(".jpg", moved)[1].tobytes()
            pose = np.eye(4)
            pose[1, 3] = index
            info = bag_messages.camera_info(STORE, head, CAMERA)
            writer.write_message("/cam/camera_info", stamp_ns, info)
            image = bag_messages.compressed_image(STORE, head, "jpeg", jpeg)
            writer.write_message("/cam/jpeg", stamp_ns, image)
            writer.write_message("/ground_truth/odom", stamp_ns, odometry(head, pose))
    return path


@pytest.fixture
def env() -> dict[str, str]:
    return {**ros_environment(), "ROS_DOMAIN_ID": str(free_domain_id()), "OMP_NUM_THREADS": "1"}


def start_demo(log: Path, env: dict[str, str], *options: str | Path) -> Child:
    command = [sys.executable, "-m", "coopnet_ros.demo", *(str(option) for option in options)]
    return Child("demo", command, log, env)


def children_of(pid: int) -> set[int]:
    """Processes that a process has started and that still run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == pid and words[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def wait_until_gone(pids: set[int], timeout_s: float) -> set[int]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def test_bag_in_recording_and_report_out(
    tmp_path: Path, bag: Path, bundle: Path, env: dict[str, str]
) -> None:
    out = tmp_path / "out"
    options = ("--bag", bag, "--bundle", bundle, "--out", out, "--rate", "6")
    with start_demo(tmp_path / "log", env, *options) as demo:
        assert demo.wait(PATIENCE_S) == 0, demo.tail()
    text = demo.log.read_text()
    assert f"report     {out / 'report.html'}" in text
    assert "odometry, alignment" in text

    with Bag(out / "recording") as recording:
        counts = {name: topic.count for name, topic in recording.topics.items()}
        with Bag(bag) as source:
            originals = [m.data for m in source.messages(["/cam/jpeg"])]
        images = [m.data for m in recording.messages(["/cam/jpeg/compressed"])]
    # The input is recorded without loss; the newest-frame node may skip images when it is slow.
    assert [a[: len(b)] for a, b in zip(images, originals, strict=True)] == originals
    assert counts["/cam/camera_info"] == counts["/ground_truth/odom"] == COUNT
    assert counts.keys() >= {"/coopnet/depth/image", "/coopnet/odom", "/tf"}
    assert counts["/coopnet/depth/image"] >= 3
    assert counts["/coopnet/flow/image"] >= counts["/coopnet/depth/image"] - 1

    with next((out / "recording").glob("*.mcap")).open("rb") as stream:
        summary = make_reader(stream, validate_crcs=True).get_summary()
    assert summary is not None
    assert all(s.encoding == "ros2msg" and s.data for s in summary.schemas.values())
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["input"]["images"] == COUNT
    assert numbers["outputs"]["depth/image"]["latency_ms"]["p50"] > 0
    assert numbers["odometry"]["alignment"] == "scale"
    assert (out / "report.html").stat().st_size > 10_000


def test_live_ends_with_all_its_processes(
    tmp_path: Path, bag: Path, bundle: Path, env: dict[str, str]
) -> None:
    options = ("--live", "--bag", bag, "--bundle", bundle, "--rate", "20")
    demos = [
        start_demo(tmp_path / f"{name}.log", env, *options, "--out", tmp_path / name)
        for name in ("interrupted", "killed")
    ]
    interrupted, killed = demos
    with interrupted, killed:
        for demo in demos:
            demo.wait_for_line("rviz2 -d", PATIENCE_S)
        # Live runs use the domain of the terminal, so that RViz sees them.
        assert f"ROS_DOMAIN_ID={env['ROS_DOMAIN_ID']} rviz2" in interrupted.log.read_text()
        families = {demo.name + str(demo.pid): children_of(demo.pid) for demo in demos}
        assert all(len(family) == 2 for family in families.values())
        os.kill(interrupted.pid, signal.SIGINT)
        assert interrupted.wait(PATIENCE_S) == 0, interrupted.tail()
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait(PATIENCE_S)
        assert wait_until_gone(set().union(*families.values()), PATIENCE_S) == set()
    assert "stopping" in interrupted.log.read_text()
    assert not (tmp_path / "interrupted" / "recording").exists()


def test_what_cannot_run_is_explained_before_anything_starts(
    tmp_path: Path, bag: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = ["--bag", str(bag), "--bundle", str(bundle), "--out", str(tmp_path / "out")]
    (tmp_path / "out" / "recording").mkdir(parents=True)
    (tmp_path / "out" / "recording" / "thesis.tex").touch()
    for options, message in (
        (["--bag", str(tmp_path / "absent")], "absent does not exist"),
        (["--bundle", str(tmp_path / "absent")], "absent"),
        (["--image-topic", "/nope"], "candidates: /cam/jpeg"),
        ([], "is in the way and is not a recording"),
    ):
        assert main([*good, *options]) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "out" / "recording" / "thesis.tex").exists()
    with pytest.raises(SystemExit):
        main(["--rate", "0"])


def test_end_of_a_process_is_reported_with_its_last_words(tmp_path: Path) -> None:
    script = "print('loading', flush=True); raise SystemExit('no disk')"
    child = Child("node", [sys.executable, "-c", script], tmp_path / "log")
    with child, pytest.raises(CoopNetError, match=r"exit status 1(.|\n)*loading\n *no disk"):
        child.wait_for_line("ready", PATIENCE_S)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "print('up', flush=True); time.sleep(60)"
    )
    with Child("node", [sys.executable, "-c", stubborn], tmp_path / "log") as child:
        child.wait_for_line("up", PATIENCE_S)
        with pytest.raises(CoopNetError, match=r"has not said 'ready' within 0 s(.|\n)*\n *up"):
            child.wait_for_line("ready", 0.1)
        ended = Child("recorder", [sys.executable, "-c", script], tmp_path / "other_log")
        with ended, pytest.raises(CoopNetError, match=r"recorder has ended(.|\n)*no disk"):
            child.wait_for_line("ready", PATIENCE_S, (ended,))
        assert child.stop(timeout_s=0.3) == -signal.SIGTERM


def test_camera_of_the_included_bag() -> None:
    camera = find_camera(included_bag())
    assert camera.image == camera.played_topic == "/camera/image/compressed"
    assert camera.base_topic == "/camera/image"
    assert camera.camera_info == "/camera/camera_info"
    assert camera.is_compressed
    assert camera.has_truth
    with pytest.raises(DataError, match="candidates: /camera/image/compressed"):
        find_camera(included_bag(), "/left")
