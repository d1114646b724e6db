"""Building engines: what is asked of each library version, and TensorRT-RTX for real."""

from __future__ import annotations

import importlib
import logging
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_gpu import DataType, fake_library
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import write_tiny_bundle

from coopnet_core.errors import EngineError, RuntimeUnavailableError
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    NetworkName,
    default_bundle_path,
    load_bundle,
)
from coopnet_core.inference.engines.builder import BuildOptions, build_engine
from coopnet_core.inference.engines.library import bundle_signature, load_library
from coopnet_core.inference.engines.progress import Progress

DEPTH = bundle_signature("depth", 32, 64)


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "b") / "depth.onnx"


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
def test_later_versions_take_the_types_from_the_file(version: str, onnx_path: Path) -> None:
    library = fake_library(version)
    built = build_engine(library, onnx_path, DEPTH, BuildOptions(workspace_mib=3), b"old;")
    last = library.module.last
    flag = library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert last.flags == 1 << flag
    assert last.config.flags == set()
    assert last.config.limits == {"WORKSPACE": 3 << 20}
    assert built.signature == DEPTH
    assert built.timing_cache == b"old;timed;"


def test_8_6_is_held_to_the_types_of_the_file(onnx_path: Path) -> None:
    library = fake_library("8.6.1")
    build_engine(library, onnx_path, DEPTH, BuildOptions(precision="int8"))
    last = library.module.last
    assert last.flags == 1 << library.module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    assert last.config.flags == {"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"}
    assert [layer.precision for layer in last.network.layers] == [None, DataType.FLOAT, None]
    assert [layer.output_type for layer in last.network.layers] == [None, DataType.FLOAT, None]


def test_rtx_builds_for_the_named_capability_and_has_no_timing_cache(onnx_path: Path) -> None:
    library = fake_library("rtx 1.7")
    assert list(library.compute_capabilities()) == ["8.6", "8.9", "12.0"]
    built = build_engine(library, onnx_path, DEPTH, BuildOptions(compute_capability="12.0"))
    assert library.module.last.config.num_compute_capabilities == 1
    assert library.module.last.config.capabilities == ["SM120"]
    assert built.timing_cache == b""


@pytest.mark.parametrize(
    ("version", "options", "message"),
    [
        ("rtx 1.7", BuildOptions(), r"capabilities 8.6, 8.9, 12.0, got None"),
        ("rtx 1.7", BuildOptions(compute_capability="5.0"), r"got 5\.0: choose one"),
        ("10.3.0", BuildOptions(compute_capability="8.6"), "for the GPU that is here alone"),
        ("10.3.0", BuildOptions(dla_core=2, precision="int8"), "no DLA core 2: .* finds 2 of them"),
        ("10.3.0", BuildOptions(dla_core=0), "DLA calculates in float16 or int8, got float32"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(
    version: str, options: BuildOptions, message: str, onnx_path: Path
) -> None:
    library = fake_library(version, num_dla_cores=2)
    with pytest.raises(EngineError, match=message):
        build_engine(library, onnx_path, DEPTH, options)


def test_a_dla_core_leaves_the_rest_to_the_gpu(onnx_path: Path) -> None:
    library = fake_library("10.3.0", num_dla_cores=2)
    build_engine(library, onnx_path, DEPTH, BuildOptions(dla_core=1, precision="float16"))
    config = library.module.last.config
    assert (config.default_device_type, config.DLA_core) == ("DLA", 1)
    assert config.flags == {"GPU_FALLBACK"}


def test_a_file_that_the_library_cannot_read_is_refused_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "depth.onnx").write_bytes(b"no ONNX")
    with pytest.raises(EngineError, match=r"cannot read .*depth\.onnx: In node 3: GridSample"):
        build_engine(fake_library("10.3.0"), tmp_path / "depth.onnx", DEPTH, BuildOptions())


def test_a_file_of_another_network_is_refused(onnx_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"depth\.onnx has inputs .*'image'.* expected .*_src_tgt"
    ):
        build_engine(
            fake_library("10.3.0"), onnx_path, bundle_signature("flow", 32, 64), BuildOptions()
        )


def test_progress_says_every_few_seconds_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("depth.onnx", period_s=0.01) as progress:
        progress.set_phase("Timing tactics, step 2 of 3")
        deadline_s = time.monotonic() + 5
        while not caplog.messages and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert caplog.messages[0] == "building depth.onnx, 0 s: Timing tactics, step 2 of 3"


@pytest.mark.parametrize(
    ("name", "words"),
    [("tensorrt", "JetPack brings"), ("tensorrt_rtx", "pip install tensorrt-rtx")],
)
def test_a_missing_library_is_named_with_its_command(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_module(wanted: str) -> None:
        raise ImportError(f"No module named {wanted!r}")

    monkeypatch.setattr(importlib, "import_module", no_module)
    with pytest.raises(RuntimeUnavailableError, match=f"{name} package cannot.*{words}"):
        load_library(name)  # type: ignore[arg-type]


def _really_build(network: NetworkName, path: Path, height: int, width: int) -> None:
    expected = bundle_signature(network, height, width)
    options = BuildOptions(compute_capability="8.6")
    built = build_engine(load_library("tensorrt_rtx"), path, expected, options)
    assert built.signature == expected
    # The engine cannot be loaded without a GPU; that it holds the tensors, its bytes tell.
    for name in (*expected.inputs, *expected.outputs):
        assert name.encode() in built.plan
    assert len(built.plan) > path.stat().st_size / 2


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_tensorrt_rtx_really_builds_small_without_a_gpu(network: NetworkName) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    bundle = load_bundle(default_bundle_path())
    _really_build(network, bundle.onnx_path(network), bundle.height, bundle.width)


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_tensorrt_rtx_really_builds_base_without_a_gpu(
    network: NetworkName, tmp_path: Path
) -> None:
    """With random weights: no bundle of it is shipped."""
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    pytest.importorskip("onnxscript")
    from coopnet_core.export.graphs import build_graphs, write_onnx
    from coopnet_core.networks import build_networks

    path = tmp_path / f"{network}.onnx"
    write_onnx(build_graphs(build_networks("base"))[network], network, path, 640, 192)
    _really_build(network, path, 192, 640)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_tensorrt_rtx_really_builds_the_types_of_the_file(precision: str, tmp_path: Path) -> None:
    """Float32 at both ends; between them a convolution in float16, or quantised to int8."""
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    node, array = helper.make_node, numpy_helper.from_array
    kernel = np.linspace(-1, 1, 3 * 9, dtype=np.float32).reshape(1, 3, 3, 3)
    if precision == "float16":
        weights = [array(kernel.astype(np.float16), "kernel")]
        nodes = [
            node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
            node("Conv", ["half", "kernel"], ["result"], pads=[1, 1, 1, 1]),
            node("Cast", ["result"], ["canonical_depth"], to=TensorProto.FLOAT),
        ]
    else:
        weights = [
            array((kernel * 127).astype(np.int8), "kernel_int8"),
            array(np.float32(1 / 127), "scale"),
            array(np.int8(0), "zero"),
        ]
        nodes = [
            node("QuantizeLinear", ["image", "scale", "zero"], ["image_int8"]),
            node("DequantizeLinear", ["image_int8", "scale", "zero"], ["image_back"]),
            node("DequantizeLinear", ["kernel_int8", "scale", "zero"], ["kernel"]),
            node("Conv", ["image_back", "kernel"], ["canonical_depth"], pads=[1, 1, 1, 1]),
        ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 64])
        for name, channels in (("image", 3), ("canonical_depth", 1))
    ]
    graph = helper.make_graph(nodes, "depth", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / f"depth_{precision}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    options = BuildOptions(precision=precision, compute_capability="8.6")  # type: ignore[arg-type]
    built = build_engine(load_library("tensorrt_rtx"), path, DEPTH, options)
    assert built.signature == DEPTH
    assert len(built.plan) > 1000


def test_tensorrt_rtx_really_refuses_a_damaged_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    data = default_bundle_path().joinpath("pose.onnx").read_bytes()
    (tmp_path / "pose.onnx").write_bytes(data[: len(data) // 2])
    library = load_library("tensorrt_rtx")
    with pytest.raises(EngineError, match=r"tensorrt_rtx .* cannot read .*pose\.onnx: .+; export"):
        build_engine(
            library,
            tmp_path / "pose.onnx",
            bundle_signature("pose", 128, 416),
            BuildOptions(compute_capability="8.6"),
        )
