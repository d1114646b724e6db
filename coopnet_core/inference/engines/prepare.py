"""The engine of a network: from the cache, or built and put there."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from coopnet_core.errors import EngineError
from coopnet_core.inference.bundle import Bundle, NetworkName, sha256_of
from coopnet_core.inference.engines import cache
from coopnet_core.inference.engines.builder import BuildOptions, build_engine
from coopnet_core.inference.engines.cache import ANY_GPU, CachedEngine, EngineKey, SideFile
from coopnet_core.inference.engines.cuda import Device
from coopnet_core.inference.engines.library import EngineLibrary, Tensors, bundle_signature

_log = logging.getLogger(__name__)


def engine_key(
    bundle: Bundle,
    network: NetworkName,
    library: EngineLibrary,
    device: Device | None,
    options: BuildOptions,
) -> EngineKey:
    """Return what the engine must be.

    Args:
        bundle: The checked bundle.
        network: Which network.
        library: What builds and runs it.
        device: The GPU that is here, if any.
        options: What the engine is built for.

    Raises:
        EngineError: There is no GPU and no compute capability is named.
        BundleError: The bundle has no file of this precision.
    """
    capability = options.compute_capability or (device.compute_capability if device else None)
    if capability is None or (device is None and not library.is_rtx):
        raise EngineError(
            f"{library.label} needs to know for which GPU to build, and there is none here: "
            + (
                "name compute capabilities, such as --compute-capability 8.6 8.9"
                if library.is_rtx
                else "run this on the machine with the GPU, or use --library tensorrt_rtx"
            )
        )
    return EngineKey(
        onnx_sha256=sha256_of(bundle.onnx_path(network, options.precision)),
        library=library.name,
        library_version=library.version,
        gpu=ANY_GPU if library.is_rtx or device is None else device.name,
        compute_capability=capability,
        precision=options.precision,
        input_shape=(1, 3, bundle.height, bundle.width),
        dla_core=options.dla_core,
        workspace_mib=options.workspace_mib,
    )


def find_or_build(
    folder: Path,
    bundle: Bundle,
    network: NetworkName,
    library: EngineLibrary,
    device: Device | None,
    options: BuildOptions,
) -> tuple[CachedEngine, bool]:
    """Return the engine with exactly these options, and whether it was built just now.

    Of two processes that ask for the same engine at the same time, one builds and one waits.

    Raises:
        EngineError: It cannot be built or stored.
        BundleError: The bundle has no file of this precision.
    """
    key = engine_key(bundle, network, library, device, options)
    found = cache.find(folder, key)
    if found is not None:
        return found, False
    with cache.lock(folder, key):
        found = cache.find(folder, key)
        if found is not None:
            return found, False
        _log.info(
            "building the %s engine of %s with %s for compute capability %s",
            network,
            bundle.info.name,
            library.label,
            key.compute_capability,
        )
        # TensorRT-RTX asks for the capability by name; for TensorRT it is that of the GPU.
        target = key.compute_capability if library.is_rtx else options.compute_capability
        timings = folder / f"timing-{library.label.replace(' ', '-')}-{_plain(key.gpu)}.cache"
        built = build_engine(
            library,
            bundle.onnx_path(network, options.precision),
            bundle_signature(network, bundle.height, bundle.width),
            replace(options, compute_capability=target),
            timings.read_bytes() if timings.is_file() else b"",
        )
        if built.timing_cache:
            try:
                cache.write_atomically(timings, built.timing_cache)
            except OSError as error:  # the engine is worth more than the time of the next build
                _log.warning("cannot write %s: %s", timings, error)
        side = SideFile(
            bundle=bundle.version,
            network=network,
            key=key,
            engine_sha256=cache.sha256_of_bytes(built.plan),
            engine_bytes=len(built.plan),
            built=cache.utc_now(),
            build_s=round(built.build_s, 1),
            inputs=_in_words(built.signature.inputs),
            outputs=_in_words(built.signature.outputs),
        )
        return cache.store(folder, side, built.plan), True


def find_existing(
    folder: Path,
    bundle: Bundle,
    network: NetworkName,
    library: EngineLibrary,
    device: Device,
    options: BuildOptions,
) -> CachedEngine:
    """Return the engine that was built last for this network, whatever DLA core and workspace.

    Raises:
        EngineError: There is none.
        BundleError: The bundle has no file of this precision.
    """
    key = engine_key(bundle, network, library, device, options)
    found = cache.find_like(folder, key)
    if found is None:
        raise EngineError(
            f"no {library.label} engine of the {network} network of {bundle.version} at "
            f"{options.precision} for {device.name} (compute capability "
            f"{device.compute_capability}) in {folder}: make it with 'coopnet engine --bundle "
            f"{bundle.path} --library {library.name} --precision {options.precision}'"
        )
    return found


def _in_words(tensors: Tensors) -> dict[str, str]:
    return {name: f"{'x'.join(map(str, s))} {kind}" for name, (s, kind) in tensors.items()}


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)
