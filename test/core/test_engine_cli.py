"""``coopnet engine`` on the command line, with a stand-in for the library (support/fake_gpu.py)."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from fake_gpu import FakeCuda, fake_library
from tiny_bundle import write_tiny_bundle

from coopnet_core.cli.main import main
from coopnet_core.inference.bundle import NETWORK_NAMES
from coopnet_core.inference.engines import cuda as cuda_module
from coopnet_core.inference.engines import library as library_module


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "b")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "find_driver", lambda: "no NVIDIA driver")


@pytest.mark.usefixtures("no_gpu")
def test_it_builds_ahead_of_time_and_shows_what(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    library = fake_library("rtx 1.7")
    monkeypatch.setattr(library_module, "load_library", lambda name: library)
    command = ["engine", "--bundle", str(bundle_dir), "--out", str(tmp_path / "out")]
    command += ["--compute-capability", "8.6", "12.0"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    num_engines = 2 * len(NETWORK_NAMES)
    assert len(lines) == 1 + num_engines + 1
    assert lines[0].split()[:4] == ["network", "for", "MB", "built"]
    depth = "image 1x3x32x64 float32 -> canonical_depth 1x1x32x64 float32"
    assert lines[1].split()[:6] == ["depth", "any", "8.6", "0.0", "in", "0.0"]
    assert lines[1].endswith(depth)
    assert "when first loaded" in lines[1]
    assert "flow_tgt_src, flow_src_tgt 1x2x32x64 float32" in lines[-2]
    assert len(list((tmp_path / "out").glob("*.engine"))) == num_engines
    assert main(command) == 0
    assert "before" in capsys.readouterr().out
    assert library.module.last.num_builds == num_engines


def test_with_a_gpu_it_verifies(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(cuda_module, "find_driver", lambda: "")
    monkeypatch.setattr(cuda_module, "CudaPython", lambda: cuda)
    monkeypatch.setattr(library_module, "load_library", lambda name: fake_library("10.3.0", cuda))
    command = ["engine", "--bundle", str(bundle_dir), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Fake GPU 8.7" in out
    assert "off by 0 of 0.005 fraction of the depth" in out
    assert "off by 0 of 0.05 pixels" in out


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--library", "auto"], "pip install tensorrt-rtx"),
        (["--library", "tensorrt"], "sudo apt install nvidia-jetpack"),
        (["--workspace-mib", "0"], "--workspace-mib must be 1 or more, got 0"),
    ],
)
def test_what_is_missing_is_said(
    options: list[str],
    message: str,
    bundle_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    load = importlib.import_module

    def without_tensorrt(name: str) -> object:
        if name.startswith("tensorrt"):
            raise ImportError(f"No module named {name!r}")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", without_tensorrt)
    assert main(["engine", "--bundle", str(bundle_dir), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_a_capability_is_asked_for(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(library_module, "load_library", lambda name: fake_library("rtx 1.7"))
    command = ["engine", "--bundle", str(bundle_dir), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "--compute-capability 8.6 8.9" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.engine"))
