"""Style: ruff everywhere, and ament's linters where ROS 2 brings them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytestmark = pytest.mark.linter

ROOT = Path(__file__).resolve().parents[2]
# Named one by one: build folders and environments lie beside them.
WITH_DOCSTRINGS = [
    str(ROOT / name) for name in ("coopnet_core", "coopnet_ros", "launch", "scripts", "setup.py")
]
SOURCES = [*WITH_DOCSTRINGS, str(ROOT / "test")]
XML_FILES = [str(ROOT / "package.xml"), str(ROOT / "config" / "fastdds.xml")]


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments: tuple[str, ...]) -> None:
    """The rules of flake8 and of PEP 257, with those of the project: see pyproject.toml."""
    pytest.importorskip("ruff", reason="ruff is not installed: scripts/setup.sh dev")
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_flake8() -> None:
    ament = pytest.importorskip("ament_flake8.main", reason="ament_flake8 comes with ROS 2")
    status, errors = ament.main_with_errors(["--config", str(ROOT / "setup.cfg"), *SOURCES])
    assert status == 0, "\n".join(errors)


def test_pep257() -> None:
    ament = pytest.importorskip("ament_pep257.main", reason="ament_pep257 comes with ROS 2")
    rules = ["--convention", "google", "--add-ignore", "D105", "D107"]
    assert ament.main([*rules, "--", *WITH_DOCSTRINGS]) == 0


def test_copyright() -> None:
    ament = pytest.importorskip("ament_copyright.main", reason="ament_copyright comes with ROS 2")
    assert ament.main([str(ROOT / "LICENSE")]) == 0


def test_no_file_has_a_licence_of_its_own() -> None:
    """LICENSE holds for all; a notice in a file says that it came from somewhere else."""
    # In pieces, or this file would have one.
    notice = re.compile("|".join([r"copyright" + r" (\(c\)|©|\d{4})", "spdx-" + "license"]), re.I)
    files = [
        path
        for source in SOURCES
        for path in (Path(source).rglob("*") if Path(source).is_dir() else [Path(source)])
        if path.suffix in (".py", ".sh", ".msg", ".xml", ".yaml", ".cpp", ".hpp")
    ]
    assert len(files) > 100
    found = [str(path) for path in files if notice.search(path.read_text("utf-8"))]
    assert found == []


def test_xmllint(capfd: pytest.CaptureFixture[str]) -> None:
    """package.xml against the schema that it names; without ROS 2, test_metadata checks it."""
    ament = pytest.importorskip("ament_xmllint.main", reason="ament_xmllint comes with ROS 2")
    if shutil.which("xmllint") is None:
        pytest.skip("xmllint is not installed: libxml2-utils")
    status = ament.main(XML_FILES)
    said = "".join(capfd.readouterr())
    if status and "failed to load external entity" in said:
        pytest.skip("the schema cannot be fetched: no network")
    assert status == 0, said


@pytest.mark.parametrize("path", XML_FILES, ids=lambda path: Path(path).name)
def test_xml_is_well_formed(path: str) -> None:
    assert ElementTree.parse(path).getroot() is not None
