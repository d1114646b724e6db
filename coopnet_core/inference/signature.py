"""Names and shapes of what a bundle's networks take and return."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coopnet_core.errors import InputError
from coopnet_core.inference.bundle import NetworkName
from coopnet_core.inference.runtime import FloatArray

INPUTS: dict[NetworkName, tuple[str, ...]] = {
    "depth": ("image",),
    "pose": ("image_tgt", "image_src"),
    "flow": ("image_tgt", "image_src"),
}


def outputs(network: NetworkName, height: int, width: int) -> dict[str, list[int]]:
    """Return the shapes of a network's outputs by name, in the order of the ONNX file."""
    if network == "depth":
        return {"canonical_depth": [1, 1, height, width]}
    if network == "pose":
        return {"T_src_tgt": [1, 4, 4]}
    return {"flow_tgt_src": [1, 2, height, width], "flow_src_tgt": [1, 2, height, width]}


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
