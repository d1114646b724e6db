"""Names, shapes and units of what a bundle's networks take and return."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coopnet_core.errors import BundleError, InputError
from coopnet_core.inference.bundle import NetworkName
from coopnet_core.inference.runtime import Features, FloatArray, Runtime

FEATURE_STRIDES = (4, 8, 16, 32)
FEATURE_CHANNELS = 32
"""Matching features of the flow network: one map per stride, finest first, unit variance."""

UNITS: dict[NetworkName, str] = {
    "depth": "fraction of the depth",
    "pose": "matrix entries",
    "flow_features": "standard deviations",
    "flow": "pixels",
}
"""In which errors of a network are told."""

Shapes = dict[str, tuple[int, ...]]


def inputs(network: NetworkName, height: int, width: int) -> Shapes:
    """Return the shapes of a network's inputs by name, in the order of the ONNX file.

    Args:
        network: Which network.
        height: Height of the bundle's images.
        width: Their width.
    """
    image = (1, 3, height, width)
    if network == "pose":
        return {"image_tgt": image, "image_src": image}
    if network == "flow":
        return {
            **_features("features_tgt", height, width),
            **_features("features_src", height, width),
        }
    return {"image": image}


def outputs(network: NetworkName, height: int, width: int) -> Shapes:
    """Return the shapes of a network's outputs by name; see :func:`inputs`."""
    if network == "depth":
        return {"canonical_depth": (1, 1, height, width)}
    if network == "pose":
        return {"T_src_tgt": (1, 4, 4)}
    if network == "flow":
        return dict.fromkeys(("flow_tgt_src", "flow_src_tgt"), (1, 2, height, width))
    return _features("features", height, width)


def check_graph(
    file_name: str, network: NetworkName, taken: Shapes, returned: Shapes, height: int, width: int
) -> None:
    """Refuse a graph of another network, size or version.

    Args:
        file_name: Of the graph.
        network: What it should be.
        taken: Its inputs.
        returned: Its outputs.
        height: Height of the bundle's images.
        width: Their width.

    Raises:
        BundleError: Names, order or shapes are others.
    """
    for kind, found, expected in (
        ("inputs", taken, inputs(network, height, width)),
        ("outputs", returned, outputs(network, height, width)),
    ):
        if list(found.items()) != list(expected.items()):
            raise BundleError(
                f"{file_name} has {kind} {found}, expected {expected}: it belongs to another "
                "network or version; export the bundle again"
            )


def check_inputs(
    network: NetworkName, arrays: Sequence[FloatArray], height: int, width: int
) -> None:
    """Refuse what a network does not take.

    Args:
        network: Which network.
        arrays: What it is given.
        height: Height of the bundle's images.
        width: Their width.

    Raises:
        InputError: An array has another shape or type, or one is missing or too many.
    """
    expected = list(inputs(network, height, width).values())
    if [array.shape for array in arrays] == expected and all(
        array.dtype == np.float32 for array in arrays
    ):
        return
    found = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
    source = "the flow_features network" if network == "flow" else "preprocess.prepare_image"
    raise InputError(
        f"the {network} network takes float32 arrays of shape "
        f"{', '.join(map(str, dict.fromkeys(expected)))}, got {found}: take them from {source}"
    )


def inputs_of_pair(
    network: NetworkName,
    image_tgt: FloatArray,
    image_src: FloatArray,
    flow_features: Callable[[FloatArray], Features],
) -> tuple[FloatArray, ...]:
    """Return what a network takes, from a pair of images.

    Args:
        network: Which network.
        image_tgt: Current image, (1, 3, H, W).
        image_src: Previous image.
        flow_features: Makes the input of the flow network.
    """
    if network == "flow":
        return (*flow_features(image_tgt), *flow_features(image_src))
    return (image_tgt, image_src) if network == "pose" else (image_tgt,)


def run_on_pair(
    runtime: Runtime, network: NetworkName, image_tgt: FloatArray, image_src: FloatArray
) -> tuple[FloatArray, ...]:
    """Run one network of a runtime, and for flow the features before it, on a pair of images.

    Returns:
        The network's outputs, in the order of :func:`outputs`.
    """
    arrays = inputs_of_pair(network, image_tgt, image_src, runtime.flow_features)
    return tuple(runtime.run(network, *arrays))


def _features(name: str, height: int, width: int) -> Shapes:
    return {
        f"{name}_{stride}": (1, FEATURE_CHANNELS, height // stride, width // stride)
        for stride in FEATURE_STRIDES
    }
