"""ONNX Runtime and OpenVINO behind the Runtime interface, and torch beside them."""

from __future__ import annotations

import importlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.cli.devices import load_runtime
from coopnet_core.errors import (
    BundleError,
    ConfigError,
    InputError,
    RuntimeUnavailableError,
)
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    default_bundle_path,
    load_bundle,
    sha256_of,
)
from coopnet_core.inference.engines import verify
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.inference.runtime_openvino import OpenVinoRuntime

IMAGE = np.zeros((1, 3, 32, 64), np.float32)


CpuRuntime = type[OnnxRuntime] | type[OpenVinoRuntime]


@pytest.fixture(params=["onnxruntime", "openvino"])
def cpu_runtime(request: pytest.FixtureRequest) -> CpuRuntime:
    pytest.importorskip(request.param)
    return OnnxRuntime if request.param == "onnxruntime" else OpenVinoRuntime


def replace_file(bundle_dir: Path, name: str, data: bytes) -> None:
    """Put another file into a bundle and keep its hashes right."""
    (bundle_dir / name).write_bytes(data)
    content = json.loads((bundle_dir / "bundle.json").read_text())
    content["files"][name] = {"sha256": sha256_of(bundle_dir / name), "size_bytes": len(data)}
    (bundle_dir / "bundle.json").write_text(json.dumps(content))


def test_networks_answer_in_the_shapes_of_the_interface(
    cpu_runtime: CpuRuntime, tmp_path: Path
) -> None:
    pose = np.eye(4)
    pose[0, 3] = 0.5
    path = write_tiny_bundle(tmp_path / "b", depth=7.0, T_src_tgt=pose, flow=(1.5, -2.0))
    runtime = cpu_runtime(load_bundle(path), num_threads=1)
    depth = runtime.depth(IMAGE)
    assert depth.shape == (1, 1, 32, 64)
    assert np.all(depth == 7)
    np.testing.assert_array_equal(runtime.pose(IMAGE, IMAGE), pose[None].astype(np.float32))
    features = runtime.flow_features(IMAGE)
    assert [array.shape for array in features] == [
        (1, 32, 8, 16),
        (1, 32, 4, 8),
        (1, 32, 2, 4),
        (1, 32, 1, 2),
    ]
    flow_tgt_src, flow_src_tgt = runtime.flow(features, features)
    assert flow_tgt_src.shape == (1, 2, 32, 64)
    assert flow_tgt_src[0, :, 0, 0].tolist() == [1.5, -2.0]
    np.testing.assert_array_equal(flow_src_tgt, -flow_tgt_src)
    assert "1 threads" in runtime.description


@pytest.mark.parametrize(
    "image",
    [IMAGE[:, :, :16], IMAGE[0], IMAGE.astype(np.float64), np.zeros((1, 3, 32, 64), np.uint8)],
)
def test_a_wrong_image_is_refused(cpu_runtime: CpuRuntime, tmp_path: Path, image: Any) -> None:
    runtime = cpu_runtime(load_bundle(write_tiny_bundle(tmp_path / "b")), num_threads=1)
    with pytest.raises(InputError, match="depth network takes float32 arrays of shape"):
        runtime.depth(image)


def test_a_graph_of_another_network_is_refused(cpu_runtime: CpuRuntime, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    replace_file(path, "depth.onnx", (path / "flow_features.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"depth\.onnx has outputs .*features_4.*canonical_depth"):
        cpu_runtime(load_bundle(path), num_threads=1)


def test_a_graph_of_another_size_is_refused(cpu_runtime: CpuRuntime, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    large = write_tiny_bundle(tmp_path / "large", width=96)
    replace_file(path, "depth.onnx", (large / "depth.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"depth\.onnx has inputs .*96.*expected .*64"):
        cpu_runtime(load_bundle(path), num_threads=1)


def test_a_file_that_is_no_graph_is_refused(cpu_runtime: CpuRuntime, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    replace_file(path, "flow.onnx", b"not a graph")
    with pytest.raises(BundleError, match=r"cannot load .*flow\.onnx"):
        cpu_runtime(load_bundle(path), num_threads=1)


def test_a_negative_number_of_threads_is_refused(cpu_runtime: CpuRuntime, tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path / "b"))
    with pytest.raises(InputError, match="num_threads"):
        cpu_runtime(bundle, num_threads=-1)


@pytest.mark.parametrize(
    ("runtime", "package"), [(OnnxRuntime, "onnxruntime"), (OpenVinoRuntime, "openvino")]
)
def test_a_missing_library_says_what_to_install(
    runtime: CpuRuntime, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    bundle = load_bundle(write_tiny_bundle(tmp_path / "b"))
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(RuntimeUnavailableError, match=f"pip install {package}"):
        runtime(bundle)


def test_results_are_the_callers(cpu_runtime: CpuRuntime) -> None:
    bundle = load_bundle(default_bundle_path())
    runtime = cpu_runtime(bundle, num_threads=1)
    image = np.full((1, 3, bundle.height, bundle.width), 0.5, np.float32)
    first = runtime.depth(image)
    kept = first.copy()
    runtime.depth(np.zeros_like(image))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("device", ["openvino", "torch"])
def test_the_included_networks_answer_as_onnx_runtime_does(device: str) -> None:
    pytest.importorskip(device)
    bundle = load_bundle(default_bundle_path())
    runtime = load_runtime(bundle, device, num_threads=1)
    assert device in runtime.description
    for network in NETWORK_NAMES:
        pairs = verify.synthetic_pairs(bundle)
        result = verify.verify_network(
            network, partial(runtime.run, network), bundle, pairs, "float32"
        )
        # Not the same to the bit, or nothing else would have been run.
        assert 0 < result.median_error < result.median_limit


def test_openvino_runs_float16_files(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    from coopnet_core.export.precisions import extend_bundle

    bundle = load_bundle(write_tiny_bundle(tmp_path / "b", depth=7.0))
    image = textured_image(64, 32)
    extended = extend_bundle(bundle, tmp_path / "c", ["float16"], [(image, image)])
    runtime = load_runtime(extended, "openvino", num_threads=1, precision="float16")
    assert "float16" in runtime.description
    assert np.all(runtime.depth(IMAGE) == 7)


def test_torch_refuses_weights_of_another_variant(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "b"
    shutil.copytree(default_bundle_path(), path)
    content = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps({**content, "variant": "base"}))
    with pytest.raises(BundleError, match=r"weights\.safetensors .* variant base"):
        load_runtime(load_bundle(path), "torch")


def test_torch_runs_in_float32_alone() -> None:
    with pytest.raises(ConfigError, match="float32, got int8"):
        load_runtime(load_bundle(default_bundle_path()), "torch", precision="int8")
