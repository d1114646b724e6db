"""Engines behind the Runtime protocol, on a STAND-IN for the GPU (see support/fake_gpu.py)."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeCuda, fake_library
from tiny_bundle import write_tiny_bundle

from coopnet_core.errors import BundleError, EngineError, InputError, RuntimeUnavailableError
from coopnet_core.inference import runtime_choice
from coopnet_core.inference.bundle import NETWORK_NAMES, Bundle, default_bundle_path, load_bundle
from coopnet_core.inference.engines import cuda as cuda_module
from coopnet_core.inference.engines import verify
from coopnet_core.inference.engines.builder import BuildOptions
from coopnet_core.inference.engines.cuda import CudaPython, find_driver
from coopnet_core.inference.engines.execution import EngineNetwork
from coopnet_core.inference.engines.library import EngineLibrary, bundle_signature
from coopnet_core.inference.engines.prepare import find_or_build
from coopnet_core.inference.runtime import DEVICES
from coopnet_core.inference.runtime_choice import choose_runtime
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.inference.runtime_tensorrt import TensorRtRuntime
from coopnet_core.inference.signature import run_on_pair

IMAGE = np.full((1, 3, 32, 64), 0.5, np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    pose = np.eye(4)
    pose[0, 3] = 0.5
    return load_bundle(write_tiny_bundle(tmp_path / "b", depth=7.0, T_src_tgt=pose, flow=(1.5, -2)))


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0", "rtx 1.7"])
def test_engines_answer_as_the_onnx_files_do(
    version: str, bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    if version.startswith("rtx"):
        cuda.device = cuda_module.Device("Fake GPU", "8.6")
    runtime = TensorRtRuntime(bundle, fake_library(version, cuda), cuda, cache_dir=tmp_path / "c")
    reference = OnnxRuntime(bundle, num_threads=1)
    for network in NETWORK_NAMES:
        got, expected = (run_on_pair(r, network, IMAGE, IMAGE) for r in (runtime, reference))
        for array, right in zip(got, expected, strict=True):
            np.testing.assert_array_equal(array, right)
    assert "Fake GPU" in runtime.description
    assert "float32" in runtime.description


def test_a_frame_allocates_nothing_and_results_are_the_callers(
    bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    runtime = TensorRtRuntime(bundle, fake_library("10.3.0", cuda), cuda, cache_dir=tmp_path)
    first = runtime.depth(IMAGE)
    cuda.calls.clear()
    second = runtime.depth(IMAGE)
    assert "malloc" not in cuda.calls
    assert "malloc_pinned" not in cuda.calls
    assert cuda.calls.count("launch") == 1  # the graph that was recorded once
    second[:] = 0
    assert np.all(first == 7)


def test_where_no_graph_can_be_recorded_it_runs_call_by_call(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeCuda(fails="capture")
    runtime = TensorRtRuntime(bundle, fake_library("10.3.0", cuda), cuda, cache_dir=tmp_path)
    assert np.all(runtime.depth(IMAGE) == 7)
    assert "launch" not in cuda.calls
    assert "no CUDA graph" in caplog.text


def test_rtx_records_its_own_graph_and_keeps_what_it_compiled(
    bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    cuda.device = cuda_module.Device("Fake GPU", "8.6")
    runtime = TensorRtRuntime(bundle, fake_library("rtx 1.7", cuda), cuda, cache_dir=tmp_path)
    assert "capture" not in cuda.calls
    for engine in runtime.engines.values():
        assert engine.path.with_suffix(".runtime-cache").read_bytes() == b"compiled"


@pytest.mark.parametrize("image", [IMAGE[:, :, :16], IMAGE.astype(np.float64)])
def test_a_wrong_image_is_refused(
    image: Any, bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    runtime = TensorRtRuntime(bundle, fake_library("10.3.0", cuda), cuda, cache_dir=tmp_path)
    with pytest.raises(InputError, match="pose network takes float32 arrays of shape"):
        runtime.pose(image, image)


def test_gpu_memory_goes_with_the_runtime(bundle: Bundle, cuda: FakeCuda, tmp_path: Path) -> None:
    runtime = TensorRtRuntime(bundle, fake_library("10.3.0", cuda), cuda, cache_dir=tmp_path)
    assert "close" not in cuda.calls
    del runtime
    gc.collect()
    assert cuda.calls.count("close") == 1


def test_verification_is_recorded_and_done_once(
    bundle: Bundle, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = fake_library("10.3.0", cuda)
    runtime = TensorRtRuntime(bundle, library, cuda, cache_dir=tmp_path)
    side = json.loads(runtime.engines["flow"].path.with_suffix(".json").read_text())
    assert side["verification"]["median_error"] == 0
    assert side["verification"]["reference"].startswith("onnxruntime ")
    monkeypatch.setattr(verify, "verify_network", None)  # a call would fail
    TensorRtRuntime(bundle, library, cuda, cache_dir=tmp_path)
    assert library.module.last.num_builds == len(NETWORK_NAMES)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_wrong_engine_is_refused_by_name_and_number_and_deleted(
    factor: float, bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    number = "nan" if np.isnan(factor) else r"0\.01"
    message = rf"depth network at float32 is off by {number} .*depth\.onnx.*at most 0\.005"
    with pytest.raises(EngineError, match=message):
        TensorRtRuntime(
            bundle, fake_library("10.3.0", cuda, factor=factor), cuda, cache_dir=tmp_path
        )
    assert not list(tmp_path.glob("*.engine"))
    assert not list(tmp_path.glob("*.json"))


def test_a_twentieth_of_the_picture_may_not_be_wrong(bundle: Bundle) -> None:
    runtime = OnnxRuntime(bundle, num_threads=1)

    def run(image: np.ndarray) -> list[np.ndarray]:
        depth = runtime.depth(image).copy()
        depth[:, :, :3] *= 2  # 3 of 32 rows
        return [depth]

    pairs = verify.synthetic_pairs(bundle)
    with pytest.raises(EngineError, match="95th percentile of the worst of 1 frames"):
        verify.verify_network("depth", run, bundle, pairs, "float32")


def test_a_missing_engine_is_not_built_where_that_takes_too_long(
    bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    library = fake_library("10.3.0", cuda)
    settings: dict[str, Any] = {"cache_dir": tmp_path, "is_build_allowed": False}
    with pytest.raises(EngineError, match=r"no tensorrt 10\.3\.0 engine of the depth"):
        TensorRtRuntime(bundle, library, cuda, **settings)
    for name in NETWORK_NAMES:
        options = BuildOptions(workspace_mib=77)
        find_or_build(tmp_path, bundle, name, library, cuda.device, options)
    assert np.all(TensorRtRuntime(bundle, library, cuda, **settings).depth(IMAGE) == 7)


def _network(library: EngineLibrary, path: Path, cuda: FakeCuda) -> EngineNetwork:
    return EngineNetwork(library, path, bundle_signature("depth", 32, 64), cuda)


def test_an_engine_that_does_not_load_or_fit_is_refused(
    bundle: Bundle, cuda: FakeCuda, tmp_path: Path
) -> None:
    library, path = fake_library("10.3.0", cuda), tmp_path / "x.engine"
    path.write_bytes(b"not JSON")
    with pytest.raises(EngineError, match=r"x\.engine cannot load with tensorrt 10\.3\.0 on Fake"):
        _network(library, path, cuda)
    path.write_text(json.dumps({"onnx": str(bundle.onnx_path("flow")), "factor": 1.0}))
    with pytest.raises(EngineError, match=r"x\.engine has inputs .*flow_tgt_src.* expected"):
        _network(library, path, cuda)


def test_a_cuda_error_names_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    api = SimpleNamespace(
        cudaGetDeviceCount=lambda: (35, None),
        cudaGetErrorString=lambda error: (0, b"CUDA driver version is insufficient"),
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: api)
    with pytest.raises(EngineError, match="CUDA call cudaGetDeviceCount failed: 35: CUDA driver"):
        CudaPython()


def test_missing_cuda_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_module(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", no_module)
    with pytest.raises(RuntimeUnavailableError, match=r"cuda-python package.*pip install cuda-b"):
        CudaPython()


# Which runtime


@pytest.mark.parametrize("device", ["openvino", "cpu"])
def test_without_a_driver_auto_is_the_cpu_and_says_why(
    device: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_module, "DRIVER", "libcuda-that-nobody-has.so")
    reason = "no NVIDIA driver (libcuda-that-nobody-has.so not found)"
    if device == "openvino":
        pytest.importorskip("openvino")
    else:
        monkeypatch.setitem(sys.modules, "openvino", None)
        reason += "; not openvino: the openvino package cannot be imported"
    chosen = choose_runtime(bundle, "auto", num_threads=1)
    assert chosen.device == device
    assert chosen.reason.startswith(reason)
    assert chosen.description.startswith("onnxruntime " if device == "cpu" else "openvino ")
    assert chosen.description.endswith(f"({device}: {chosen.reason})")
    assert np.all(chosen.runtime.depth(IMAGE) == 7)


def test_auto_takes_the_first_that_works_and_tells_what_did_not(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def load(bundle: Bundle, device: str, **settings: Any) -> str:
        tried.append((device, settings["is_build_allowed"]))
        if device == "cuda":
            return "a runtime"
        raise RuntimeError(f"{device} is\nbroken")

    monkeypatch.setattr(runtime_choice, "find_driver", lambda: "")
    monkeypatch.setattr(runtime_choice, "_load", load)
    chosen = choose_runtime(bundle, "auto")
    assert (chosen.runtime, chosen.device) == ("a runtime", "cuda")
    assert chosen.reason == (
        "not tensorrt: tensorrt is broken; not tensorrt_rtx: tensorrt_rtx is broken"
    )
    assert tried == [("tensorrt", False), ("tensorrt_rtx", False), ("cuda", False)]


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "no CUDAExecutionProvider"), ("ort_tensorrt", "no TensorrtExecutionProvider")],
)
def test_a_named_provider_that_is_missing_is_an_error(
    device: str, message: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = SimpleNamespace(
        __version__="1.0", get_available_providers=lambda: ["CPUExecutionProvider"]
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: onnxruntime)
    with pytest.raises(RuntimeUnavailableError, match=f"{message}.*pip install onnxruntime-gpu"):
        choose_runtime(bundle, device)


def test_a_provider_that_falls_back_to_the_cpu_is_an_error(bundle: Bundle) -> None:
    provider = ("CUDAExecutionProvider", {"device_id": "0"})
    if find_driver() == "":
        pytest.skip("there is an NVIDIA driver here, so the provider may start")
    with pytest.raises((RuntimeUnavailableError, BundleError), match="CUDAExecutionProvider"):
        OnnxRuntime(bundle, num_threads=1, providers=[provider])


def test_an_unknown_device_is_refused_with_the_choices(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"one of auto, cpu, .*tensorrt_rtx, got 'tpu'"):
        choose_runtime(bundle, "tpu")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "device", [name for name in DEVICES if name not in ("auto", "cpu", "openvino")]
)
def test_on_a_real_gpu_every_device_agrees_with_the_cpu(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never run by us: needs an NVIDIA GPU and the device's library."""
    problem = find_driver()
    if problem:
        pytest.skip(problem)
    monkeypatch.setenv("COOPNET_CACHE_DIR", str(tmp_path))
    bundle = load_bundle(default_bundle_path())
    try:
        runtime = choose_runtime(bundle, device).runtime
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    pairs = verify.synthetic_pairs(bundle)
    for network in NETWORK_NAMES:
        verify.verify_network(network, partial(runtime.run, network), bundle, pairs, "float32")
