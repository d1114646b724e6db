"""The option ``--device`` of the commands that run networks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coopnet_core.errors import ConfigError, RuntimeUnavailableError
from coopnet_core.inference import runtime

if TYPE_CHECKING:
    from coopnet_core.inference.bundle import Bundle, Precision
    from coopnet_core.inference.runtime import Runtime

DEVICES = (*runtime.DEVICES, "torch")
HELP = (
    "where the networks run: auto takes the first of tensorrt, tensorrt_rtx, cuda, openvino and "
    "cpu (ONNX Runtime) that works; torch runs the weights in PyTorch"
)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` to a parser; ``cpu`` by default, so that results are the same anywhere."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help=f"{HELP} (default cpu)")


def load_runtime(
    bundle: Bundle, device: str, num_threads: int = 0, precision: Precision = "float32"
) -> Runtime:
    """Load the networks of a bundle on a device.

    Args:
        bundle: The checked bundle.
        device: One of ``DEVICES``.
        num_threads: CPU threads per network; 0 takes every core.
        precision: Of the arithmetic.

    Raises:
        ConfigError: torch is asked for another precision than float32.
        CoopNetError: See ``runtime_choice.choose_runtime``.
    """
    if device != "torch":
        from coopnet_core.inference.runtime_choice import choose_runtime

        return choose_runtime(bundle, device, num_threads, precision).runtime
    if precision != "float32":
        raise ConfigError(f"device torch runs the weights in float32, got {precision}")
    try:
        from coopnet_core.export.torch_runtime import load_torch_runtime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"device torch needs the package {error.name}, which cannot be imported: "
            "pip install torch, or choose another device"
        ) from error
    return load_torch_runtime(bundle, num_threads)
