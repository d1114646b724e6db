"""Networks through OpenVINO, on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from coopnet_core.errors import BundleError, InputError, RuntimeUnavailableError
from coopnet_core.inference.bundle import NETWORK_NAMES, Bundle, NetworkName, Precision
from coopnet_core.inference.runtime import FloatArray, Runtime
from coopnet_core.inference.runtime_onnxruntime import usable_cores
from coopnet_core.inference.signature import Shapes, check_graph, check_inputs, inputs, outputs


class OpenVinoRuntime(Runtime):
    """A ``Runtime`` with one OpenVINO inference request per network.

    Args:
        bundle: The checked bundle.
        num_threads: Threads per network; 0 takes every core that the process may run on.
        precision: Which of the bundle's files to run. float16 is calculated in bfloat16 where the
            CPU has it, else in float32.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed.
        BundleError: The bundle has no such precision, or a graph cannot be loaded or has other
            inputs or outputs than a bundle's.
    """

    def __init__(
        self, bundle: Bundle, num_threads: int = 0, precision: Precision = "float32"
    ) -> None:
        try:
            openvino = importlib.import_module("openvino")
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"the openvino package cannot be imported ({error}): "
                "install it with 'pip install openvino'"
            ) from error
        if num_threads < 0:
            raise InputError(f"num_threads must be 0 (all cores) or more, got {num_threads}")
        self._size = (bundle.height, bundle.width)
        threads = num_threads or usable_cores()
        core = openvino.Core()
        has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        arithmetic = "bf16" if precision == "float16" and has_bfloat16 else "f32"
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Where it is left to itself, float32 is bfloat16 on a CPU that has it.
            "INFERENCE_PRECISION_HINT": arithmetic,
            # Two nodes whose threads are tied to cores would share the first ones.
            "ENABLE_CPU_PINNING": False,
        }
        self._requests = {
            name: _request(bundle, name, precision, core, settings) for name in NETWORK_NAMES
        }
        # The version has the build's number and branch behind the release.
        version = openvino.__version__.partition("-")[0]
        note = " in bfloat16" if arithmetic == "bf16" else ""
        self._description = f"openvino {version}, CPU, {threads} threads, {precision}{note}"

    @property
    def description(self) -> str:
        """One line for diagnostics: library, version, device, threads."""
        return self._description

    def run(self, network: NetworkName, *inputs: FloatArray) -> Sequence[FloatArray]:
        """Run one network; see ``Runtime``."""
        check_inputs(network, inputs, *self._size)
        results = self._requests[network].infer(list(inputs), share_inputs=True)
        return [results[place] for place in range(len(results))]


def _request(
    bundle: Bundle,
    network: NetworkName,
    precision: Precision,
    core: Any,
    settings: dict[str, Any],
) -> Any:
    path = bundle.onnx_path(network, precision)
    try:
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    except RuntimeError as error:
        raise BundleError(
            f"OpenVINO cannot load {path}: {' '.join(str(error).split())}; export the bundle again "
            "with this version of coopnet, or use device cpu"
        ) from error
    size = (bundle.height, bundle.width)
    taken = _shapes(compiled.inputs, inputs(network, *size))
    returned = _shapes(compiled.outputs, outputs(network, *size))
    check_graph(path.name, network, taken, returned, *size)
    return compiled.create_infer_request()


def _shapes(found: Sequence[Any], expected: Shapes) -> Shapes:
    """Name and shape of each tensor; of its several names the one that is expected."""
    names = [*expected, *[""] * len(found)]
    return {
        name if name in item.names else item.any_name: tuple(item.shape)
        for item, name in zip(found, names, strict=False)
    }
