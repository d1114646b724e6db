"""A short run of fault_injection.py; the long one is for a machine that is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: scripts/setup.sh")

pytestmark = pytest.mark.ros

PROGRAM = Path(__file__).with_name("fault_injection.py")


def test_the_node_gets_over_every_fault_once(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--cycles", "1", "--seed", "1"]
    run = subprocess.run(
        [*command, "--logs", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "14 rounds, seed 1: 0 problems" in run.stdout
