"""Replay a bag (or a folder of images) through the perception node; on request record, or RViz.

    ros2 launch coopnet_ros replay.launch.py rviz:=true
    ros2 launch coopnet_ros replay.launch.py bag:=my_bag image_topic:=/cam/image_raw record:=run1

The arguments of ``coopnet.launch.py`` work here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

HERE = Path(__file__).resolve().parent
NODE = "coopnet"
# Time for the last outputs to reach the recording.
LAST_OUTPUTS_S = 2.0

ARGUMENTS: tuple[tuple[str, str, str], ...] = (
    (
        "bag",
        str(HERE.parent / "demo" / "kitti_03"),
        "Bag, or folder of images with calibration.yaml, to replay as the camera.",
    ),
    ("rate", "0.0", "Image rate of the replay in Hz; 0: as recorded."),
    ("loop", "false", "Start again at the end: true, false."),
    ("start_offset_s", "0.0", "Seconds to leave out at the start."),
    (
        "record",
        "",
        "Folder of a new bag that records every topic, input and outputs. The launch then ends "
        "when the replay ends. Empty: nothing is recorded, and the node goes on after the replay.",
    ),
    # These two with other defaults than in coopnet.launch.py.
    (
        "image_topic",
        "/camera/image/compressed",
        "Topic of the images in the bag; a suffix /compressed sets image_transport. The default is "
        "that of the included bag, and of folders of JPEG or PNG.",
    ),
    ("use_sim_time", "true", "Take the time from /clock, which the replay publishes."),
)


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and what they start."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([str(HERE / "coopnet.launch.py")])
    )
    return LaunchDescription([*declared, node, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """Return the replay, and the recorder if one is asked for."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if given["loop"].lower() not in ("true", "false"):
        raise ValueError(f"launch argument loop must be true or false, got '{given['loop']}'")
    parameters = {
        "source": given["bag"],
        "rate": float(given["rate"]),
        "loop": given["loop"].lower() == "true",
        "start_offset_s": float(given["start_offset_s"]),
    }
    if not given["record"]:
        return [_replay(parameters)]
    # The node and the recorder.
    parameters["wait_for_subscribers"] = 2
    end = TimerAction(period=LAST_OUTPUTS_S, actions=[Shutdown()])
    replay = _replay(parameters, on_exit=[end])
    recorder = Node(
        package="coopnet_ros",
        executable="record",
        output="screen",
        # Launch appends --ros-args, which `ros2 bag record` does not take.
        arguments=["--builtin", "--all", "--output", given["record"]],
        # It closes the bag first.
        sigterm_timeout="30",
        on_exit=[Shutdown()],
    )

    def start_replay(event: ProcessIO) -> list[Any] | None:
        """Start the replay when the recorder hears the node; the first images count, too."""
        is_ready = f"/{NODE}/odom'" in event.text.decode(errors="replace")
        return [replay] if is_ready and replay.process_details is None else None

    return [
        recorder,
        RegisterEventHandler(
            OnProcessIO(target_action=recorder, on_stdout=start_replay, on_stderr=start_replay)
        ),
    ]


def _replay(parameters: dict[str, Any], on_exit: Sequence[Any] = ()) -> Node:
    return Node(
        package="coopnet_ros",
        executable="replay_node",
        output="screen",
        parameters=[parameters],
        on_exit=list(on_exit),
    )
