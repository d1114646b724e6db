"""ONNX Runtime behind the Runtime protocol."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from coopnet_core.errors import BundleError, InputError, RuntimeUnavailableError
from coopnet_core.inference.bundle import load_bundle, sha256_of
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime

IMAGE = np.zeros((1, 3, 32, 64), np.float32)


def replace_file(bundle_dir: Path, name: str, data: bytes) -> None:
    """Put another file into a bundle and keep its hashes right."""
    (bundle_dir / name).write_bytes(data)
    content = json.loads((bundle_dir / "bundle.json").read_text())
    content["files"][name] = {"sha256": sha256_of(bundle_dir / name), "size_bytes": len(data)}
    (bundle_dir / "bundle.json").write_text(json.dumps(content))


def test_networks_answer_in_the_shapes_of_the_protocol(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[0, 3] = 0.5
    path = write_tiny_bundle(tmp_path / "b", depth=7.0, T_src_tgt=pose, flow=(1.5, -2.0))
    runtime = OnnxRuntime(load_bundle(path), num_threads=1)
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
def test_a_wrong_image_is_refused(tmp_path: Path, image: Any) -> None:
    runtime = OnnxRuntime(load_bundle(write_tiny_bundle(tmp_path / "b")), num_threads=1)
    with pytest.raises(InputError, match="depth network takes float32 arrays of shape"):
        runtime.depth(image)


def test_a_graph_of_another_network_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    replace_file(path, "depth.onnx", (path / "flow_features.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"depth\.onnx has outputs .*features_4.*canonical_depth"):
        OnnxRuntime(load_bundle(path), num_threads=1)


def test_a_graph_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    large = write_tiny_bundle(tmp_path / "large", width=96)
    replace_file(path, "depth.onnx", (large / "depth.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"depth\.onnx has inputs .*96.*expected .*64"):
        OnnxRuntime(load_bundle(path), num_threads=1)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    replace_file(path, "flow.onnx", b"not a graph")
    with pytest.raises(BundleError, match=r"cannot load .*flow\.onnx"):
        OnnxRuntime(load_bundle(path), num_threads=1)


def test_a_negative_number_of_threads_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path / "b"))
    with pytest.raises(InputError, match="num_threads"):
        OnnxRuntime(bundle, num_threads=-1)


def test_a_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    bundle = load_bundle(write_tiny_bundle(tmp_path / "b"))
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        OnnxRuntime(bundle)
