"""Which ONNX file of a bundle holds a network at a precision."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from coopnet_core.errors import BundleError
from coopnet_core.inference.bundle import Bundle, NetworkName

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def onnx_file(bundle: Bundle, network: NetworkName, precision: Precision) -> Path:
    """Return the ONNX file of a network at a precision.

    Precision is a property of the file: TensorRT 10 and later take it from there.

    Args:
        bundle: The checked bundle.
        network: Which network.
        precision: Of the arithmetic.

    Raises:
        BundleError: The bundle has no such file.
    """
    if precision == "float32":
        return bundle.onnx_path(network)
    raise BundleError(
        f"bundle {bundle.info.name} has no {precision} file for the {network} network, only "
        "float32: export it with that precision, or choose float32"
    )
