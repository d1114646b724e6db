"""``ros2 launch`` for real, where launch and an installed package exist; the RViz file anywhere."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
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


def launch_constant(name: str) -> Any:
    """A constant of the launch file, which cannot be imported where launch is not installed."""
    tree = ast.parse((ROOT / "launch" / "coopnet.launch.py").read_text("utf-8"))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            return node.value  # type: ignore[attr-defined]
    raise AssertionError(f"no {name} in the launch file")


def test_the_interface_page_explains_every_launch_argument_and_no_other() -> None:
    arguments = {entry.elts[0].value for entry in launch_constant("ARGUMENTS").elts}
    page = (ROOT / "docs" / "interface.md").read_text("utf-8")
    table = page.partition("## Launch arguments")[2]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(arguments)


def test_rviz_is_remapped_for_every_output_and_the_demo_records_all_but_the_cloud() -> None:
    demo = pytest.importorskip("coopnet_ros.demo")
    outputs = pytest.importorskip("coopnet_ros.outputs")
    topics = {name.removeprefix("~/") for name in outputs.TOPICS}
    assert set(demo.OUTPUTS) == topics - {"points"}
    assert set(ast.literal_eval(launch_constant("OUTPUTS"))) == topics


@pytest.mark.ros
@pytest.mark.launch
def test_the_launch_file_starts_the_node_and_replays_a_bag(tmp_path: Path) -> None:
    pytest.importorskip("launch_ros", reason="launch_ros is not installed (no wheel): source ROS 2")
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        packages.get_package_prefix("coopnet_ros")
    except (packages.PackageNotFoundError, OSError):  # the latter: no workspace is sourced
        pytest.skip("coopnet_ros is not installed: colcon build, then source install/setup.bash")
    from nav_msgs.msg import Odometry
    from ros_harness import Harness
    from tiny_bundle import write_tiny_bundle

    bundle = write_tiny_bundle(tmp_path / "bundle")
    with Harness(tmp_path) as harness:
        harness.listen("/robot1/coopnet/odom", Odometry)
        log = (tmp_path / "launch.log").open("wb")
        launch = subprocess.Popen(
            [
                *("ros2", "launch", "coopnet_ros", "coopnet.launch.py"),
                f"bag:={ROOT / 'demo' / 'kitti_03'}",
                f"bundle:={bundle}",
                "namespace:=robot1",
                "base_frame:=chassis",
            ],
            env=harness.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            odom = harness.wait_for("/robot1/coopnet/odom")
        finally:
            launch.send_signal(signal.SIGINT)
            launch.wait(timeout=15)
            log.close()
        assert (odom.header.frame_id, odom.child_frame_id) == ("odom", "chassis")
        assert "Traceback" not in (tmp_path / "launch.log").read_text()
