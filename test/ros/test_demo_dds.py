"""Fast DDS gets shared memory that images fit into, unless the user has decided otherwise."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from coopnet_core.installed import package_file
from coopnet_ros.dds import (
    PROFILE_VARIABLES,
    enlarge_shared_memory,
    stay_on_this_machine,
)
from coopnet_ros.demo_processes import free_domain_id, ros_environment


def segment_bytes() -> int:
    profile = package_file("config/fastdds.xml")
    assert profile is not None
    size = ElementTree.parse(profile).find(".//{*}segment_size")
    assert size is not None
    return int(size.text or "")


def test_profile_is_set_unless_the_user_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env: dict[str, str] = {}
    enlarge_shared_memory(env)
    assert {env[name] for name in PROFILE_VARIABLES} == {str(package_file("config/fastdds.xml"))}
    monkeypatch.chdir(tmp_path)
    for name in ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml"):
        (tmp_path / name).touch()
        env = {}
        assert enlarge_shared_memory(env) is None
        assert env == {}
        (tmp_path / name).unlink()
    assert enlarge_shared_memory({}) is not None
    for own in (
        {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
        {PROFILE_VARIABLES[0]: "mine.xml"},
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
    ):
        env = dict(own)
        enlarge_shared_memory(env)
        assert env == own
    assert package_file("config/nothing.xml") is None
    # Depth, flow, mask and three previews of 416x128 pixels, several times over.
    assert segment_bytes() > 4 * 416 * 128 * (4 + 8 + 1 + 3 * 3)


def test_ros_stays_on_this_machine_unless_the_user_lets_it_out() -> None:
    env: dict[str, str] = {}
    stay_on_this_machine(env)
    assert env == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    env = {"ROS_DISTRO": "humble"}
    stay_on_this_machine(env)
    assert env["ROS_LOCALHOST_ONLY"] == "1"
    env = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    stay_on_this_machine(env)
    assert env == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}


@pytest.mark.ros
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm to look at")
def test_middleware_takes_the_profile() -> None:
    pytest.importorskip("rclpy")
    script = (
        "import os, rclpy\n"
        "from coopnet_ros.dds import enlarge_shared_memory\n"
        "enlarge_shared_memory(os.environ)\n"
        "before = set(os.listdir('/dev/shm'))\n"
        "rclpy.init(); node = rclpy.create_node('probe')\n"
        "print(rclpy.get_rmw_implementation_identifier())\n"
        "for name in set(os.listdir('/dev/shm')) - before:\n"
        "    print('size', os.stat('/dev/shm/' + name).st_size)\n"
    )
    env = {**ros_environment(), "ROS_DOMAIN_ID": str(free_domain_id())}
    for name in PROFILE_VARIABLES:
        env.pop(name)
    result = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    if "rmw_fastrtps" not in result.stdout:
        pytest.skip("another middleware than Fast DDS")
    sizes = [int(line.split()[1]) for line in result.stdout.splitlines() if line[:4] == "size"]
    assert max(sizes) >= segment_bytes()
