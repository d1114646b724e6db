"""Networks through ONNX Runtime, on the CPU unless asked otherwise."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from coopnet_core.errors import BundleError, InputError, RuntimeUnavailableError
from coopnet_core.inference.bundle import NETWORK_NAMES, Bundle, NetworkName, Precision
from coopnet_core.inference.runtime import FloatArray, Runtime
from coopnet_core.inference.signature import check_graph, check_inputs


class OnnxRuntime(Runtime):
    """A ``Runtime`` with one ONNX Runtime session per network.

    Args:
        bundle: The checked bundle.
        num_threads: Threads per network; 0 takes every core that the process may run on.
        precision: Which of the bundle's files to run.
        providers: Execution providers as ONNX Runtime names them, best first, with their options;
            the CPU's comes last by itself.

    Raises:
        RuntimeUnavailableError: ONNX Runtime is not installed, or cannot start the first provider.
        BundleError: The bundle has no such precision, or a graph cannot be loaded or has other
            inputs or outputs than a bundle's.
    """

    def __init__(
        self,
        bundle: Bundle,
        num_threads: int = 0,
        precision: Precision = "float32",
        providers: Sequence[tuple[str, dict[str, str]]] = (),
    ) -> None:
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"the onnxruntime package cannot be imported ({error}): "
                "install it with 'pip install onnxruntime'"
            ) from error
        if num_threads < 0:
            raise InputError(f"num_threads must be 0 (all cores) or more, got {num_threads}")
        self._size = (bundle.height, bundle.width)
        threads = num_threads or usable_cores()
        self._sessions = {
            name: _session(bundle, name, precision, threads, onnxruntime, providers)
            for name in NETWORK_NAMES
        }
        place = providers[0][0].removesuffix("ExecutionProvider") if providers else "CPU"
        self._precision = precision
        self._description = (
            f"onnxruntime {onnxruntime.__version__}, {place}, {threads} threads, {precision}"
        )

    @property
    def precision(self) -> Precision:
        """Which of the bundle's files run."""
        return self._precision

    @property
    def description(self) -> str:
        """One line for diagnostics: library, version, device, threads."""
        return self._description

    def run(self, network: NetworkName, *inputs: FloatArray) -> Sequence[FloatArray]:
        """Run one network; see ``Runtime``."""
        check_inputs(network, inputs, *self._size)
        session = self._sessions[network]
        names = (item.name for item in session.get_inputs())
        results: list[FloatArray] = session.run(None, dict(zip(names, inputs, strict=True)))
        return results


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _session(
    bundle: Bundle,
    network: NetworkName,
    precision: Precision,
    threads: int,
    onnxruntime: Any,
    providers: Sequence[tuple[str, dict[str, str]]],
) -> Any:
    path = bundle.onnx_path(network, precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # The sessions take turns, and a robot runs other things: idle threads must not burn the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[*providers, "CPUExecutionProvider"]
        )
    except Exception as error:  # the library's own exceptions share no public base class
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; "
            "export the bundle again with this version of coopnet"
        ) from error
    # A provider whose library is missing is left out with no more than a warning.
    if providers and providers[0][0] not in session.get_providers():
        raise RuntimeUnavailableError(
            f"ONNX Runtime {onnxruntime.__version__} could not start {providers[0][0]} and fell "
            f"back to {session.get_providers()}: install the CUDA, cuDNN and TensorRT that this "
            "version needs (onnxruntime.ai/docs/execution-providers)"
        )
    taken, returned = (
        {item.name: tuple(item.shape) for item in items}
        for items in (session.get_inputs(), session.get_outputs())
    )
    check_graph(path.name, network, taken, returned, bundle.height, bundle.width)
    return session
