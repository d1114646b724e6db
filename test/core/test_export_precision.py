"""Further precisions of a bundle: what the graphs hold, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.cli.main import main
from coopnet_core.errors import BundleError, ExportError
from coopnet_core.evaluation.precision_table import precision_table
from coopnet_core.evaluation.tasks import Task
from coopnet_core.export import precisions as making
from coopnet_core.export import rewrites
from coopnet_core.export.directory import describe_file
from coopnet_core.export.precision import to_float16, to_int8, unquantised
from coopnet_core.export.precisions import extend_bundle
from coopnet_core.inference.bundle import Bundle, default_bundle_path, load_bundle
from coopnet_core.inference.preprocess import prepare_image
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime

FRAMES = [(textured_image(80, 40, seed), textured_image(80, 40, seed + 1)) for seed in range(12)]
CHANNELS = 8


def conv_model() -> onnx.ModelProto:
    """Image to depth between 1 and 10: four convolutions, weights stored as float16."""
    rng = np.random.default_rng(0)
    shapes = {"a": (CHANNELS, 3), "b": (CHANNELS, CHANNELS), "c": (CHANNELS, CHANNELS)}
    shapes["d"] = (1, CHANNELS)
    weights, nodes = [], []

    def constant(name: str, value: npt.ArrayLike) -> None:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))

    constant("low", 0.0)
    constant("high", 6.0)
    last = "image"
    for name, (out, inside) in shapes.items():
        values = rng.normal(0, 0.3, (out, inside, 3, 3)).astype(np.float16)
        weights.append(numpy_helper.from_array(values, f"{name}_float16"))
        constant(f"{name}_bias", np.full(out, 0.1))
        nodes += [
            helper.make_node("Cast", [f"{name}_float16"], [f"{name}_weight"], to=TensorProto.FLOAT),
            helper.make_node(
                "Conv",
                [last, f"{name}_weight", f"{name}_bias"],
                [f"{name}_conv"],
                name,
                pads=[1, 1, 1, 1],
            ),
        ]
        last = f"{name}_conv"
        if name != "d":
            nodes.append(helper.make_node("Clip", [last, "low", "high"], [f"{name}_clip"]))
            last = f"{name}_clip"
    constant("nine", 0.9)
    constant("tenth", 0.1)
    nodes += [
        helper.make_node("Sigmoid", [last], ["logistic"]),
        helper.make_node("Mul", ["logistic", "nine"], ["scaled"]),
        helper.make_node("Add", ["scaled", "tenth"], ["inverse"]),
        helper.make_node("Reciprocal", ["inverse"], ["canonical_depth"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 64])
    depth = helper.make_tensor_value_info("canonical_depth", TensorProto.FLOAT, [1, 1, 32, 64])
    graph = helper.make_graph(nodes, "depth", [image], [depth], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def mixed_model(inside: int = 3, loudness: float = 1.0) -> onnx.ModelProto:
    """Convolution "b" reads features beside flow, "d" reads features.

    Args:
        inside: Channels of the input.
        loudness: How much larger than the others the first feature beside flow is.
    """
    rng = np.random.default_rng(1)
    shapes = {"a": (CHANNELS, inside), "flow": (2, CHANNELS), "b": (CHANNELS, CHANNELS + 2)}
    shapes |= {"d": (CHANNELS, CHANNELS), "e": (1, CHANNELS)}
    values = {name: rng.normal(0, 0.2, (*shape, 3, 3)) for name, shape in shapes.items()}
    values["a"][0] *= loudness
    values["flow"][:, 0] /= loudness
    values["b"][:, 2] /= loudness
    weights = [
        numpy_helper.from_array(value.astype(np.float32), f"{name}_weight")
        for name, value in values.items()
    ]
    weights += [numpy_helper.from_array(np.full(8, 0.1, np.float32), "b_bias")]

    def conv(name: str, read: str, *bias: str) -> onnx.NodeProto:
        return helper.make_node(
            "Conv", [read, f"{name}_weight", *bias], [f"{name}_conv"], name, pads=[1, 1, 1, 1]
        )

    nodes = [
        conv("a", "image"),
        helper.make_node("LeakyRelu", ["a_conv"], ["features"]),
        conv("flow", "features"),
        helper.make_node("Concat", ["flow_conv", "features"], ["both"], axis=1),
        conv("b", "both", "b_bias"),
        helper.make_node("Elu", ["b_conv"], ["b_elu"]),
        conv("d", "b_elu"),
        helper.make_node("Elu", ["d_conv"], ["d_elu"]),
        conv("e", "d_elu"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, inside, 32, 64])
    out = helper.make_tensor_value_info("e_conv", TensorProto.FLOAT, [1, 1, 32, 64])
    graph = helper.make_graph(nodes, "flow", [image], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def quantised_convolutions(model: onnx.ModelProto) -> set[str]:
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1].endswith("_DequantizeLinear_Output")
    }


def error_of_int8(model: onnx.ModelProto) -> float:
    """Root mean square error of int8 as a fraction of the output's spread."""
    result = to_int8(model, [{"image": image} for image in images()])
    right, found = ([run(one, image) for image in images()] for one in (model, result))
    return float(np.std(np.subtract(found, right)) / np.std(right))


def run(model: onnx.ModelProto, image: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": image})[0]


def images() -> list[Any]:
    return [prepare_image(current, 64, 32, "gray")[0] for current, _ in FRAMES]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with a depth network of convolutions."""
    path = write_tiny_bundle(tmp_path / "tiny")
    onnx.save(conv_model(), str(path / "depth.onnx"))
    content = json.loads((path / "bundle.json").read_text())
    content["files"]["depth.onnx"] = describe_file(path / "depth.onnx").model_dump()
    (path / "bundle.json").write_text(json.dumps(content))
    return load_bundle(path)


def types(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    items = (*inferred.value_info, *inferred.output)
    known = {item.name: item.type.tensor_type.elem_type for item in items}
    for node in inferred.node:
        yield node, known[node.output[0]]


def test_float16_is_arithmetic_with_float32_ends_and_tail() -> None:
    before = conv_model()
    kept = before.SerializeToString(deterministic=True)
    model = to_float16(before)
    assert before.SerializeToString(deterministic=True) == kept
    found = {(node.op_type, kind) for node, kind in types(model)}
    assert ("Conv", TensorProto.FLOAT16) in found
    assert ("Conv", TensorProto.FLOAT) not in found
    assert ("Reciprocal", TensorProto.FLOAT) in found
    ends = [*model.graph.input, *model.graph.output]
    assert {item.type.tensor_type.elem_type for item in ends} == {TensorProto.FLOAT}
    image = images()[0]
    np.testing.assert_allclose(run(model, image), run(before, image), rtol=5e-3)


def test_int8_has_pairs_around_convolutions_with_zero_points_of_zero() -> None:
    before = conv_model()
    model = to_int8(before, [{"image": image} for image in images()])
    assert unquantised(before) == ["a", "d"]
    makers = {output: node for node in model.graph.node for output in node.output}
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            is_quantised = node.name not in ("a", "d")
            sources = [makers[name].op_type for name in node.input[:2] if name in makers]
            # What a quantised neighbour has made is rounded, too; the weights tell.
            assert (sources == ["DequantizeLinear"] * 2) == is_quantised, node.name
            # TensorRT takes no int32 biases.
            assert weights[node.input[2]].dtype == np.float32
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert weights[node.input[2]].dtype == np.int8
            assert not weights[node.input[2]].any()
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    # What is clipped at 6 gets 127 steps up to 6.
    assert weights["b_conv_scale"] == pytest.approx(6 / 127)
    image = images()[0]
    np.testing.assert_allclose(run(model, image), run(before, image), rtol=0.1)


def test_coordinates_beside_features_get_a_convolution_of_their_own() -> None:
    before = mixed_model()
    split = onnx.shape_inference.infer_shapes(before)
    rewrites.split_coordinates(split, {"flow_conv": 2, "features": CHANNELS}, onnx)
    assert {"b_features", "b_coordinates"} < {node.name for node in split.graph.node}
    np.testing.assert_allclose(run(split, images()[0]), run(before, images()[0]), atol=1e-5)
    model = to_int8(before, [{"image": image} for image in images()])
    # "a" reads the image, "flow" makes flow, and "e" is the last.
    assert quantised_convolutions(model) == {"b_features", "d"}
    # What ELU reads keeps its steps.
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    read = [makers[node.input[0]] for node in model.graph.node if node.op_type == "Elu"]
    assert read == ["Add", "Conv"]
    assert "QuantizeLinear" in makers.values()


def test_features_of_another_graph_are_no_image() -> None:
    rng = np.random.default_rng(2)
    features = [rng.normal(0, 1, (1, 32, 32, 64)).astype(np.float32) for _ in range(10)]
    model = to_int8(mixed_model(inside=32), [{"image": values} for values in features])
    assert quantised_convolutions(model) == {"a", "b_features", "d"}


def test_a_loud_channel_does_not_cost_the_others_their_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    even, loud = error_of_int8(mixed_model()), error_of_int8(mixed_model(loudness=12))
    monkeypatch.setattr(rewrites, "OUTLIER_RATIO", np.inf)
    assert error_of_int8(mixed_model()) == even  # nothing to equalise there
    without = error_of_int8(mixed_model(loudness=12))
    assert loud < without / 3


def test_too_few_inputs_teach() -> None:
    with pytest.raises(ExportError, match=r"10 or more frame pairs.*got 3.*--calibration-frames"):
        to_int8(conv_model(), [{"image": image} for image in images()[:3]])


def test_a_bundle_is_extended_in_place(bundle: Bundle) -> None:
    result = extend_bundle(bundle, bundle.path, ["float32", "float16", "int8"], FRAMES[:2], FRAMES)
    assert result.precisions == ("float32", "float16", "int8")
    assert [path.name for path in bundle.path.parent.iterdir()] == ["tiny"]
    for precision in ("float16", "int8"):
        entry = result.info.networks["flow"].precisions[precision]
        assert entry.check is not None
        assert set(entry.check.outputs) == {"flow_tgt_src", "flow_src_tgt"}
        assert entry.check.reference == "float32 ONNX files"
        check = result.info.networks["depth"].precisions[precision].check
        assert check is not None
        assert 0 < check.median_error < check.max_error < 0.2
        runtime = OnnxRuntime(result, 1, precision)
        assert runtime.precision == precision
        assert precision in runtime.description
        assert runtime.depth(images()[0]).shape == (1, 1, 32, 64)
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "| depth | int8 | `depth_int8.onnx` |" in card
    assert "99.999 % of the values over 12 frame pairs" in card


def test_a_sabotaged_file_is_refused_and_nothing_is_left(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert: Callable[..., Any] = making.to_float16

    def sabotage(model: Any) -> Any:
        result = convert(model)
        for item in result.graph.initializer:
            if item.name.startswith("b_"):
                values = 5 * numpy_helper.to_array(item)
                item.CopyFrom(numpy_helper.from_array(values, item.name))
        return result

    monkeypatch.setattr(making, "to_float16", sabotage)
    with pytest.raises(ExportError, match=r"depth network \(float16, .*\) is off by .* most 0.02"):
        extend_bundle(bundle, tmp_path / "out", ["float16"], FRAMES[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    monkeypatch.undo()
    with pytest.raises(ExportError, match="depth network: int8 needs 10"):
        extend_bundle(bundle, bundle.path, ["float16", "int8"], FRAMES[:2], FRAMES[:4])
    assert load_bundle(bundle.path).info == bundle.info


def test_a_missing_precision_names_those_that_are_there(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no int8, only float32.*export .*--precisions int8"):
        OnnxRuntime(bundle, 1, "int8")


def test_the_included_bundle_has_float32() -> None:
    included = load_bundle(default_bundle_path())
    assert "float32" in included.precisions
    assert included.onnx_path("flow") == included.path / "flow.onnx"


def test_the_command_refuses_what_only_a_checkpoint_can_use(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(bundle.path), "--out", str(tmp_path / "out"), "--frames", "x"]
    assert main([*arguments, "--precisions", "float16", "--name", "other"]) != 0
    assert "leave out --name" in capsys.readouterr().err


def test_the_table_of_precisions_has_relative_cost() -> None:
    def task(value: float) -> Task:
        rows: list[Any] = [
            {"method": "CoopNet, strips", "epe_px": value},
            {"method": "DIS", "epe_px": 1.0},
        ]
        return Task("flow_rubberwhale", "Flow", "pair", "epe", rows)

    rows = precision_table({"float32": [task(0.5)], "int8": [task(0.6)]}).rows
    assert [row["method"] for row in rows] == ["float32", "int8"]
    assert rows[1]["epe_px flow_rubberwhale %"] == pytest.approx(20.0)
