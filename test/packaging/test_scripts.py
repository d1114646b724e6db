"""The scripts of a first contact with the project: what they say when a machine lacks something."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "scripts" / "setup.sh"
# What setup.sh calls before it has an environment; of these every Linux has all.
TOOLS = "bash cat cut dirname find flock ls mkdir rm sha256sum touch uname".split()  # noqa: SIM905


def load(name: str) -> ModuleType:
    """A script of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs scripts/setup.sh without a package index: nothing may be downloaded in a test."""
    base = {k: v for k, v in os.environ.items() if k not in ("ROS_DISTRO", "COOPNET_VENV")}
    return subprocess.run(
        ["bash", str(SETUP), *arguments],
        env={**base, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def fake_python(folder: Path, version: str) -> Path:
    """An interpreter that knows its version and fails at everything else."""
    path = folder / "fake_python"
    path.write_text(
        f'#!/bin/sh\ncase "$2" in *version_info*) echo {version} ;; *) exit 1 ;; esac\n',
        "utf-8",
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["setup.sh", "demo.sh", "test.sh"])
def test_scripts_run_and_are_valid_bash(name: str) -> None:
    path = ROOT / "scripts" / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_continuous_integration_runs_the_tests() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert "scripts/test.sh" in path.read_text("utf-8")


def test_setup_names_the_levels() -> None:
    done = setup("full")
    assert done.returncode == 1
    assert "unknown level 'full'" in done.stderr
    assert "runtime, dev" in done.stderr


def test_setup_explains_a_python_without_wheels(tmp_path: Path) -> None:
    done = setup(COOPNET_PYTHON=str(fake_python(tmp_path, "3.9")), COOPNET_VENV=str(tmp_path / "v"))
    assert done.returncode == 1
    assert "3.10, 3.11, 3.12, 3.13" in done.stderr
    assert "fake_python=3.9" in done.stderr
    assert "apt-get install" in done.stderr
    assert not (tmp_path / "v").exists()


def test_setup_names_what_the_machine_lacks_before_any_download(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool) or pytest.skip(f"{tool} is not installed"))
    environment = {"PATH": str(tools), "COOPNET_PYTHON": sys.executable, "CXX": ""}
    done = setup(COOPNET_VENV=str(tmp_path / "v"), **environment)
    assert done.returncode == 1
    assert "this machine lacks: g++" in done.stderr
    assert "sudo apt-get install g++" in done.stderr


def test_setup_explains_a_ros_without_rclpy(tmp_path: Path) -> None:
    done = setup(ROS_DISTRO="jazzy", COOPNET_PYTHON=str(fake_python(tmp_path, "3.12")))
    assert done.returncode == 1
    assert "ROS_DISTRO is 'jazzy', but no Python here can import rclpy" in done.stderr
    assert "source /opt/ros/jazzy/setup.bash" in done.stderr


def test_setup_never_clears_a_folder_that_is_no_environment(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", "utf-8")
    done = setup(COOPNET_VENV=str(tmp_path), COOPNET_PYTHON=sys.executable)
    assert done.returncode == 1
    assert "not empty and not a Python environment" in done.stderr
    assert (tmp_path / "thesis.tex").read_text("utf-8") == "years of work"
    assert len(list(tmp_path.iterdir())) == 1


def test_setup_says_what_to_do_when_there_is_no_index(tmp_path: Path) -> None:
    done = setup(COOPNET_VENV=str(tmp_path / "v"), COOPNET_PYTHON=sys.executable)
    assert done.returncode == 1
    assert "could not install" in done.stderr
    assert "needs a package index" in done.stderr
    assert not (tmp_path / "v" / ".coopnet-runtime").exists()


def test_second_setup_is_silent_and_needs_no_network() -> None:
    environment = Path(sys.prefix)
    if not (environment / ".coopnet-dev").exists() or os.environ.get("ROS_DISTRO"):
        pytest.skip("not in an environment that scripts/setup.sh made from wheels")
    for level in ("dev", "runtime"):
        done = setup(level, COOPNET_VENV=str(environment))
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""


JUNIT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


@pytest.mark.parametrize(
    ("numbers", "line", "is_success"),
    [
        ((9, 0, 0, 2), "7 passed, 0 failed, 2 skipped", True),
        ((9, 1, 1, 2), "5 passed, 2 failed, 2 skipped", False),
        ((0, 0, 0, 0), "0 passed, 0 failed, 0 skipped (no tests ran)", False),
        ((3, 0, 0, 3), "0 passed, 0 failed, 3 skipped (no tests ran)", False),
    ],
)
def test_summary_counts_a_report(
    tmp_path: Path, numbers: tuple[int, ...], line: str, is_success: bool
) -> None:
    report = tmp_path / "pytest.xml"
    report.write_text(JUNIT.format(*numbers), "utf-8")
    assert load("test_summary").summarise(report) == (line, is_success)


def test_summary_without_a_report_is_a_failure(tmp_path: Path) -> None:
    summarise = load("test_summary").summarise
    line, is_success = summarise(tmp_path / "missing.xml")
    assert not is_success
    assert "no tests ran" in line
    (tmp_path / "cut.xml").write_text("<testsuites><testsu", "utf-8")
    line, is_success = summarise(tmp_path / "cut.xml")
    assert not is_success
    assert "not a report" in line


def test_pins_give_way_to_what_the_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = load("requirements")
    egg_info = tmp_path / "coopnet_ros.egg-info"
    egg_info.mkdir()
    (egg_info / "PKG-INFO").write_text("Name: coopnet_ros\nVersion: 1\n", "utf-8")
    (egg_info / "requires.txt").write_text(
        "numpy>=1.21\npydantic>=2.5\nopencv-python-headless>=4.5\n\n[dev]\npytest>=7\n", "utf-8"
    )
    (tmp_path / "constraints.txt").write_text(
        'numpy==2.4.6; python_version >= "3.11"\npydantic==2.14.3\npytest==9.2.0\nlark==1.2\n',
        "utf-8",
    )
    # A distribution's numpy and lark are good enough, its pydantic is too old for setup.py.
    system = {"numpy": "1.26.4", "pydantic": "1.10.14", "lark": "1.1.9"}
    monkeypatch.setattr(requirements, "system_versions", lambda environment: system)
    monkeypatch.setattr(requirements, "has_system_opencv", lambda environment: True)
    command = ["requirements.py", "dev", "--egg-info", str(egg_info), "--constraints"]
    command += [str(tmp_path / "constraints.txt"), "--environment", str(tmp_path)]
    command += ["--output", str(tmp_path / "out")]

    monkeypatch.setattr(sys, "argv", [*command, "--prefer-system"])
    requirements.main()
    pins = (tmp_path / "out" / "constraints.txt").read_text("utf-8").splitlines()
    wanted = (tmp_path / "out" / "requirements.txt").read_text("utf-8").splitlines()
    assert pins == ["pydantic==2.14.3", "pytest==9.2.0"]
    assert wanted == ["numpy>=1.21", "pydantic>=2.5", "pytest>=7"]

    monkeypatch.setattr(sys, "argv", command)
    requirements.main()
    assert len((tmp_path / "out" / "constraints.txt").read_text("utf-8").splitlines()) == 4
    assert "opencv" in (tmp_path / "out" / "requirements.txt").read_text("utf-8")


def test_tf2_msgs_build_names_the_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    build = load("build_tf2_msgs")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match=r"apt-get install g\+\+"):
        build.compilers()


def test_tf2_msgs_build_names_the_missing_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = load("build_tf2_msgs")
    monkeypatch.setattr(build.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(build.BuildError, match=r"apt-get install python3\.\d+-dev"):
        build.python_headers()
