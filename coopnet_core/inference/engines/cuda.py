"""The few CUDA calls that running an engine takes, behind a small interface."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from coopnet_core.errors import EngineError, RuntimeUnavailableError
from coopnet_core.inference.runtime import FloatArray

DRIVER = "libcuda.so.1"
NON_BLOCKING = 1
"""cudaStreamNonBlocking: the stream does not wait for the default one."""


@dataclass(frozen=True)
class Device:
    """A GPU: its name and compute capability, such as ``8.7``."""

    name: str
    compute_capability: str


class Cuda(Protocol):
    """One GPU, one stream. Copies and launches are queued; ``synchronize`` waits for them."""

    @property
    def device(self) -> Device:
        """The GPU."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        ...

    def malloc(self, num_bytes: int) -> int:
        """Return the address of new device memory."""
        ...

    def malloc_pinned(self, shape: tuple[int, ...]) -> FloatArray:
        """Return a float32 array in host memory that the GPU copies from and to directly."""
        ...

    def to_device(self, target: int, source: FloatArray) -> None:
        """Queue a copy from pinned memory to the device."""
        ...

    def to_host(self, target: FloatArray, source: int) -> None:
        """Queue a copy from the device to pinned memory."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was queued is done."""
        ...

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what ``work`` queues, without doing it, as a graph."""
        ...

    def launch(self, graph: Any) -> None:
        """Queue a graph."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


def find_driver() -> str:
    """Return an empty text where an NVIDIA driver is installed, else what is missing."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"no NVIDIA driver ({DRIVER} not found)"
    return ""


class CudaPython:
    """``Cuda`` on the first GPU, through NVIDIA's ``cuda-python``.

    Raises:
        RuntimeUnavailableError: cuda-python is not installed.
        EngineError: There is no GPU, or a CUDA call fails; the message names the call.
    """

    def __init__(self) -> None:
        self._api = _import_api()
        self._device_memory: list[int] = []
        self._pinned: list[int] = []
        self._graphs: list[Any] = []
        if self._call("cudaGetDeviceCount") < 1:
            raise EngineError("CUDA finds no GPU: check nvidia-smi, or use device cpu")
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name
        self._device = Device(
            name.decode() if isinstance(name, bytes) else str(name),
            f"{properties.major}.{properties.minor}",
        )
        self._stream = self._call("cudaStreamCreateWithFlags", NON_BLOCKING)

    @property
    def device(self) -> Device:
        """The GPU."""
        return self._device

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream)

    def malloc(self, num_bytes: int) -> int:
        """Return the address of new device memory."""
        address = int(self._call("cudaMalloc", num_bytes))
        self._device_memory.append(address)
        return address

    def malloc_pinned(self, shape: tuple[int, ...]) -> FloatArray:
        """Return a float32 array in host memory that the GPU copies from and to directly."""
        num_bytes = 4 * int(np.prod(shape))
        address = int(self._call("cudaHostAlloc", num_bytes, 0))
        self._pinned.append(address)
        memory = (ctypes.c_float * (num_bytes // 4)).from_address(address)
        return np.ctypeslib.as_array(memory).reshape(shape)

    def to_device(self, target: int, source: FloatArray) -> None:
        """Queue a copy from pinned memory to the device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, self._stream)

    def to_host(self, target: FloatArray, source: int) -> None:
        """Queue a copy from the device to pinned memory."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until everything that was queued is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what ``work`` queues, without doing it, as a graph."""
        # Other threads of the process may go on using the GPU meanwhile.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        finally:
            recorded = self._call("cudaStreamEndCapture", self._stream)
        graph = self._call("cudaGraphInstantiateWithFlags", recorded, 0)
        self._call("cudaGraphDestroy", recorded)
        self._graphs.append(graph)
        return graph

    def launch(self, graph: Any) -> None:
        """Queue a graph."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        if self._stream is None:
            return
        self._call("cudaStreamSynchronize", self._stream)
        for name, handles in (
            ("cudaGraphExecDestroy", self._graphs),
            ("cudaFree", self._device_memory),
            ("cudaFreeHost", self._pinned),
        ):
            while handles:
                self._call(name, handles.pop())
        stream, self._stream = self._stream, None
        self._call("cudaStreamDestroy", stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *results = getattr(self._api, name)(*arguments)
        if int(error) != 0:
            text = self._api.cudaGetErrorString(error)[1]
            text = text.decode() if isinstance(text, bytes) else str(text)
            raise EngineError(
                f"CUDA call {name} failed: {getattr(error, 'name', int(error))}: {text}; check "
                "the driver and free GPU memory with nvidia-smi, or use device cpu"
            )
        return results[0] if results else None


def _import_api() -> Any:
    problem: ImportError | None = None
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problem = problem or error
    raise RuntimeUnavailableError(
        f"the cuda-python package cannot be imported ({problem}): install it with "
        "'pip install cuda-bindings'; on a Jetson take the version of its CUDA, such as "
        "'cuda-python<13' for CUDA 12"
    ) from problem
