"""The float32 ONNX graph of a network in other precisions: float16, and int8 after calibration.

Both functions are pure: a model in, another out. Neither needs torch, so that the owner of a bundle
can add a precision without the checkpoint. Precision is part of the graph (Casts; pairs of
QuantizeLinear and DequantizeLinear), because TensorRT builds strongly typed networks: version 11
knows no other.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopnet_core.errors import ExportError, RuntimeUnavailableError
from coopnet_core.export.rewrites import (
    COORDINATE_CHANNELS,
    equalise_channels,
    remove_pairs_before,
    split_coordinates,
)
from coopnet_core.inference.runtime import FloatArray

MIN_CALIBRATION_INPUTS = 10
CALIBRATION_PERCENTILE = 99.999
HEAD_CHANNELS = 8
"""A convolution with fewer outputs is a head: it makes pixels, motion or a logit, not features."""

IMAGE_CHANNELS = 3
EQUALISATION_INPUTS = 10
SATURATING = ("Elu",)
"""What they read is not rounded: its long negative tail, which they cut off, would set the step."""

Feed = Mapping[str, FloatArray]


def to_float16(model: Any) -> Any:
    """Return the model in float16 arithmetic; its inputs and outputs stay float32.

    These stay float32: what comes behind the last convolution (softmax and weighted sum of flow,
    1/x of inverse depth, the pose's matrix), layer normalisation (a sum of squares), and grid
    sampling with all that computes its coordinates: float16 cannot tell pixel 300 from 300.1.

    Args:
        model: ``onnx.ModelProto`` of a bundle's float32 file. It is not changed.

    Returns:
        Another ``onnx.ModelProto``.

    Raises:
        RuntimeUnavailableError: ``onnx`` is not installed.
    """
    onnx = import_onnx()
    converter = _import("onnxruntime.transformers.float16")
    plain = _with_float32_weights(model, onnx)
    kept = [*_behind_last_conv(plain), *_coordinates(plain)]
    result = converter.convert_float_to_float16(
        plain,
        keep_io_types=True,
        op_block_list=[*converter.DEFAULT_OP_BLOCK_LIST, "GridSample", "LayerNormalization"],
        node_block_list=[node.name for node in kept],
    )
    return _finished(result, onnx)


def to_int8(model: Any, inputs: Sequence[Feed]) -> Any:
    """Return the model with its convolutions in int8, as explicit Q/DQ pairs.

    Weights have one scale per output channel, activations one per tensor; both are symmetric, so
    that every zero point is 0 and TensorRT takes the file. One scale per tensor is often too few:

    * Where a few channels are much larger than the others, all are divided by their size first.
    * Flow beside features gets a convolution of its own, in float32.
    * A convolution whose result is clipped is measured by what the clipping lets through, and what
      ELU reads is not rounded.

    Not quantised, since measured to cost most: the first convolutions, which read the image; heads
    and the last convolutions, whose result is no feature any more.
    Ranges leave out the largest 0.001 % of the values seen: a few outliers in the fine layers of a
    decoder would otherwise cost every other pixel its steps.

    Args:
        model: ``onnx.ModelProto`` of a bundle's float32 file. It is not changed.
        inputs: Real inputs by name, float32 as the network takes them, ``MIN_CALIBRATION_INPUTS``
            or more; they set the ranges of the activations.

    Returns:
        Another ``onnx.ModelProto``.

    Raises:
        ExportError: Too few inputs, or the quantiser fails.
        RuntimeUnavailableError: ``onnx`` is not installed.
    """
    if len(inputs) < MIN_CALIBRATION_INPUTS:
        raise ExportError(
            f"int8 needs {MIN_CALIBRATION_INPUTS} or more frame pairs to measure the ranges of "
            f"activations, got {len(inputs)}: give a folder with more consecutive images of your "
            "camera as --calibration-frames, 50 or more from different scenes"
        )
    onnx = import_onnx()
    quantization = _import("onnxruntime.quantization")
    plain = _with_float32_weights(model, onnx)
    split_coordinates(plain, _channels(plain), onnx)
    excluded = unquantised(plain)
    if len(excluded) == sum(node.op_type == "Conv" for node in plain.graph.node):
        return _finished(plain, onnx)  # nothing to measure, which the quantiser takes for a mistake
    quantised = {node.name for node in plain.graph.node if node.op_type == "Conv"} - {*excluded}
    few = inputs[:: max(1, len(inputs) // EQUALISATION_INPUTS)]
    equalise_channels(
        plain, quantised, lambda names: _channel_maxima(plain, names, few, onnx), onnx
    )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, path = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            quantization.shape_inference.quant_pre_process(
                plain, prepared, skip_optimization=True, skip_symbolic_shape=True
            )
            quantization.quantize_static(
                prepared,
                path,
                _reader(inputs, quantization),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Clip"],
                nodes_to_exclude=excluded,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={
                    "ActivationSymmetric": True,
                    "CalibTensorRangeSymmetric": True,
                    "CalibPercentile": CALIBRATION_PERCENTILE,
                    # One input at a time: the activations of a hundred fill gigabytes.
                    "CalibStridedMinMax": 1,
                    "WeightSymmetric": True,
                    # TensorRT takes no int32 biases; ONNX Runtime makes them by itself.
                    "QuantizeBias": False,
                    "TensorQuantOverrides": _clipped_ranges(plain, excluded, onnx, quantization),
                },
            )
            result = onnx.load(str(path))
            remove_pairs_before(result, SATURATING, onnx)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise ExportError(
                f"ONNX Runtime cannot quantise the network: {type(error).__name__}: {error}; "
                "a newer onnxruntime may do better"
            ) from error
    return _finished(result, onnx)


def unquantised(model: Any) -> list[str]:
    """Return the names of the convolutions that int8 leaves in float32; see :func:`to_int8`."""
    model = import_onnx().shape_inference.infer_shapes(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    channels = _channels(model)
    behind, before = _leading_to_conv(model), _made_by_conv(model)
    names = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        source = makers.get(node.input[0])
        parts = (
            source.input if source is not None and source.op_type == "Concat" else node.input[:1]
        )
        reads_coordinates = any(channels.get(name) in COORDINATE_CHANNELS for name in parts)
        is_first = node.input[0] not in before
        is_head = node.output[0] not in behind or channels[node.output[0]] < HEAD_CHANNELS
        if is_first or is_head or reads_coordinates:
            names.append(node.name)
    return names


def _with_float32_weights(model: Any, onnx: Any) -> Any:
    """Return a copy whose weights are float32: the bundle's are float16 and a Cast."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {item.name: item for item in copy.graph.initializer}
    nodes = []
    for number, node in enumerate(copy.graph.node):
        if node.op_type == "Cast" and node.input[0] in weights:
            weight = weights[node.input[0]]
            values = onnx.numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
            continue
        node.name = node.name or f"node_{number}"  # the converters know nodes by name
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True)


def _channels(model: Any) -> dict[str, int]:
    """Length of the second axis by tensor name, where there is one."""
    graph = model.graph
    return {
        item.name: item.type.tensor_type.shape.dim[1].dim_value
        for item in (*graph.input, *graph.value_info, *graph.output)
        if len(item.type.tensor_type.shape.dim) > 1
    }


def _behind_last_conv(model: Any) -> list[Any]:
    """Nodes with a convolution before them and none behind them."""
    before, behind = _made_by_conv(model), _leading_to_conv(model)
    return [
        node
        for node in model.graph.node
        if node.op_type != "Conv"
        and not any(name in behind for name in node.output)
        and any(name in before for name in node.input)
    ]


def _made_by_conv(model: Any) -> set[str]:
    """Tensors that depend on a convolution; ONNX lists nodes in the order of computation.

    What comes in is an image, or the features that the convolutions of another graph have made.
    """
    channels = _channels(model)
    names = {item.name for item in model.graph.input if channels[item.name] > IMAGE_CHANNELS}
    for node in model.graph.node:
        if node.op_type == "Conv" or any(name in names for name in node.input):
            names.update(node.output)
    return names


def _leading_to_conv(model: Any) -> set[str]:
    """Tensors that a convolution depends on."""
    names: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type == "Conv" or any(name in names for name in node.output):
            names.update(node.input)
    return names


def _coordinates(model: Any) -> list[Any]:
    """Nodes between the convolutions and the grid of a GridSample: flow and pixel coordinates."""
    wanted: set[str] = set()
    found = []
    for node in reversed(model.graph.node):
        if node.op_type == "GridSample":
            wanted.add(node.input[1])
        elif node.op_type not in ("Conv", "Clip") and any(name in wanted for name in node.output):
            wanted.update(node.input)
            found.append(node)
    return found


def _clipped_ranges(
    model: Any, excluded: Sequence[str], onnx: Any, quantization: Any
) -> dict[str, list[dict[str, Any]]]:
    """Give convolutions in front of a Clip its range: what it cuts off deserves no steps."""
    makers = {output: node for node in model.graph.node for output in node.output}
    weights = {item.name: item for item in model.graph.initializer}
    ranges = {}
    for node in model.graph.node:
        source = makers.get(node.input[0]) if node.op_type == "Clip" else None
        bounds = [weights[name] for name in node.input[1:] if name in weights]
        if source is None or source.op_type != "Conv" or source.name in excluded or len(bounds) < 2:
            continue
        low, high = (onnx.numpy_helper.to_array(bound) for bound in bounds)
        largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
        ranges[node.input[0]] = [
            {
                "quant_type": quantization.QuantType.QInt8,
                "symmetric": True,
                "rmin": -largest,
                "rmax": largest,
            }
        ]
    return ranges


def _channel_maxima(
    model: Any, names: Sequence[str], inputs: Sequence[Feed], onnx: Any
) -> dict[str, FloatArray]:
    """Largest magnitude of each channel of some tensors."""
    onnxruntime = _import("onnxruntime")
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    wanted = list(dict.fromkeys(names))
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    runs = [
        [np.abs(value).max(axis=(0, 2, 3)) for value in session.run(None, dict(feed))]
        for feed in inputs
    ]
    return {
        name: np.maximum.reduce([run[place] for run in runs]) for place, name in enumerate(wanted)
    }


def _reader(inputs: Sequence[Feed], quantization: Any) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it is untyped
        def __init__(self) -> None:
            self._rest: Iterator[Feed] = iter(inputs)

        def __len__(self) -> int:
            return len(inputs)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(inputs[start_index:end_index])

        def get_next(self) -> Any:
            return next(self._rest, None)

    return Reader()


def _finished(model: Any, onnx: Any) -> Any:
    """Sort, strip and check what a converter returned."""
    wrapper = _import("onnxruntime.quantization.onnx_model").ONNXModel(model)
    wrapper.topological_sort()
    result = wrapper.model
    result.producer_name, result.producer_version = "coopnet", ""
    del result.metadata_props[:]
    del result.graph.value_info[:]
    onnx.checker.check_model(result, full_check=True)
    return result


def import_onnx() -> Any:
    """Return the package ``onnx``, which a robot does without until it adds a precision.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    return _import("onnx")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"other precisions need the onnx and onnxruntime packages ({error}): "
            "install them with 'pip install onnx onnxruntime'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's remarks, which go to the root logger and to standard output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
