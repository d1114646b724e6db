"""What colcon, rosdep and pip read about the package agrees with itself and with the tree."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import pytest
import setuptools

import coopnet_core

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()

# Keys looked up by hand: packages of Humble, Jazzy and Kilted in rosdistro's distribution files,
# and python3-* in rosdep/python.yaml. A new dependency has to be looked up and added here.
ROS_PACKAGES = {
    "ament_copyright",
    "ament_flake8",
    "ament_pep257",
    "ament_xmllint",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "nav_msgs",
    "rcl_interfaces",
    "rclpy",
    "ros2launch",
    "rosgraph_msgs",
    "rviz2",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "tf2_msgs",
    "tf2_ros_py",
}
SYSTEM_KEYS = {"python3-numpy", "python3-opencv", "python3-pytest", "python3-yaml"}


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> metadata.Distribution:
    """The package's metadata as setup.py makes it now, whatever is installed."""
    folder = tmp_path_factory.mktemp("egg")
    subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "-q", "egg_info", "--egg-base", str(folder)],
        cwd=ROOT,
        check=True,
    )
    return metadata.Distribution.at(folder / "coopnet_ros.egg-info")


def test_manifest_follows_package_format_3() -> None:
    package = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg is not installed")
    parsed = package.parse_package(str(ROOT / "package.xml"))
    parsed.validate()
    assert parsed.package_format == 3
    assert parsed.licenses == ["Apache-2.0"]
    assert parsed.get_build_type() == "ament_python"


def test_manifest_names_only_keys_that_rosdep_resolves() -> None:
    keys = {element.text for element in MANIFEST if element.tag.endswith("depend")}
    assert keys <= ROS_PACKAGES | SYSTEM_KEYS
    # The build type is an export, not a package: as a dependency it stops `rosdep install`.
    assert "ament_python" not in keys


def test_one_version_everywhere(distribution: metadata.Distribution) -> None:
    assert MANIFEST.findtext("version") == distribution.version == coopnet_core.__version__


def test_licence_file_is_the_one_that_is_declared(distribution: metadata.Distribution) -> None:
    assert (ROOT / "LICENSE").read_text("utf-8").lstrip().startswith("Apache License")
    assert distribution.metadata["License"] == MANIFEST.findtext("license") == "Apache-2.0"


def test_every_console_script_is_a_callable(distribution: metadata.Distribution) -> None:
    scripts = {e.name: e for e in distribution.entry_points if e.group == "console_scripts"}
    assert set(scripts) >= {"coopnet", "perception_node", "replay_node", "record"}
    for script in scripts.values():
        if script.module.startswith("coopnet_ros") and importlib.util.find_spec("rclpy") is None:
            pytest.skip("rclpy is not installed")
        assert callable(script.load()), script.name


def test_ros2_run_finds_the_scripts() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["develop"]["script_dir"] == "$base/lib/coopnet_ros"
    assert config["install"]["install_scripts"] == "$base/lib/coopnet_ros"


def test_every_file_that_users_need_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: seen.update(keywords))
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("coopnet_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

    data_files = seen["data_files"]
    assert isinstance(data_files, list)
    installed = {name for _, names in data_files for name in names}
    assert {"package.xml", "resource/coopnet_ros"} <= installed
    for name in installed:
        assert (ROOT / name).is_file(), name
    for folder, suffixes in {"launch": {".py"}, "config": {".yaml", ".rviz", ".txt"}}.items():
        files = {p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes}
        assert files, folder
        assert {p.relative_to(ROOT).as_posix() for p in files} <= installed
    for target, names in data_files:
        assert not Path(target).is_absolute()
        assert len({Path(name).parent for name in names}) == 1
    packages = seen["packages"]
    assert isinstance(packages, list)
    sources = {
        p.parent for top in ("coopnet_core", "coopnet_ros") for p in (ROOT / top).rglob("*.py")
    }
    assert {p.relative_to(ROOT).as_posix().replace("/", ".") for p in sources} == set(packages)


def pins() -> dict[str, list[str]]:
    """Pinned versions by canonical name."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r'([\w.-]+)==([\w.]+)(; python_version (?:<|>=) "3\.11")?', line)
            assert match is not None, f"not an exact pin: {line}"
            found.setdefault(canonical(match[1]), []).append(match[2])
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_and_ros_wheel_is_pinned(distribution: metadata.Distribution) -> None:
    names = [re.split(r"[^\w.-]", line)[0] for line in distribution.requires or []]
    setup = (ROOT / "scripts" / "setup.sh").read_text("utf-8")
    for array in ("ros_wheels", "rosidl_needs", "tools"):
        match = re.search(rf"^{array}=\(([^)]*)\)", setup, re.MULTILINE)
        assert match is not None, array
        names += match[1].split()
    missing = {canonical(name) for name in names} - set(pins())
    assert not missing


def test_everything_installed_beside_them_is_pinned() -> None:
    """In the environment of scripts/setup.sh no indirect dependency floats."""
    if not (Path(sys.prefix) / ".coopnet-dev").exists() or os.environ.get("ROS_DISTRO"):
        pytest.skip("not in an environment that scripts/setup.sh made from wheels")
    pinned = pins()
    loose = []
    # Message packages appear twice: as a wheel (ros-std-msgs, dist-info) and as its egg-info.
    for path in Path(sys.prefix).glob("lib/python*/site-packages/*.dist-info"):
        installed = metadata.Distribution.at(path)
        name, version = canonical(installed.metadata["Name"]), installed.version.split("+")[0]
        if name != "coopnet-ros" and version not in pinned.get(name, []):
            loose.append(f"{name}=={version}")
    assert not loose


def test_known_bad_releases_are_not_pinned() -> None:
    pinned = pins()
    assert not {"2.6.2", "2.6.3"} & set(pinned["lightning-fabric"])
    # From setuptools 80 on, `colcon build --symlink-install` fails.
    assert all(int(version.split(".")[0]) < 80 for version in pinned["setuptools"])
    assert pinned["torch"] == ["2.13.0"]
