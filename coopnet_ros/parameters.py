"""The parameters of the perception node: one table that declares, checks and documents them.

``declare_table`` does the same for the table of any node.

``python -m coopnet_ros.parameters yaml`` prints ``config/coopnet.yaml``, ``... markdown`` prints
``docs/parameters.md``; tests hold both files to the table.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from coopnet_core.errors import ConfigError
from coopnet_core.inference.bundle import PRECISIONS, Precision
from coopnet_core.inference.metric_scale import SCALE_MODES, MetricScaleConfig, ScaleMode
from coopnet_core.inference.runtime import DEVICES

Value = bool | int | float | str | list[float] | list[str]

NODE_NAME = "coopnet"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: Its name.
        default: Its default, whose type is the parameter's type.
        description: What it does, with unit.
        minimum: Smallest value of a number.
        maximum: Largest value of a number.
        choices: Allowed strings; empty for any.
        is_dynamic: Whether it may change at run time; otherwise it is read once, at start.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    is_dynamic: bool = False

    @property
    def type_name(self) -> str:
        """Type as ROS calls it."""
        if isinstance(self.default, list):
            return "string array" if isinstance(self.default[0], str) else "double array"
        names = {bool: "bool", int: "integer", float: "double", str: "string"}
        return names[type(self.default)]

    @property
    def allowed(self) -> str:
        """Allowed values in words, empty for any."""
        if self.choices:
            return ", ".join(self.choices)
        if self.minimum is None:
            return ""
        return f"{self.minimum:g} to {self.maximum:g}"

    def problem(self, value: Value) -> str:
        """Return why a value of the right type is refused, empty when it is not.

        rclpy knows of ranges and of what is read-only; it does not know of choices.
        """
        if not self.choices or value in self.choices:
            return ""
        return f"parameter '{self.name}' must be one of {self.allowed}, got '{value}'"

    def descriptor(self) -> ParameterDescriptor:
        """Return what ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=f"one of: {self.allowed}" if self.choices else "",
            read_only=not self.is_dynamic,
        )
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, float):
                span = FloatingPointRange(from_value=self.minimum, to_value=self.maximum)
                descriptor.floating_point_range = [span]
            else:
                integers = IntegerRange(
                    from_value=int(self.minimum), to_value=int(self.maximum), step=1
                )
                descriptor.integer_range = [integers]
        return descriptor


TABLE: tuple[Parameter, ...] = (
    Parameter("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    Parameter(
        "bundle",
        "",
        "Directory of the trained model; empty for the included one. Setting it at run time loads "
        "that model in the background; one that cannot be used is refused and the old one stays.",
        is_dynamic=True,
    ),
    Parameter(
        "device",
        "auto",
        "Where the networks run. auto: the first of tensorrt, tensorrt_rtx (both only with engines "
        "made by `coopnet engine`), cuda (ONNX Runtime), openvino and cpu (ONNX Runtime) that "
        "works. A device that is named and does not work is an error; tensorrt, tensorrt_rtx and "
        "ort_tensorrt build missing engines at start, which can take minutes.",
        choices=DEVICES,
    ),
    Parameter(
        "precision",
        "float32",
        "Arithmetic of the networks, of those that the bundle holds; `coopnet export --precisions` "
        "adds some.",
        choices=PRECISIONS,
    ),
    Parameter("num_threads", 0, "CPU threads of the networks; 0 takes every core.", 0, 256),
    Parameter(
        "image_transport",
        "raw",
        "Input type: sensor_msgs/Image on `image`, or sensor_msgs/CompressedImage (JPEG, PNG) on "
        "`image/compressed`.",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "image_reliability",
        "best_effort",
        "QoS reliability of the image and camera_info subscriptions. best_effort receives from "
        "every publisher; reliable loses nothing on a poor network, but receives nothing from a "
        "best-effort publisher.",
        choices=("best_effort", "reliable"),
    ),
    Parameter(
        "rectify",
        True,
        "Undo lens distortion with the model of camera_info. false for an image that is rectified "
        "already while its camera_info still describes the lens.",
    ),
    Parameter(
        "depth_encoding",
        "32FC1",
        "Encoding of `~/depth/image`, REP 118. 32FC1: metres, NaN where invalid. 16UC1: "
        "millimetres, 0 where invalid or further than 65.535 m, for half the bandwidth.",
        choices=("32FC1", "16UC1"),
    ),
    Parameter("odom_frame", "odom", "Parent frame of odometry."),
    Parameter("base_frame", "base_link", "Child frame of odometry: the robot."),
    Parameter(
        "publish_tf",
        True,
        "Publish TF odom_frame -> base_frame, and base_frame -> camera with `camera_mounting: "
        "parameter`. false beside a filter that publishes the same transform; a transform on "
        "/tf_static stays until the node ends.",
        is_dynamic=True,
    ),
    Parameter(
        "camera_mounting",
        "auto",
        "Where the camera's pose on the base comes from. tf: from TF, no odometry before. "
        "parameter: from `camera_xyz_rpy`, which is published on /tf_static. auto: from TF; where "
        "TF has nothing 2 s after the first image, `camera_xyz_rpy` stands in, with a warning, "
        "until TF has.",
        choices=("auto", "tf", "parameter"),
    ),
    Parameter(
        "camera_xyz_rpy",
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "Pose of the camera on the base, FLU axes: x, y, z [m], roll, pitch, yaw [rad]; zeros look "
        "forward.",
    ),
    Parameter(
        "scale_mode",
        "none",
        "Where metric scale comes from, for depth, points and odometry alike. none: depth as the "
        "bundle gives it, metres if it was trained so. fixed: times `scale_fixed`. camera_height: "
        "from the ground and `camera_height`. odometry: from nav_msgs/Odometry on "
        "`wheel_odometry`.",
        choices=SCALE_MODES,
    ),
    Parameter(
        "scale_fixed",
        1.0,
        "Metres per unit of the bundle's depth, with `scale_mode: fixed`.",
        1e-6,
        1e6,
    ),
    Parameter(
        "camera_height",
        0.0,
        "Height of the camera over the ground [m], with `scale_mode: camera_height`.",
        0.0,
        100.0,
    ),
    Parameter(
        "max_gap_s",
        1.0,
        "Longest time between two images [s]; after a longer one odometry starts anew from where "
        "it was.",
        0.05,
        60.0,
    ),
    Parameter("path_length", 1000, "Poses kept for `~/path`.", 1, 100000),
    Parameter(
        "path_period_s",
        0.5,
        "Shortest time between two messages on `~/path` [s].",
        0.0,
        60.0,
        is_dynamic=True,
    ),
    Parameter(
        "no_image_warning_s",
        5.0,
        "Warn when no image has come for so long [s].",
        0.5,
        3600.0,
        is_dynamic=True,
    ),
    Parameter(
        "diagnostics_period_s", 1.0, "Time between two messages on /diagnostics [s].", 0.1, 60.0
    ),
)


@dataclass(frozen=True)
class Settings:
    """The values of all parameters; see ``TABLE``."""

    autostart: bool
    bundle: str
    device: str
    precision: Precision
    num_threads: int
    image_transport: str
    image_reliability: str
    rectify: bool
    depth_encoding: str
    odom_frame: str
    base_frame: str
    publish_tf: bool
    camera_mounting: str
    camera_xyz_rpy: Sequence[float]
    scale_mode: ScaleMode
    scale_fixed: float
    camera_height: float
    max_gap_s: float
    path_length: int
    path_period_s: float
    no_image_warning_s: float
    diagnostics_period_s: float


def scale_config(settings: Settings) -> MetricScaleConfig:
    """Return what the parameters say about metric scale.

    Raises:
        ConfigError: ``camera_height`` is asked for and not given.
    """
    if settings.scale_mode == "camera_height" and settings.camera_height <= 0:
        raise ConfigError(
            "parameter 'scale_mode' is camera_height, so 'camera_height' must be the height of the "
            f"camera over the ground in metres, got {settings.camera_height}"
        )
    return MetricScaleConfig(
        mode=settings.scale_mode,
        fixed=settings.scale_fixed,
        camera_height_m=settings.camera_height or None,
    )


def declare(node: Node) -> Settings:
    """Declare every parameter of ``TABLE`` on a node and return their values.

    Raises:
        ConfigError: See ``declare_table``.
    """
    declare_table(node, TABLE)
    return read(node)


def declare_table(node: Node, table: Sequence[Parameter]) -> None:
    """Declare every parameter of a table on a node.

    Raises:
        ConfigError: A value from the command line or a YAML file has another type, is out of range
            or not among the choices.
    """
    for parameter in table:
        try:
            node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
        except ParameterException as error:
            expected = parameter.type_name
            if parameter.allowed:
                expected += f" ({parameter.allowed})"
            raise ConfigError(
                f"parameter '{parameter.name}' must be of type {expected}: {error}"
                + ("; write 5.0, not 5" if "double" in parameter.type_name else "")
            ) from error
        problem = parameter.problem(node.get_parameter(parameter.name).value)
        if problem:
            raise ConfigError(problem)


def problem(changes: Mapping[str, Value]) -> str:
    """Return why one of the new values is refused, empty when none is; see ``Parameter.problem``.

    Args:
        changes: Values by name; names that ``TABLE`` does not have are nobody's business here.
    """
    problems = (p.problem(changes[p.name]) for p in TABLE if p.name in changes)
    return next(filter(None, problems), "")


def read(node: Node) -> Settings:
    """Return the present values of the parameters that ``declare`` has declared."""
    return Settings(**{p.name: node.get_parameter(p.name).value for p in TABLE})


def yaml_text() -> str:
    """Return a parameter file with every parameter, its default and its description."""
    lines = [
        "# Parameters of the perception node, with their defaults.",
        "# Made by `python -m coopnet_ros.parameters yaml`.",
        "/**:",
        f"  {NODE_NAME}:",
        "    ros__parameters:",
    ]
    for parameter in TABLE:
        note = parameter.description
        if parameter.allowed:
            note += f" Allowed: {parameter.allowed}."
        note += " Can change at run time." if parameter.is_dynamic else ""
        lines += [f"      # {line}" for line in textwrap.wrap(note, 90)]
        # JSON is YAML, and keeps 1.0 a double and "" a string.
        lines.append(f"      {parameter.name}: {json.dumps(parameter.default)}")
    return "\n".join(lines) + "\n"


def markdown_text() -> str:
    """Return the page of the documentation with every parameter."""
    lines = [
        "# Parameters of the perception node",
        "",
        "<!-- Made by `python -m coopnet_ros.parameters markdown`. -->",
        "",
        'The same as a parameter file: `config/coopnet.yaml`. "At start" means read-only: such a '
        "parameter takes its value from the command line, the launch file or the parameter file. "
        '"At run time" means that `ros2 param set` takes effect at once. A value of another type '
        "or out of range is refused with the reason; at start, it ends the node. `ros2 param "
        "describe /coopnet NAME` shows the same texts and ranges.",
        "",
        "| parameter | type | default | allowed | change | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for parameter in TABLE:
        change = "**at run time**" if parameter.is_dynamic else "at start"
        default = json.dumps(parameter.default)
        lines.append(
            f"| `{parameter.name}` | {parameter.type_name} | `{default}` | {parameter.allowed} "
            f"| {change} | {parameter.description} |"
        )
    lines += [
        "",
        "Beside them there are those of every ROS 2 node: `use_sim_time`, and "
        "`qos_overrides.TOPIC.publisher.*` and `qos_overrides.TOPIC.subscription.*` for the "
        "history, depth, reliability and durability of each topic ([interface](interface.md)).",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print the parameters as ``yaml`` or ``markdown``."""
    printers = {"yaml": yaml_text, "markdown": markdown_text}
    if len(arguments) != 1 or arguments[0] not in printers:
        print("usage: python -m coopnet_ros.parameters yaml|markdown", file=sys.stderr)
        return 2
    print(printers[arguments[0]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
