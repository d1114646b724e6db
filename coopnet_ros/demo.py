"""The demo: ``python -m coopnet_ros.demo [--live] [--bag PATH] [--bundle DIR] [--out DIR]``.

A recorded camera is replayed in real time over DDS into the perception node, everything is
recorded, and a report is made of the recording. Each part is a process of its own, as on a robot.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from coopnet_core.data.bag_reader import Bag, camera_topics
from coopnet_core.errors import CoopNetError, DataError
from coopnet_core.inference.bundle import default_bundle_path, load_bundle
from coopnet_core.installed import package_file
from coopnet_ros.demo_processes import Child, ros_environment
from coopnet_ros.replay_source import COMPRESSED_TYPE
from coopnet_ros.report import text_table, write_report
from coopnet_ros.report_data import NODE, TRUTH_TOPIC, Run

# Without ~/points, which is depth and the picture once more, in 0.85 MB per frame.
OUTPUTS = (
    "depth/image",
    "depth/camera_info",
    "depth/preview",
    "flow/image",
    "flow/preview",
    "motion/mask",
    "motion/preview",
    "odom",
    "path",
)
_START_TIMEOUT_S = 120.0
# Time for the last image to get through the node.
_LAST_FRAME_S = 2.0
_KITTI_CAMERA_HEIGHT_M = 1.65  # Geiger et al., IJRR 2013
_KITTI_TERMS = (
    "Images and ground truth: KITTI odometry benchmark, sequence 03 (Geiger, Lenz, Stiller, "
    "Urtasun), CC BY-NC-SA 3.0, see demo/README.md."
)


@dataclass(frozen=True)
class Camera:
    """Where the images of a bag are, and under which names the node takes them.

    Attributes:
        image: Image topic of the bag.
        camera_info: CameraInfo topic of the bag.
        is_compressed: Whether the images are CompressedImage.
        has_truth: Whether the bag holds odometry to compare with.
        has_tf: Whether the bag holds transforms, which say where the camera sits.
        height_m: Height over the ground, for metric scale; None where unknown.
    """

    image: str
    camera_info: str
    is_compressed: bool
    has_truth: bool
    has_tf: bool
    height_m: float | None = None

    @property
    def base_topic(self) -> str:
        """What ``image`` of the node is remapped to."""
        return self.image.removesuffix("/compressed") if self.is_compressed else self.image

    @property
    def played_topic(self) -> str:
        """Topic that carries the images during the demo."""
        return f"{self.base_topic}/compressed" if self.is_compressed else self.image


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="demo", description="Replay a camera through the perception node, record, report."
    )
    parser.add_argument("--bag", type=Path, help="bag to replay (default: the included KITTI bag)")
    parser.add_argument("--bundle", type=Path, help="trained model (default: the included one)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    parser.add_argument("--rate", type=float, help="images per second (default: as recorded)")
    parser.add_argument("--image-topic", help="images of the bag, where there are several topics")
    parser.add_argument(
        "--camera-height",
        type=float,
        help="height of the camera over the ground in metres, for metric scale (default: "
        f"{_KITTI_CAMERA_HEIGHT_M} for the included bag, else none: the metres of the model)",
    )
    parser.add_argument("--still", type=float, help="time of the still image, seconds")
    parser.add_argument(
        "--live", action="store_true", help="replay in a loop for RViz until Ctrl-C, no recording"
    )
    arguments = parser.parse_args(argv)
    if arguments.camera_height is not None and not arguments.camera_height > 0:
        parser.error(f"--camera-height must be positive, got {arguments.camera_height}")
    if arguments.rate is not None and not arguments.rate > 0:
        parser.error(f"--rate must be positive, got {arguments.rate}")
    # A shell that starts the demo in the background makes it deaf to Ctrl-C, and with it --live.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        bag = arguments.bag or included_bag()
        height_m = arguments.camera_height
        if height_m is None and arguments.bag is None:
            height_m = _KITTI_CAMERA_HEIGHT_M
        camera = replace(find_camera(bag, arguments.image_topic), height_m=height_m)
        load_bundle(arguments.bundle or default_bundle_path())
        if arguments.live:
            run_live(bag, camera, arguments.bundle, arguments.rate, arguments.out)
            return 0
        recording = record(bag, camera, arguments.bundle, arguments.rate, arguments.out)
        say("making the report")
        run = write_report(
            recording,
            arguments.out,
            title=f"CoopNet on {bag.name}",
            footer=_KITTI_TERMS if arguments.bag is None else "",
            image_topic=camera.played_topic,
            still_second=arguments.still,
        )
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    finish(run, recording, arguments.out)
    return 0


def find_camera(bag: Path, image_topic: str | None = None) -> Camera:
    """Look into a bag for what the demo needs.

    Args:
        bag: The bag.
        image_topic: Image topic, where there are several.

    Returns:
        Its topics.

    Raises:
        DataError: The bag is missing, damaged, or lacks images or camera_info.
    """
    with Bag(bag) as reader:
        topics = camera_topics(reader, image_topic)
        return Camera(
            topics.image.name,
            topics.camera_info.name,
            topics.image.msgtype == COMPRESSED_TYPE,
            TRUTH_TOPIC in reader.topics,
            not reader.topics.keys().isdisjoint(("/tf", "/tf_static")),
        )


def record(
    bag: Path, camera: Camera, bundle: Path | None, rate_hz: float | None, out: Path
) -> Path:
    """Replay a bag once through the node and record input and outputs.

    Args:
        bag: Bag to replay.
        camera: Its topics.
        bundle: Trained model; None for the included one.
        rate_hz: Images per second; None as recorded.
        out: Folder for the recording and the logs.

    Returns:
        The recorded bag.

    Raises:
        CoopNetError: A process ended or did not start; its last words are in the message.
    """
    recording = out / "recording"
    logs = out / "logs"
    _clear(recording)
    logs.mkdir(parents=True, exist_ok=True)
    env = ros_environment()
    say(
        f"ROS_DOMAIN_ID {env['ROS_DOMAIN_ID']}, {env['ROS_AUTOMATIC_DISCOVERY_RANGE'].lower()} only"
    )
    outputs = [f"{NODE}/{output}" for output in OUTPUTS]
    topics = [camera.played_topic, camera.camera_info, *outputs]
    topics += ["/tf", "/tf_static", "/diagnostics"]
    topics += [TRUTH_TOPIC] if camera.has_truth else []
    with ExitStack() as stack:
        say("starting the perception node and the recorder")
        command = _module("record", "-o", str(recording), *topics)
        recorder = stack.enter_context(Child("recorder", command, logs / "record.log", env))
        node = stack.enter_context(_start_node(camera, bundle, logs, env))
        for topic in outputs:
            recorder.wait_for_line(f"Subscribed to topic '{topic}'", _START_TIMEOUT_S, (node,))
        say(f"replaying {bag}")
        replay = stack.enter_context(_start_replay(bag, camera, rate_hz, logs, env, subscribers=2))
        _follow(replay, (node, recorder))
        time.sleep(_LAST_FRAME_S)
        say("closing the recording")
        if recorder.stop(timeout_s=30.0) != 0:
            raise CoopNetError(recorder.explain_end())
        node.stop()
    return recording


def run_live(
    bag: Path, camera: Camera, bundle: Path | None, rate_hz: float | None, out: Path
) -> None:
    """Replay a bag in a loop through the node until Ctrl-C.

    Args:
        bag: Bag to replay.
        camera: Its topics.
        bundle: Trained model; None for the included one.
        rate_hz: Images per second; None as recorded.
        out: Folder for the logs.

    Raises:
        CoopNetError: A process ended or did not start; its last words are in the message.
    """
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    # Other terminals shall see the topics without further ado, so the usual domain is kept.
    os.environ.setdefault("ROS_DOMAIN_ID", "0")
    env = ros_environment()
    with ExitStack() as stack:
        say("starting the perception node")
        node = stack.enter_context(_start_node(camera, bundle, logs, env))
        node.wait_for_line("listening to", _START_TIMEOUT_S)
        replay = stack.enter_context(
            _start_replay(bag, camera, rate_hz, logs, env, subscribers=1, loop=True)
        )
        say(f"replaying {bag} in a loop, Ctrl-C stops; logs are in {logs}")
        prefix = "" if env["ROS_DOMAIN_ID"] == "0" else f"ROS_DOMAIN_ID={env['ROS_DOMAIN_ID']} "
        config = package_file("config/coopnet.rviz")
        display = "" if config is None else f" -d {config}"
        print(f"\n    {prefix}rviz2{display} --ros-args -p use_sim_time:=true\n", flush=True)
        try:
            while True:
                _check_alive((node, replay))
                time.sleep(0.5)
        except KeyboardInterrupt:
            print()
            say("stopping")


def included_bag() -> Path:
    """Return the KITTI bag of the repository or of the installed package.

    Raises:
        DataError: It is at neither place.
    """
    bag = package_file("demo/kitti_03")
    if bag is None:
        raise DataError("the included bag demo/kitti_03 is not installed: name a bag with --bag")
    return bag


def finish(run: Run, recording: Path, out: Path) -> None:
    """Print the numbers and where everything is."""
    print(f"\n{text_table(run)}\n")
    print(
        f"recording  {recording}   (RViz: ros2 bag play {recording} --clock; or open in Foxglove)"
    )
    print(f"report     {out / 'report.html'}", flush=True)


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[demo] {text}", flush=True)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"coopnet_ros.{name}", *arguments]


def _start_node(camera: Camera, bundle: Path | None, logs: Path, env: dict[str, str]) -> Child:
    parameters = {
        "image_transport": "compressed" if camera.is_compressed else "raw",
        "use_sim_time": "true",
        "path_period_s": "0.0",
        "camera_mounting": "auto" if camera.has_tf else "parameter",
    }
    if bundle is not None:
        parameters["bundle"] = str(bundle.resolve())
    if camera.height_m is not None:
        parameters |= {"scale_mode": "camera_height", "camera_height": str(camera.height_m)}
    arguments = ["--ros-args", "-r", f"image:={camera.base_topic}"]
    arguments += ["-r", f"camera_info:={camera.camera_info}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    command = _module("perception_node", *arguments)
    return Child("perception node", command, logs / "perception.log", env)


def _start_replay(
    bag: Path,
    camera: Camera,
    rate_hz: float | None,
    logs: Path,
    env: dict[str, str],
    subscribers: int,
    loop: bool = False,
) -> Child:
    arguments = [str(bag), "--ros-args", "-p", f"wait_for_subscribers:={subscribers}"]
    arguments += ["-p", f"loop:={str(loop).lower()}", "-p", "wait_timeout_s:=30.0"]
    if rate_hz is not None:
        arguments += ["-p", f"rate:={float(rate_hz)}"]
    if camera.image != camera.played_topic:
        arguments += ["-r", f"{camera.image}:={camera.played_topic}"]
    return Child("replay", _module("replay_node", *arguments), logs / "replay.log", env)


def _follow(replay: Child, watched: Sequence[Child]) -> None:
    """Show the progress of the replay until it ends."""
    shown = ""
    while replay.exit_status is None:
        _check_alive(watched)
        found = re.search(r"published (\d+) of (\d+)", replay.last_line)
        if found and sys.stdout.isatty():
            done, total = int(found[1]), int(found[2])
            width = 30 * done // max(1, total)
            text = f"\r[demo] {'#' * width}{'.' * (30 - width)} {done} of {total} messages"
            if text != shown:
                print(text, end="", flush=True)
                shown = text
        time.sleep(0.1)
    if shown:
        print()
    if replay.wait(5.0) != 0:
        raise CoopNetError(replay.explain_end())


def _check_alive(children: Sequence[Child]) -> None:
    for child in children:
        if child.exit_status is not None:
            raise CoopNetError(child.explain_end())


def _clear(recording: Path) -> None:
    """Remove the recording of an earlier run, and nothing else."""
    if not recording.exists():
        return
    ours = all(
        file.suffix == ".mcap" or file.name == "metadata.yaml" for file in recording.iterdir()
    )
    if not ours:
        raise DataError(f"{recording} is in the way and is not a recording: choose another --out")
    shutil.rmtree(recording)


if __name__ == "__main__":
    sys.exit(main())
