"""Start a perception node for each of several cameras, each in the namespace of its camera.

    ros2 launch coopnet_ros multi_camera.launch.py cameras:='front rear'

reads ``/front/image_raw`` and ``/rear/image_raw`` and publishes ``/front/coopnet/...`` and
``/rear/coopnet/...``. The arguments of ``coopnet.launch.py`` hold for all cameras alike.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import (
    PythonLaunchDescriptionSource,
    get_launch_description_from_python_launch_file,
)
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription

ONE_CAMERA = str(Path(__file__).resolve().parent / "coopnet.launch.py")

ARGUMENTS: tuple[tuple[str, str, str], ...] = (
    ("cameras", "front rear", "Names of the cameras, separated by spaces; each is a namespace."),
    ("namespace", "", "Namespace above those of the cameras, such as the robot's."),
    (
        "image_topic",
        "image_raw",
        "Topic of the images below each camera's namespace; a suffix /compressed sets "
        "image_transport.",
    ),
    (
        "num_threads",
        "",
        "CPU threads of the networks of each node. Empty: the cores of this machine, divided among "
        "the cameras.",
    ),
    (
        "tf_camera",
        "",
        "Camera whose node publishes the transform odom_frame -> base_frame: a frame can have only "
        "one parent. Empty: the first; none: no node does.",
    ),
)
# Of coopnet.launch.py: decided here for each camera.
PER_CAMERA = ("publish_tf",)


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, those of coopnet.launch.py among them, and what they start."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    own = {name for name, _, _ in ARGUMENTS}
    one_camera = get_launch_description_from_python_launch_file(ONE_CAMERA)
    shared = [a for a in one_camera.get_launch_arguments() if a.name not in (*own, *PER_CAMERA)]
    return LaunchDescription([*declared, *shared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """Return one group of actions per camera."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    cameras = given["cameras"].split()
    if not cameras or len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras must be different names, got '{given['cameras']}'")
    tf_camera = given["tf_camera"] or cameras[0]
    if tf_camera not in (*cameras, "none"):
        raise ValueError(f"tf_camera must be none or one of {cameras}, got '{tf_camera}'")
    num_cores = len(os.sched_getaffinity(0))
    num_threads = given["num_threads"] or str(max(1, num_cores // len(cameras)))
    return [
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource([ONE_CAMERA]),
                    launch_arguments={
                        "namespace": f"{given['namespace'].rstrip('/')}/{camera}".lstrip("/"),
                        "num_threads": num_threads,
                        "publish_tf": str(camera == tf_camera).lower(),
                    }.items(),
                )
            ]
        )
        for camera in cameras
    ]
