"""Networks on the CPU through ONNX Runtime."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from coopnet_core.errors import BundleError, InputError, RuntimeUnavailableError
from coopnet_core.inference.bundle import NETWORK_NAMES, Bundle, NetworkName, Precision
from coopnet_core.inference.runtime import FloatArray

_INPUTS: dict[NetworkName, tuple[str, ...]] = {
    "depth": ("image",),
    "pose": ("image_tgt", "image_src"),
    "flow": ("image_tgt", "image_src"),
}


def _outputs(network: NetworkName, height: int, width: int) -> dict[str, list[int]]:
    if network == "depth":
        return {"canonical_depth": [1, 1, height, width]}
    if network == "pose":
        return {"T_src_tgt": [1, 4, 4]}
    return {"flow_tgt_src": [1, 2, height, width], "flow_src_tgt": [1, 2, height, width]}


class OnnxRuntime:
    """A ``Runtime`` with one ONNX Runtime session per network.

    Args:
        bundle: The checked bundle.
        num_threads: Threads per network; 0 takes every core that the process may run on.
        precision: Which of the bundle's files to run.

    Raises:
        RuntimeUnavailableError: ONNX Runtime is not installed.
        BundleError: The bundle has no such precision, or a graph cannot be loaded or has other
            inputs or outputs than a bundle's.
    """

    def __init__(
        self, bundle: Bundle, num_threads: int = 0, precision: Precision = "float32"
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
        self._image_shape = (1, 3, bundle.height, bundle.width)
        threads = num_threads or usable_cores()
        self._sessions = {
            name: _session(bundle, name, precision, threads, onnxruntime) for name in NETWORK_NAMES
        }
        self._precision = precision
        self._description = (
            f"onnxruntime {onnxruntime.__version__}, CPU, {threads} threads, {precision}"
        )

    @property
    def precision(self) -> Precision:
        """Which of the bundle's files run."""
        return self._precision

    @property
    def description(self) -> str:
        """One line for diagnostics: library, version, device, threads."""
        return self._description

    def depth(self, image: FloatArray) -> FloatArray:
        """Return canonical depth, shape (1, 1, H, W)."""
        return self._run("depth", image)[0]

    def pose(self, image_tgt: FloatArray, image_src: FloatArray) -> FloatArray:
        """Return ``T_src_tgt``, shape (1, 4, 4)."""
        return self._run("pose", image_tgt, image_src)[0]

    def flow(self, image_tgt: FloatArray, image_src: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ``flow_tgt_src`` and ``flow_src_tgt``, each of shape (1, 2, H, W), in pixels."""
        flow_tgt_src, flow_src_tgt = self._run("flow", image_tgt, image_src)
        return flow_tgt_src, flow_src_tgt

    def _run(self, network: NetworkName, *images: FloatArray) -> list[FloatArray]:
        for image in images:
            if image.shape != self._image_shape or image.dtype != np.float32:
                raise InputError(
                    f"the {network} network takes float32 images of shape {self._image_shape}, "
                    f"got {image.dtype} {image.shape}: resize with preprocess.prepare_image"
                )
        feeds = dict(zip(_INPUTS[network], images, strict=True))
        outputs: list[FloatArray] = self._sessions[network].run(None, feeds)
        return outputs


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _session(
    bundle: Bundle, network: NetworkName, precision: Precision, threads: int, onnxruntime: Any
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
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library's own exceptions share no public base class
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; "
            "export the bundle again with this version of coopnet"
        ) from error
    shape = [1, 3, bundle.height, bundle.width]
    _check_signature(
        path.name, "inputs", session.get_inputs(), dict.fromkeys(_INPUTS[network], shape)
    )
    _check_signature(
        path.name,
        "outputs",
        session.get_outputs(),
        _outputs(network, bundle.height, bundle.width),
    )
    return session


def _check_signature(
    file_name: str, kind: str, found: list[Any], expected: dict[str, list[int]]
) -> None:
    got = {item.name: list(item.shape) for item in found}
    if list(got.items()) != list(expected.items()):
        raise BundleError(
            f"{file_name} has {kind} {got}, expected {expected}: it belongs to another network or "
            "version; export the bundle again"
        )
