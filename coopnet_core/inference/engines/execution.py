"""One engine ready to run: buffers allocated once, copies and launch recorded as a CUDA graph."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from coopnet_core.errors import EngineError
from coopnet_core.inference.engines.cache import write_atomically
from coopnet_core.inference.engines.cuda import Cuda
from coopnet_core.inference.engines.library import (
    EngineLibrary,
    Signature,
    check_signature,
    engine_signature,
)
from coopnet_core.inference.runtime import FloatArray

_log = logging.getLogger(__name__)


class EngineNetwork:
    """Runs one engine.

    The engine runs once here, so that the first frame is not the slow one and a graph can be
    recorded. Where recording fails, work is queued call by call, with a warning.

    Args:
        library: The library that built the engine.
        path: The serialised engine.
        expected: Inputs and outputs that it must have.
        cuda: The GPU; its memory is freed with it.
        dla_core: Deep learning accelerator that the engine was built for.
        has_graph: Whether to record a CUDA graph. TensorRT-RTX records one by itself.

    Raises:
        EngineError: The engine does not load or run here, or has other inputs or outputs.
    """

    def __init__(
        self,
        library: EngineLibrary,
        path: Path,
        expected: Signature,
        cuda: Cuda,
        *,
        dla_core: int | None = None,
        has_graph: bool = True,
    ) -> None:
        self._library, self._path, self._cuda = library, path, cuda
        library.logger.errors.clear()
        # The library wants each of these kept for as long as the ones made from it.
        self._runtime = library.module.Runtime(library.logger)
        if dla_core is not None:
            self._runtime.DLA_core = dla_core
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise self._error("cannot load")
        check_signature(engine_signature(library, self._engine), expected, f"engine {path}")
        self._runtime_cache: Any = None
        self._context = self._make_context()
        if self._context is None:
            raise self._error("has no memory to run")
        self._device: dict[str, int] = {}
        self._inputs = self._allocate({name: s for name, (s, _) in expected.inputs.items()})
        self._outputs = self._allocate({name: s for name, (s, _) in expected.outputs.items()})
        self._graph: Any = None
        self._enqueue()
        cuda.synchronize()
        self._save_runtime_cache()
        if has_graph and not library.is_rtx:
            self._record_graph()

    @property
    def has_graph(self) -> bool:
        """Whether a CUDA graph was recorded here."""
        return self._graph is not None

    def run(self, *images: FloatArray) -> list[FloatArray]:
        """Run the network.

        Args:
            *images: Its inputs, in order and of the shapes that were expected.

        Returns:
            Its outputs, in arrays of the caller's own.

        Raises:
            EngineError: The GPU refuses.
        """
        for buffer, image in zip(self._inputs.values(), images, strict=True):
            np.copyto(buffer, image)
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph)
        self._cuda.synchronize()
        return [buffer.copy() for buffer in self._outputs.values()]

    def _allocate(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, FloatArray]:
        buffers = {}
        for name, shape in shapes.items():
            buffers[name] = self._cuda.malloc_pinned(shape)
            buffers[name][...] = 0
            self._device[name] = self._cuda.malloc(buffers[name].nbytes)
            if not self._context.set_tensor_address(name, self._device[name]):
                raise self._error(f"refuses the buffer of {name}")
        return buffers

    def _enqueue(self) -> None:
        for name, buffer in self._inputs.items():
            self._cuda.to_device(self._device[name], buffer)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._error("does not run")
        for name, buffer in self._outputs.items():
            self._cuda.to_host(buffer, self._device[name])

    def _record_graph(self) -> None:
        try:
            self._graph = self._cuda.capture(self._enqueue)
        except EngineError as error:
            _log.warning("no CUDA graph for %s, it runs call by call: %s", self._path.name, error)

    def _make_context(self) -> Any:
        if not self._library.is_rtx:
            return self._engine.create_execution_context()
        # TensorRT-RTX compiles its kernels here, on the GPU; the cache saves that next time.
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._runtime_cache = config.create_runtime_cache()
        cache_path = self._runtime_cache_path
        if cache_path.is_file():
            self._runtime_cache.deserialize(cache_path.read_bytes())
        config.set_runtime_cache(self._runtime_cache)
        return self._engine.create_execution_context(config)

    def _save_runtime_cache(self) -> None:
        if self._runtime_cache is None or self._runtime_cache_path.is_file():
            return
        try:
            write_atomically(self._runtime_cache_path, bytes(self._runtime_cache.serialize()))
        except OSError as error:
            _log.warning("cannot write %s: %s", self._runtime_cache_path, error)

    @property
    def _runtime_cache_path(self) -> Path:
        return self._path.with_suffix(".runtime-cache")

    def _error(self, what: str) -> EngineError:
        reasons = "; ".join(self._library.logger.errors[-3:]) or "the library gives no reason"
        return EngineError(
            f"engine {self._path} {what} with {self._library.label} on {self._cuda.device.name}: "
            f"{reasons}; build it again with 'coopnet engine', or use device cpu"
        )
