"""Which runtime runs a bundle here, and why."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

from coopnet_core.errors import InputError, RuntimeUnavailableError
from coopnet_core.inference.bundle import NETWORK_NAMES, Bundle, Precision
from coopnet_core.inference.engines.cache import default_cache_dir
from coopnet_core.inference.engines.cuda import CudaPython, find_driver
from coopnet_core.inference.engines.library import LIBRARY_NAMES, LibraryName, load_library
from coopnet_core.inference.engines.verify import synthetic_pairs, verify_network
from coopnet_core.inference.runtime import DEVICES, Runtime
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.inference.runtime_openvino import OpenVinoRuntime
from coopnet_core.inference.runtime_tensorrt import TensorRtRuntime

_PROVIDERS: dict[str, tuple[str, str]] = {
    "cuda": ("CUDAExecutionProvider", "'pip install onnxruntime-gpu' in place of onnxruntime"),
    "ort_tensorrt": (
        "TensorrtExecutionProvider",
        "'pip install onnxruntime-gpu' in place of onnxruntime, and 'pip install tensorrt' in the "
        "version that it was built for",
    ),
}


@dataclass(frozen=True)
class ChosenRuntime:
    """A loaded runtime.

    Attributes:
        runtime: Runs the networks.
        device: What it was chosen as; never ``auto``.
        reason: Why, in one line.
    """

    runtime: Runtime
    device: str
    reason: str

    @property
    def description(self) -> str:
        """One line for diagnostics: library, version, device, and why."""
        return f"{self.runtime.description} ({self.device}: {self.reason})"


def choose_runtime(
    bundle: Bundle,
    device: str = "auto",
    num_threads: int = 0,
    precision: Precision = "float32",
) -> ChosenRuntime:
    """Load a bundle's networks on a device.

    ``auto`` takes the first of ``tensorrt``, ``tensorrt_rtx``, ``cuda``, ``openvino`` and ``cpu``
    that works here. It builds no engine, which would take minutes: the first two count only where
    'coopnet engine' has made them. Anything but ``cpu`` is compared with it before it is used.

    Args:
        bundle: The checked bundle.
        device: One of ``DEVICES``. A device that is named and does not work is an error.
        num_threads: CPU threads per network; 0 takes every core.
        precision: Of the arithmetic.

    Raises:
        InputError: There is no such device.
        RuntimeUnavailableError: A library is not installed; the message says how to install it.
        EngineError: An engine or the GPU does not work, or disagrees with the CPU.
        BundleError: The bundle cannot be loaded or has no such precision.
    """
    if device not in DEVICES:
        raise InputError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    load = partial(_load, bundle, num_threads=num_threads, precision=precision)
    if device != "auto":
        return ChosenRuntime(load(device, is_build_allowed=True), device, "as asked")
    reasons = []
    no_driver = find_driver()
    if no_driver:
        reasons.append(no_driver)
    on_gpu = () if no_driver else ("tensorrt", "tensorrt_rtx", "cuda")
    for candidate in (*on_gpu, "openvino"):
        try:
            runtime = load(candidate, is_build_allowed=False)
        except Exception as error:  # noqa: BLE001 - no library may keep the CPU from work
            reasons.append(f"not {candidate}: {' '.join(str(error).split())}")
        else:
            return ChosenRuntime(runtime, candidate, "; ".join(reasons) or "the first choice")
    return ChosenRuntime(load("cpu", is_build_allowed=False), "cpu", "; ".join(reasons))


def _load(
    bundle: Bundle,
    device: str,
    *,
    num_threads: int,
    precision: Precision,
    is_build_allowed: bool,
) -> Runtime:
    """Load a bundle on one device; see :func:`choose_runtime`."""
    for library in LIBRARY_NAMES:
        if device == library:
            return _load_engines(bundle, library, precision, is_build_allowed)
    for network in NETWORK_NAMES:
        bundle.onnx_path(network, precision)
    if device == "cpu":
        return OnnxRuntime(bundle, num_threads, precision)
    runtime: Runtime
    if device == "openvino":
        runtime = OpenVinoRuntime(bundle, num_threads, precision)
    else:
        runtime = _load_provider(bundle, device, num_threads, precision)
    pairs = synthetic_pairs(bundle)
    for network in NETWORK_NAMES:
        verify_network(network, partial(runtime.run, network), bundle, pairs, precision)
    return runtime


def _load_engines(
    bundle: Bundle, name: LibraryName, precision: Precision, is_build_allowed: bool
) -> Runtime:
    library = load_library(name)
    driver_problem = find_driver()
    if driver_problem:
        raise RuntimeUnavailableError(
            f"{driver_problem}: install the driver, or use device cpu; {library.label} is installed"
        )
    return TensorRtRuntime(
        bundle, library, CudaPython(), precision=precision, is_build_allowed=is_build_allowed
    )


def _load_provider(bundle: Bundle, device: str, num_threads: int, precision: Precision) -> Runtime:
    provider, command = _PROVIDERS[device]
    onnxruntime: Any = importlib.import_module("onnxruntime")
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise RuntimeUnavailableError(
            f"onnxruntime {onnxruntime.__version__} has no {provider}, only "
            f"{', '.join(available)}: install one that has it with {command}"
        )
    settings: dict[str, str] = {}
    if device == "ort_tensorrt":
        folder = default_cache_dir() / "onnxruntime"
        settings = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    return OnnxRuntime(bundle, num_threads, precision, [(provider, settings)])
