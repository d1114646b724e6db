"""From an ONNX file to an engine: a serialised plan for one GPU or compute capability."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coopnet_core.errors import EngineError
from coopnet_core.inference.bundle import Precision
from coopnet_core.inference.engines.library import (
    EngineLibrary,
    Signature,
    check_signature,
    network_signature,
)
from coopnet_core.inference.engines.progress import Progress

DEFAULT_WORKSPACE_MIB = 1024


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for.

    Attributes:
        precision: Of the ONNX file's arithmetic.
        workspace_mib: Largest scratch memory of a layer, MiB.
        dla_core: Deep learning accelerator of a Jetson; None: the GPU alone.
        compute_capability: TensorRT-RTX only: for which GPUs, such as ``8.6``.
    """

    precision: Precision = "float32"
    workspace_mib: int = DEFAULT_WORKSPACE_MIB
    dla_core: int | None = None
    compute_capability: str | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """A fresh engine.

    Attributes:
        plan: The serialised engine.
        signature: Inputs and outputs of the network definition that it was built from.
        build_s: Seconds that it took.
        timing_cache: What makes the next build faster; empty for TensorRT-RTX, which times nothing.
    """

    plan: bytes
    signature: Signature
    build_s: float
    timing_cache: bytes


def build_engine(
    library: EngineLibrary,
    onnx_path: Path,
    expected: Signature,
    options: BuildOptions,
    timing_cache: bytes = b"",
) -> BuiltEngine:
    """Build an engine.

    TensorRT times its kernels on the GPU that is here. TensorRT-RTX needs none: it builds for
    ``options.compute_capability`` and leaves the last step to the GPU that loads the engine.

    Args:
        library: Which library builds.
        onnx_path: The network.
        expected: The inputs and outputs that a bundle's network has.
        options: What for.
        timing_cache: ``BuiltEngine.timing_cache`` of an earlier build.

    Raises:
        EngineError: The library cannot read the file or build it, the file has other inputs or
            outputs, or an option is not for this library or GPU.
    """
    trt, what = library.module, f"{onnx_path.name} with {library.label}"
    start_s = time.monotonic()
    library.logger.errors.clear()
    builder = trt.Builder(library.logger)
    if builder is None:
        raise EngineError(f"{library.label} has no builder here: {_errors(library)}")
    network = builder.create_network(_network_flags(library))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(onnx_path)):
        problems = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(
            f"{library.label} cannot read {onnx_path}: {problems or _errors(library)}; export the "
            "bundle again, or use another device"
        )
    signature = network_signature(network)
    check_signature(signature, expected, str(onnx_path))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    _set_target(library, builder, config, options)
    if not library.is_strongly_typed:
        _type_weakly(trt, network, config, options)
    cache = None
    if not library.is_rtx:
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, False)
    with Progress(what) as progress:
        progress.watch(trt, config)
        plan = builder.build_serialized_network(network, config)
    if plan is None or plan.nbytes == 0:
        raise EngineError(f"cannot build {what}: {_errors(library)}")
    timings = b"" if cache is None else bytes(config.get_timing_cache().serialize())
    return BuiltEngine(bytes(plan), signature, time.monotonic() - start_s, timings)


def _network_flags(library: EngineLibrary) -> int:
    """Ask for a strongly typed network; 8.6 has explicit batches instead, which later are gone."""
    flags = library.module.NetworkDefinitionCreationFlag
    flag = flags.STRONGLY_TYPED if library.is_strongly_typed else flags.EXPLICIT_BATCH
    return 1 << int(flag)


def _set_target(library: EngineLibrary, builder: Any, config: Any, options: BuildOptions) -> None:
    """Say what to build for: a compute capability, a DLA core, or the GPU that is here."""
    if library.is_rtx:
        known = library.compute_capabilities()
        if options.compute_capability not in known:
            raise EngineError(
                f"{library.label} builds for compute capabilities {', '.join(known)}, got "
                f"{options.compute_capability}: choose one, or use another device"
            )
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(known[options.compute_capability], 0):
            raise EngineError(
                f"{library.label} refuses compute capability {options.compute_capability}: "
                f"{_errors(library)}"
            )
    elif options.compute_capability is not None:
        raise EngineError(
            f"{library.label} builds for the GPU that is here alone, got compute capability "
            f"{options.compute_capability}: leave it out, or use tensorrt_rtx"
        )
    if options.dla_core is None:
        return
    if not 0 <= options.dla_core < builder.num_DLA_cores:
        raise EngineError(
            f"there is no DLA core {options.dla_core}: {library.label} finds "
            f"{builder.num_DLA_cores} of them here; leave it out to use the GPU"
        )
    if options.precision == "float32":
        raise EngineError("a DLA calculates in float16 or int8, got float32: choose one of them")
    config.default_device_type = library.module.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.set_flag(library.module.BuilderFlag.GPU_FALLBACK)


def _type_weakly(trt: Any, network: Any, config: Any, options: BuildOptions) -> None:
    """Hold 8.6, which chooses types by speed, to those of the ONNX file.

    FP16 is allowed in every case, because bundles store their weights as float16; the constraints
    keep the arithmetic as the file has it.
    """
    config.set_flag(trt.BuilderFlag.FP16)
    if options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        types = [layer.get_output(j).dtype for j in range(layer.num_outputs)]
        if layer.type == trt.LayerType.CONSTANT or set(types) != {trt.DataType.FLOAT}:
            continue
        layer.precision = trt.DataType.FLOAT
        for j in range(layer.num_outputs):
            layer.set_output_type(j, trt.DataType.FLOAT)


def _errors(library: EngineLibrary) -> str:
    return "; ".join(library.logger.errors[-3:]) or "the library gives no reason"
