"""Start the perception node for one camera, and on request RViz.

    ros2 launch coopnet_ros coopnet.launch.py image_topic:=/camera/image_raw rviz:=true

An argument that is left empty takes the value of the parameter file. ``replay.launch.py`` and
``multi_camera.launch.py`` include this file and take its arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

CONFIG = Path(__file__).resolve().parent.parent / "config"
FROM_FILE = "Empty: as in params_file."

ARGUMENTS: tuple[tuple[str, str, str], ...] = (
    (
        "params_file",
        str(CONFIG / "coopnet.yaml"),
        "YAML file with the parameters of the perception node.",
    ),
    ("namespace", "", "Namespace of the node; its topics are NAMESPACE/coopnet/..."),
    (
        "image_topic",
        "/camera/image_raw",
        "Topic of the camera images; a suffix /compressed sets image_transport.",
    ),
    (
        "camera_info_topic",
        "",
        "Topic of the camera's calibration. Empty: camera_info beside image_topic.",
    ),
    (
        "image_transport",
        "",
        f"raw (sensor_msgs/Image) or compressed (JPEG, PNG on IMAGE_TOPIC/compressed). {FROM_FILE}",
    ),
    ("bundle", "", f"Directory of the trained model. {FROM_FILE}"),
    (
        "device",
        "",
        "Where the networks run: auto, cpu, openvino, cuda, ort_tensorrt, tensorrt, tensorrt_rtx. "
        f"{FROM_FILE}",
    ),
    ("precision", "", f"Arithmetic of the networks: float32, float16, int8. {FROM_FILE}"),
    ("num_threads", "", f"CPU threads of the networks; 0 takes every core. {FROM_FILE}"),
    ("base_frame", "", f"Frame of the robot. {FROM_FILE}"),
    ("odom_frame", "", f"Parent frame of odometry. {FROM_FILE}"),
    ("publish_tf", "", f"Publish the transform odom_frame -> base_frame: true, false. {FROM_FILE}"),
    ("rectify", "", f"Undo lens distortion with camera_info: true, false. {FROM_FILE}"),
    (
        "camera_mounting",
        "",
        f"Where the camera's pose on the base comes from: auto, tf, parameter. {FROM_FILE}",
    ),
    (
        "scale_mode",
        "",
        f"Where metric scale comes from: none, fixed, camera_height, odometry. {FROM_FILE}",
    ),
    (
        "camera_height",
        "",
        f"Height of the camera over the ground [m], for scale_mode camera_height. {FROM_FILE}",
    ),
    (
        "wheel_odometry_topic",
        "wheel_odometry",
        "nav_msgs/Odometry of the wheels, for scale_mode odometry.",
    ),
    ("autostart", "", f"Configure and activate at start: true, false. {FROM_FILE}"),
    ("use_sim_time", "false", "Take the time from /clock: true, false."),
    ("rviz", "false", "Start RViz with a display for every output."),
    ("rviz_config", str(CONFIG / "coopnet.rviz"), "RViz configuration."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)
# Arguments that are parameters of the node, and how to read them from the command line.
STRINGS = (
    "image_transport",
    "bundle",
    "device",
    "precision",
    "base_frame",
    "odom_frame",
    "camera_mounting",
    "scale_mode",
)
FLAGS = ("publish_tf", "autostart", "rectify")
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
    "points",
)


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and what they start."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """Return the nodes for the arguments given."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    image_topic = given["image_topic"]
    if image_topic.endswith("/compressed"):
        image_topic = image_topic.removesuffix("/compressed")
        given["image_transport"] = "compressed"
    folder, slash, _ = image_topic.rpartition("/")
    info_topic = given["camera_info_topic"] or f"{folder}{slash}camera_info"
    use_sim_time = {"use_sim_time": _flag(given, "use_sim_time")}
    overrides: dict[str, Any] = {name: given[name] for name in STRINGS if given[name]}
    overrides |= {name: _flag(given, name) for name in FLAGS if given[name]}
    if given["num_threads"]:
        overrides["num_threads"] = int(given["num_threads"])
    if given["camera_height"]:
        overrides["camera_height"] = float(given["camera_height"])
    nodes = [
        Node(
            package="coopnet_ros",
            executable="perception_node",
            namespace=given["namespace"],
            output="screen",
            parameters=[given["params_file"], overrides, use_sim_time],
            remappings=[
                ("image", image_topic),
                ("camera_info", info_topic),
                ("wheel_odometry", given["wheel_odometry_topic"]),
            ],
            ros_arguments=["--log-level", given["log_level"]],
        )
    ]
    if _flag(given, "rviz"):
        prefix = f"/{given['namespace'].strip('/')}" if given["namespace"].strip("/") else ""
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["--display-config", given["rviz_config"]],
                parameters=[use_sim_time],
                # The configuration names the topics of a node without a namespace.
                remappings=[(f"/coopnet/{o}", f"{prefix}/coopnet/{o}") for o in OUTPUTS],
            )
        )
    return nodes


def _flag(given: dict[str, str], name: str) -> bool:
    """Read a launch argument that is true or false."""
    value = given[name].lower()
    if value not in ("", "true", "false", "1", "0"):
        raise ValueError(f"launch argument {name} must be true or false, got '{given[name]}'")
    return value in ("true", "1")
