"""TensorRT and TensorRT-RTX behind one face: which is installed, and how its versions differ.

Verified by reading the bindings of tensorrt 8.6.1, 10.3.0 and 11.4.0 and running those of
tensorrt_rtx 1.7.1: the engine interface by tensor names (``num_io_tensors``, ``get_tensor_name``,
``set_tensor_address``, ``execute_async_v3``) is the same in all four. What differs is asked of the
library itself rather than of its version number.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any, Literal, get_args

from coopnet_core.errors import EngineError, RuntimeUnavailableError
from coopnet_core.inference.bundle import NetworkName
from coopnet_core.inference.signature import Shapes, inputs, outputs

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
LIBRARY_NAMES: tuple[LibraryName, ...] = get_args(LibraryName)
INSTALL: dict[LibraryName, str] = {
    "tensorrt": "'pip install tensorrt cuda-bindings' on a desktop; on a Jetson JetPack brings "
    "tensorrt with it ('sudo apt install nvidia-jetpack'), which an environment sees when it was "
    "made with --system-site-packages",
    "tensorrt_rtx": "'pip install tensorrt-rtx cuda-bindings' (x86-64; a Jetson has tensorrt)",
}

Tensors = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type by name, in the order of the ONNX file; types as NumPy calls them."""

_log = logging.getLogger(__name__)
_loggers: dict[int, Any] = {}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of an engine or of the network that it is built from."""

    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True)
class EngineLibrary:
    """An imported library.

    Attributes:
        name: Its name.
        module: The Python module.
        logger: What it writes its messages to; ``logger.errors`` holds those that were errors.
    """

    name: LibraryName
    module: Any
    logger: Any

    @property
    def version(self) -> str:
        """Version of the library."""
        return str(self.module.__version__)

    @property
    def label(self) -> str:
        """Name and version for messages."""
        return f"{self.name} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether it builds for compute capabilities instead of for the GPU that is here."""
        return self.name == "tensorrt_rtx"

    @property
    def is_strongly_typed(self) -> bool:
        """Whether a network keeps the types of its ONNX file (from 10 on; not 8.6)."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def compute_capabilities(self) -> dict[str, Any]:
        """Return the compute capabilities that TensorRT-RTX builds for, as ``8.6`` by name."""
        members = self.module.ComputeCapability.__members__
        numbers = {name[2:]: member for name, member in members.items() if name[:2] == "SM"}
        return {
            f"{digits[:-1]}.{digits[-1]}": numbers[digits] for digits in sorted(numbers, key=int)
        }


def load_library(name: LibraryName) -> EngineLibrary:
    """Import a library.

    Raises:
        RuntimeUnavailableError: It is not installed; the message says how to install it.
    """
    try:
        module = importlib.import_module(name)
    # The packages load shared libraries while they are imported.
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeUnavailableError(
            f"the {name} package cannot be imported ({error}): install it with {INSTALL[name]}"
        ) from error
    # The library keeps the first logger for good, so it must never be collected.
    logger = _loggers.setdefault(id(module), _make_logger(module))
    return EngineLibrary(name, module, logger)


def bundle_signature(network: NetworkName, height: int, width: int) -> Signature:
    """Return what an engine of a network has to take and return; everything is float32."""

    def tensors(shapes: Shapes) -> Tensors:
        return {name: (shape, "float32") for name, shape in shapes.items()}

    return Signature(
        tensors(inputs(network, height, width)), tensors(outputs(network, height, width))
    )


def network_signature(network: Any) -> Signature:
    """Read inputs and outputs of a network definition."""
    return Signature(
        _tensors(network.get_input(i) for i in range(network.num_inputs)),
        _tensors(network.get_output(i) for i in range(network.num_outputs)),
    )


def engine_signature(library: EngineLibrary, engine: Any) -> Signature:
    """Read inputs and outputs of a deserialised engine."""
    found: tuple[Tensors, Tensors] = ({}, {})
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        is_output = engine.get_tensor_mode(name) == library.module.TensorIOMode.OUTPUT
        shape = tuple(int(n) for n in engine.get_tensor_shape(name))
        found[is_output][name] = (shape, _type_name(engine.get_tensor_dtype(name)))
    return Signature(*found)


def check_signature(found: Signature, expected: Signature, what: str) -> None:
    """Compare with the bundle's.

    Args:
        found: Of the engine or network definition.
        expected: Of the bundle.
        what: Name of the thing, for the message.

    Raises:
        EngineError: They differ.
    """
    if found != expected:
        raise EngineError(
            f"{what} has inputs {found.inputs} and outputs {found.outputs}, expected "
            f"{expected.inputs} and {expected.outputs}: it belongs to another bundle or version; "
            "build it again with 'coopnet engine'"
        )


def _tensors(items: Any) -> Tensors:
    return {t.name: (tuple(int(n) for n in t.shape), _type_name(t.dtype)) for t in items}


def _type_name(dtype: Any) -> str:
    """Name a library's type as NumPy does."""
    names = {"FLOAT": "float32", "HALF": "float16"}
    return names.get(dtype.name, str(dtype.name).lower())


def _make_logger(module: Any) -> Any:
    base: Any = module.ILogger

    class Logger(base):  # type: ignore[misc]  # a class of the library, which has no types
        """Passes the library's messages on, and keeps its errors for ours."""

        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.INTERNAL_ERROR, base.ERROR):
                self.errors.append(message)
            level = logging.WARNING if severity == base.WARNING else logging.DEBUG
            _log.log(level, "%s: %s", module.__name__, message)

    return Logger()
