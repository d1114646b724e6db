"""Names, shapes and units of what a bundle's networks take and return."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coopnet_core.errors import InputError
from coopnet_core.inference.bundle import NetworkName
from coopnet_core.inference.runtime import FloatArray, Runtime

INPUTS: dict[NetworkName, tuple[str, ...]] = {
    "depth": ("image",),
    "pose": ("image_tgt", "image_src"),
    "flow": ("image_tgt", "image_src"),
}

OUTPUTS: dict[NetworkName, tuple[str, ...]] = {
    "depth": ("canonical_depth",),
    "pose": ("T_src_tgt",),
    "flow": ("flow_tgt_src", "flow_src_tgt"),
}
UNITS: dict[NetworkName, str] = {
    "depth": "fraction of the depth",
    "pose": "matrix entries",
    "flow": "pixels",
}
"""In which errors of a network are told."""


def outputs(network: NetworkName, height: int, width: int) -> dict[str, list[int]]:
    """Return the shapes of a network's outputs by name, in the order of the ONNX file."""
    channels = {"depth": [1, height, width], "pose": [4, 4], "flow": [2, height, width]}
    return {name: [1, *channels[network]] for name in OUTPUTS[network]}


def check_images(
    network: NetworkName, images: Sequence[FloatArray], shape: tuple[int, ...]
) -> None:
    """Refuse images that a network does not take.

    Args:
        network: The network, for the message.
        images: What it is given.
        shape: (1, 3, H, W) of the bundle.

    Raises:
        InputError: An image has another shape or type.
    """
    for image in images:
        if image.shape != shape or image.dtype != np.float32:
            raise InputError(
                f"the {network} network takes float32 images of shape {shape}, "
                f"got {image.dtype} {image.shape}: resize with preprocess.prepare_image"
            )


def run_network(
    runtime: Runtime, network: NetworkName, *images: FloatArray
) -> tuple[FloatArray, ...]:
    """Run one network of a runtime by its name.

    Args:
        runtime: Runs the networks.
        network: Which one.
        *images: Current and previous image, (1, 3, H, W) each; those that it does not take may be
            given, too.

    Returns:
        Its outputs, in the order of :func:`outputs`.
    """
    if network == "depth":
        return (runtime.depth(images[0]),)
    if network == "pose":
        return (runtime.pose(*images),)
    return runtime.flow(*images)
