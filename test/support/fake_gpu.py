"""STAND-INS for TensorRT and CUDA: no GPU, no NVIDIA library, nothing that is fast.

``fake_library("8.6.1")`` has the names that the bindings of that version have, as far as the code
under test uses them. Its "engine" is JSON that names an ONNX file; its "GPU" is ``FakeCuda``, whose
device memory is a dictionary, and an engine "runs" by running the ONNX file with ONNX Runtime on
the CPU. What these prove is the logic around the library, not the library.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from coopnet_core.errors import EngineError
from coopnet_core.inference.engines.cuda import Device
from coopnet_core.inference.engines.library import EngineLibrary

DEVICE = Device("Fake GPU", "8.7")


class FakeCuda:
    """A dictionary as device memory; everything that is queued happens at once.

    Args:
        fails: Name of a method that raises, as a CUDA call that fails does.
    """

    def __init__(self, fails: str = "") -> None:
        self.device = DEVICE
        self.stream = 7
        self.memory: dict[int, np.ndarray] = {}
        self.calls: list[str] = []
        self.is_capturing = False
        self._fails = fails

    def _count(self, name: str) -> None:
        if name == self._fails:
            raise EngineError(f"CUDA call {name} failed: fake")
        self.calls.append(name)

    def malloc(self, num_bytes: int) -> int:
        self._count("malloc")
        address = 1000 + len(self.memory)
        self.memory[address] = np.zeros(num_bytes // 4, np.float32)
        return address

    def malloc_pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        self._count("malloc_pinned")
        return np.zeros(shape, np.float32)

    def to_device(self, target: int, source: np.ndarray) -> None:
        self._count("to_device")
        if not self.is_capturing:
            self.memory[target][:] = source.ravel()

    def to_host(self, target: np.ndarray, source: int) -> None:
        self._count("to_host")
        if not self.is_capturing:
            target[...] = self.memory[source].reshape(target.shape)

    def synchronize(self) -> None:
        self._count("synchronize")

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._count("capture")
        self.is_capturing = True
        try:
            work()
        finally:
            self.is_capturing = False
        return work

    def launch(self, graph: Callable[[], None]) -> None:
        self._count("launch")
        graph()

    def close(self) -> None:
        self._count("close")
        self.memory.clear()


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class FakeLogger:
    INTERNAL_ERROR, ERROR, WARNING = Severity

    def __init__(self) -> None:
        self.errors: list[str] = []


class FakeEngine:
    """What a plan becomes: inputs and outputs of the ONNX file that it names."""

    def __init__(self, cuda: FakeCuda, plan: dict[str, Any]) -> None:
        self.cuda, self.plan = cuda, plan
        self.session = onnxruntime.InferenceSession(plan["onnx"])
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.items = {item.name: (item, "in") for item in inputs}
        self.items |= {item.name: (item, "out") for item in outputs}
        self.num_io_tensors = len(self.items)

    def get_tensor_name(self, index: int) -> str:
        return list(self.items)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.items[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.items[name][0].shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT

    def create_execution_context(self, config: Any = None) -> FakeContext:
        return FakeContext(self)

    def create_runtime_config(self) -> Any:
        cache = SimpleNamespace(deserialize=lambda data: True, serialize=lambda: b"compiled")
        return SimpleNamespace(
            create_runtime_cache=lambda: cache, set_runtime_cache=lambda cache: True
        )


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.items

    def execute_async_v3(self, stream: int) -> bool:
        engine, memory = self.engine, self.engine.cuda.memory
        if engine.cuda.is_capturing:
            return True
        feeds = {
            item.name: memory[self.addresses[item.name]].reshape(item.shape)
            for item in engine.session.get_inputs()
        }
        results = engine.session.run(None, feeds)
        for item, value in zip(engine.session.get_outputs(), results, strict=True):
            memory[self.addresses[item.name]][:] = value.ravel() * engine.plan["factor"]
        return True


class FakeConfig:
    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.limits: dict[str, int] = {}
        self.capabilities: list[str] = []

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self.capabilities.append(capability.name)
        return True

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data + b"timed;")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.timing_cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timing_cache


class FakeLayer:
    def __init__(self, kind: str, dtype: DataType) -> None:
        self.type = kind
        self.num_outputs = 1
        self.precision: DataType | None = None
        self.output_type: DataType | None = None
        self._output = SimpleNamespace(dtype=dtype)

    def get_output(self, index: int) -> Any:
        return self._output

    def set_output_type(self, index: int, dtype: DataType) -> None:
        self.output_type = dtype


def fake_library(
    version: str, cuda: FakeCuda | None = None, *, factor: float = 1.0, num_dla_cores: int = 0
) -> EngineLibrary:
    """Make a stand-in for a version of TensorRT, or of TensorRT-RTX for ``rtx 1.7``.

    Args:
        version: ``8.6...``, ``10...``, ``11...`` or ``rtx ...``.
        cuda: The GPU that its engines run on.
        factor: What its engines multiply their results by: not 1 is a wrong engine.
        num_dla_cores: How many DLA cores the GPU has.

    Returns:
        The library; ``module.last`` holds the last network, its flags, and the last configuration.
    """
    is_rtx = version.startswith("rtx")
    number = version.removeprefix("rtx ")
    is_weak = number.startswith("8.") and not is_rtx
    last = SimpleNamespace(num_builds=0)

    def parse(network: Any, path: str) -> bool:
        def tensors(items: Any) -> list[Any]:
            return [
                SimpleNamespace(
                    name=item.name,
                    shape=[d.dim_value for d in item.type.tensor_type.shape.dim],
                    dtype=DataType.FLOAT,
                )
                for item in items
            ]

        try:
            graph = onnx.load(path).graph
        except Exception:  # noqa: BLE001 - whatever protobuf raises
            return False
        network.path = path
        network.inputs, network.outputs = tensors(graph.input), tensors(graph.output)
        network.num_inputs, network.num_outputs = len(network.inputs), len(network.outputs)
        network.get_input = network.inputs.__getitem__
        network.get_output = network.outputs.__getitem__
        network.layers = [
            FakeLayer("CONSTANT", DataType.HALF),
            FakeLayer("CONVOLUTION", DataType.FLOAT),
            FakeLayer("CONVOLUTION", DataType.HALF),
        ]
        network.num_layers, network.get_layer = 3, network.layers.__getitem__
        return True

    def create_network(flags: int) -> Any:
        last.network, last.flags = SimpleNamespace(), flags
        return last.network

    def create_config() -> FakeConfig:
        last.config = FakeConfig()
        return last.config

    def build(network: Any, config: FakeConfig) -> Any:
        last.num_builds += 1
        if hasattr(config, "progress_monitor"):
            config.progress_monitor.phase_start("Timing tactics", None, 3)
            config.progress_monitor.step_complete("Timing tactics", 1)
        plan = json.dumps({"onnx": network.path, "factor": factor}).encode()
        return memoryview(plan)

    def deserialize(plan: bytes) -> FakeEngine | None:
        try:
            content = json.loads(plan)
        except ValueError:
            return None
        return FakeEngine(cuda, content) if cuda is not None else None

    flags = ("EXPLICIT_BATCH",) if is_weak else ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    if number.startswith("11.") or is_rtx:
        flags = ("STRONGLY_TYPED",)
    builder_flags = {"GPU_FALLBACK": "GPU_FALLBACK"}
    if is_weak or number.startswith("10."):
        names = ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS")
        builder_flags |= {name: name for name in names}
    capabilities = {
        name: SimpleNamespace(name=name) for name in ("NONE", "CURRENT", "SM86", "SM120", "SM89")
    }
    builder = SimpleNamespace(
        create_network=create_network,
        create_builder_config=create_config,
        build_serialized_network=build,
        num_DLA_cores=num_dla_cores,
    )
    module = SimpleNamespace(
        __version__=number,
        __name__="fake tensorrt",
        last=last,
        ILogger=FakeLogger,
        Builder=lambda logger: builder,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
        OnnxParser=lambda network, logger: SimpleNamespace(
            parse_from_file=lambda path: parse(network, path),
            num_errors=1,
            get_error=lambda index: "In node 3: GridSample is not supported",
        ),
        NetworkDefinitionCreationFlag=enum.IntEnum(
            "NetworkDefinitionCreationFlag", {name: i for i, name in enumerate(flags)}
        ),
        BuilderFlag=SimpleNamespace(**builder_flags),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        DeviceType=SimpleNamespace(DLA="DLA"),
        LayerType=SimpleNamespace(CONSTANT="CONSTANT"),
        DataType=DataType,
        TensorIOMode=SimpleNamespace(OUTPUT="out"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
        ComputeCapability=SimpleNamespace(__members__=capabilities),
    )
    if not is_weak:
        module.IProgressMonitor = object
    return EngineLibrary("tensorrt_rtx" if is_rtx else "tensorrt", module, FakeLogger())
