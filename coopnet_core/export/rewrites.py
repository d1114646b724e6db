"""Changes of an ONNX graph around its quantisation, because one scale per tensor is often too few.

All of them change the graph in place. Those before the quantisation leave its results as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from coopnet_core.inference.runtime import FloatArray

COORDINATE_CHANNELS = (1, 2)
"""What has so few channels is flow or pixel coordinates, not features."""

OUTLIER_RATIO = 4.0
"""Channels are equalised where the largest is so many times the median one. In the bundle ``small``
that is the end of the depth decoder; elsewhere the ratio is below, and nothing would be gained."""

MAX_GAIN = 16.0
"""No channel is made finer than this: what hardly spoke during calibration may do so later."""

ChannelMaxima = Callable[[Sequence[str]], Mapping[str, FloatArray]]
"""Largest magnitude of each channel, (C,), of the tensors with these names."""


def split_coordinates(model: Any, channels: Mapping[str, int], onnx: Any) -> None:
    """Give coordinates beside features a convolution of their own; the two sums are added.

    Args:
        model: ``onnx.ModelProto`` with float32 weights.
        channels: Length of the second axis by tensor name.
        onnx: The package.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    weights = {item.name: item for item in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        source = makers.get(node.input[0]) if node.op_type == "Conv" else None
        names = list(source.input) if source is not None and source.op_type == "Concat" else []
        is_coordinate = [channels.get(name) in COORDINATE_CHANNELS for name in names]
        if any(is_coordinate) and not all(is_coordinate) and _group(node) == 1:
            weight = onnx.numpy_helper.to_array(weights[node.input[1]])
            ends = np.cumsum([channels[name] for name in names])[:-1]
            slices = np.split(weight, ends, axis=1)
            sums = []
            for part, wanted in (("features", False), ("coordinates", True)):
                chosen = [place for place, found in enumerate(is_coordinate) if found is wanted]
                new = onnx.NodeProto()
                new.CopyFrom(node)
                new.name = f"{node.name}_{part}"
                read = f"{new.name}_input"
                nodes.append(
                    onnx.helper.make_node(
                        "Concat", [names[place] for place in chosen], [read], read, axis=1
                    )
                )
                values = np.concatenate([slices[place] for place in chosen], axis=1)
                _add_constant(model, f"{new.name}_weight", values, onnx)
                del new.input[:]
                # One bias is enough.
                new.input.extend([read, f"{new.name}_weight", *(() if wanted else node.input[2:])])
                new.output[0] = f"{node.output[0]}_{part}"
                sums.append(new.output[0])
                nodes.append(new)
            nodes.append(onnx.helper.make_node("Add", sums, node.output, f"{node.name}_sum"))
        else:
            nodes.append(node)
    _finish(model, nodes, onnx)


def equalise_channels(
    model: Any, convolutions: Collection[str], maxima_of: ChannelMaxima, onnx: Any
) -> None:
    """Divide the channels that a convolution reads by their size, and multiply its weights by it.

    A few loud channels would otherwise set the step of all others; weights stand it, since they
    have one scale per output channel. The idea is that of SmoothQuant (Xiao et al., ICML 2023,
    eq. 3 and 4 with alpha = 1).

    Args:
        model: ``onnx.ModelProto`` with float32 weights.
        convolutions: Names of those that will be quantised. Only those whose input has outliers
            (``OUTLIER_RATIO``) are changed; what a Clip has made has none.
        maxima_of: Measures channels on real inputs.
        onnx: The package.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    weights = {item.name: item for item in model.graph.initializer}
    chosen = [
        node
        for node in model.graph.node
        if node.name in convolutions
        and _group(node) == 1
        and node.input[0] in makers
        and makers[node.input[0]].op_type != "Clip"
    ]
    if not chosen:
        return
    maxima = maxima_of([node.input[0] for node in chosen])
    places = {node.name for node in chosen}
    nodes = []
    for node in model.graph.node:
        if node.name in places:
            largest = maxima[node.input[0]].astype(np.float64)
            if largest.max() > OUTLIER_RATIO * np.median(largest):
                scale = np.maximum(largest / largest.max(), 1 / MAX_GAIN)[:, None, None]
                values = onnx.numpy_helper.to_array(weights[node.input[1]]) * scale
                scaled = f"{node.name}_equalised"
                _add_constant(model, f"{scaled}_weight", values, onnx)
                _add_constant(model, f"{scaled}_gain", 1 / scale[None], onnx)
                nodes.append(
                    onnx.helper.make_node(
                        "Mul", [node.input[0], f"{scaled}_gain"], [scaled], scaled
                    )
                )
                node.input[:2] = [scaled, f"{scaled}_weight"]
        nodes.append(node)
    _finish(model, nodes, onnx)


def remove_pairs_before(model: Any, op_types: Collection[str], onnx: Any) -> None:
    """Let some operations read what QuantizeLinear and DequantizeLinear would round.

    Args:
        model: Quantised ``onnx.ModelProto``.
        op_types: Of the operations.
        onnx: The package.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        last = makers.get(node.input[0]) if node.op_type in op_types else None
        if last is not None and last.op_type == "DequantizeLinear":
            node.input[0] = makers[last.input[0]].input[0]
    nodes: list[Any] = []
    read = {item.name for item in model.graph.output}
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            read.update(node.input)
            nodes.insert(0, node)
    _finish(model, nodes, onnx)


def _group(node: Any) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "group"), 1)


def _add_constant(model: Any, name: str, values: FloatArray, onnx: Any) -> None:
    tensor = onnx.numpy_helper.from_array(np.asarray(values, np.float32), name)
    model.graph.initializer.append(tensor)


def _finish(model: Any, nodes: list[Any], onnx: Any) -> None:
    """Set the nodes, drop weights that are no longer read, and find the shapes of what is new."""
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
    read = {name for node in copies for name in node.input}
    kept = [item for item in model.graph.initializer if item.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
