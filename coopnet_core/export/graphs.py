"""The networks as ONNX graphs with the inputs and outputs of a bundle."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coopnet_core.errors import ExportError, RuntimeUnavailableError
from coopnet_core.geometry.sample import resize
from coopnet_core.geometry.se3 import matrix_from_vector
from coopnet_core.inference.bundle import NetworkName
from coopnet_core.inference.signature import FEATURE_STRIDES, inputs, outputs
from coopnet_core.networks import FlowNetwork, Networks

OPSET = 18
"""Has GridSample, and is what the exporter writes natively."""


class DepthGraph(nn.Module):
    """Image to canonical depth, (1, 3, H, W) -> (1, 1, H, W).

    Args:
        network: The depth network.
        network_size: Width and height at which it works; the image is shrunk to it and inverse
            depth enlarged again. None: the image's own size. Canonical depth does not change with
            the size, because focal length and width change together.
    """

    def __init__(self, network: nn.Module, network_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.network_size = network_size

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the finest level as depth."""
        if self.network_size is None:
            return (1 / self.network(image)[0],)
        width, height = self.network_size
        inverse_depth = self.network(resize(image, height, width))[0]
        return (1 / resize(inverse_depth, image.shape[2], image.shape[3]),)


class PoseGraph(nn.Module):
    """Two images to ``T_src_tgt``, (1, 4, 4)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> tuple[Tensor]:
        """Return the motion as a matrix."""
        return (matrix_from_vector(self.network(image_tgt, image_src)),)


class FlowFeaturesGraph(nn.Module):
    """Image to what :class:`FlowGraph` takes.

    Each image is the current one once and the previous one once: apart from the rest, its features
    need not be computed twice.
    """

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the features, finest first."""
        return tuple(self.network.features(image))


class FlowGraph(nn.Module):
    """Features of two images to flow in both directions, (1, 2, H, W) each."""

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the finest level of both directions, for target and source features."""
        count = len(FEATURE_STRIDES)
        flow_tgt_src, flow_src_tgt = self.network.decode_both(
            list(features[:count]), list(features[count:])
        )
        return flow_tgt_src[0], flow_src_tgt[0]


def build_graphs(
    networks: Networks, depth_size: tuple[int, int] | None = None
) -> dict[NetworkName, nn.Module]:
    """Wrap the networks so that they take and return what a bundle's ONNX files do.

    Args:
        networks: Depth, pose and flow network; they are put into evaluation mode.
        depth_size: See :class:`DepthGraph`.

    Returns:
        One module per ONNX file.
    """
    return {
        "depth": DepthGraph(networks.depth, depth_size).eval(),
        "pose": PoseGraph(networks.pose).eval(),
        "flow_features": FlowFeaturesGraph(networks.flow).eval(),
        "flow": FlowGraph(networks.flow).eval(),
    }


def write_onnx(graph: nn.Module, name: NetworkName, path: Path, width: int, height: int) -> None:
    """Write a graph as ONNX: weights stored as float16, arithmetic in float32, static shapes.

    Args:
        graph: As :func:`build_graphs` makes it, on the CPU.
        name: Which network it is.
        path: File to write.
        width: Width of the input images, a multiple of 32.
        height: Height of the input images, a multiple of 32.

    Raises:
        RuntimeUnavailableError: ``onnx`` or ``onnxscript`` is not installed.
        ExportError: The exporter fails; the message names the network.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"export needs the onnx and onnxscript packages ({error}): install them with "
            "'pip install onnx onnxscript'"
        ) from error
    shapes = inputs(name, height, width)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                tuple(torch.zeros(shape) for shape in shapes.values()),
                input_names=list(shapes),
                output_names=list(outputs(name, height, width)),
                opset_version=OPSET,
                dynamo=True,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(f"torch cannot export the {name} network to ONNX: {error}") from error
    if program is None:
        raise ExportError(f"torch returned no ONNX program for the {name} network")
    model = program.model_proto
    _write_out_softmax(model, onnx)
    _write_out_matmul(model, onnx)
    _store_weights_as_float16(model, onnx)
    _remove_traces(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def num_parameters(path: Path) -> int:
    """Count the numbers in the weights of an ONNX file."""
    import onnx

    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    weights = onnx.load(str(path)).graph.initializer
    return sum(math.prod(item.dims) for item in weights if item.data_type in kinds)


def _write_out_softmax(model: Any, onnx: Any) -> None:
    """Replace Softmax over an inner axis by its definition.

    ONNX Runtime's CPU kernel turns the axis to the end and back: of the flow network's 60 ms, 14
    went into the one Softmax of its upsampling.
    """
    graph = model.graph
    nodes = []
    for node in graph.node:
        if node.op_type != "Softmax":
            nodes.append(node)
            continue
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        source, result = node.input[0], node.output[0]
        axes = f"{result}_axes"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis], np.int64), axes))
        largest, shifted, power, total = (
            f"{result}_{part}" for part in ("largest", "shifted", "power", "total")
        )
        nodes += [
            onnx.helper.make_node("ReduceMax", [source, axes], [largest], keepdims=1),
            onnx.helper.make_node("Sub", [source, largest], [shifted]),
            onnx.helper.make_node("Exp", [shifted], [power]),
            onnx.helper.make_node("ReduceSum", [power, axes], [total], keepdims=1),
            onnx.helper.make_node("Div", [power, total], [result]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _write_out_matmul(model: Any, onnx: Any) -> None:
    """Replace MatMul of batches of matrices, (B, N, K) by (B, K, M), by its definition.

    TensorRT-RTX has no float32 matrix product for Turing GPUs, and the one in the pose network is
    of two 3x3 matrices.
    """
    graph = model.graph
    nodes = []
    for node in graph.node:
        if node.op_type != "MatMul":
            nodes.append(node)
            continue
        left, right = node.input
        result = node.output[0]
        last, second, middle = (f"{result}_{part}" for part in ("last", "second", "middle"))
        for name, axis in ((last, 3), (second, 1), (middle, 2)):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis], np.int64), name))
        column, row, products = (f"{result}_{part}" for part in ("column", "row", "products"))
        nodes += [
            onnx.helper.make_node("Unsqueeze", [left, last], [column]),
            onnx.helper.make_node("Unsqueeze", [right, second], [row]),
            onnx.helper.make_node("Mul", [column, row], [products]),
            onnx.helper.make_node("ReduceSum", [products, middle], [result], keepdims=0),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _store_weights_as_float16(model: Any, onnx: Any) -> None:
    """Replace float32 weights of two or more axes by float16 ones and a Cast back to float32.

    ONNX Runtime and TensorRT fold the Cast when they load the graph, so it halves the file and
    costs nothing afterwards. Biases and scales are few, and keep their range, in float32.
    """
    graph = model.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or len(initializer.dims) < 2:
            continue
        values = onnx.numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.all(np.isfinite(half)):
            raise ExportError(
                f"weight {initializer.name} has values up to {np.abs(values).max():.3g}, beyond "
                "float16: training has diverged"
            )
        stored = f"{initializer.name}_float16"
        to_float32 = onnx.helper.make_node(
            "Cast", [stored], [initializer.name], f"{stored}_cast", to=onnx.TensorProto.FLOAT
        )
        casts.append(to_float32)
        initializer.CopyFrom(onnx.numpy_helper.from_array(half, stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _remove_traces(model: Any) -> None:
    """Drop the exporter's notes: they hold stack traces with paths of the exporting machine."""
    model.producer_name = "coopnet"
    model.producer_version = ""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and its remarks about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
