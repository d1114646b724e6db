"""Export: the bundle says and does what the networks do, or is not written."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from tiny_bundle import textured_image
from toy_networks import ToyDepth, toy_networks

from coopnet_core.errors import ExportError
from coopnet_core.export import bundle_writer
from coopnet_core.export.bundle_writer import BundleMetadata, export_bundle
from coopnet_core.inference.bundle import NETWORK_NAMES, Scores, TrainingInfo, load_bundle
from coopnet_core.inference.preprocess import prepare_image
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.inference.signature import run_on_pair

FRAMES = [(textured_image(80, 40, seed), textured_image(80, 40, seed + 1)) for seed in (1, 5)]
METADATA = BundleMetadata(
    name="toy",
    variant="toy",
    width=64,
    height=32,
    color="gray",
    metric=True,
    training=TrainingInfo(
        data=["kitti_odometry 03, frames 0 to 599"],
        license="KITTI (CC BY-NC-SA 3.0): non-commercial use only, share alike",
        recipe="coopnet",
        steps=7,
        seed=3,
        duration_s=5400,
        command="coopnet train --data data --out run",
    ),
    metrics=[
        Scores(
            title="Depth",
            data="some frames",
            protocol="some protocol",
            rows=[{"method": "toy", "abs_rel": 0.123456}, {"method": "other", "abs_rel": None}],
            notes=["a note"],
        )
    ],
)


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "toy"
    export_bundle(toy_networks(), path, METADATA, FRAMES)
    return path


def test_the_bundle_loads_and_is_complete(bundle_dir: Path) -> None:
    bundle = load_bundle(bundle_dir)
    assert (bundle.width, bundle.height, bundle.color, bundle.metric) == (64, 32, "gray", True)
    assert set(bundle.info.files) == {
        *(f"{name}.onnx" for name in NETWORK_NAMES),
        "weights.safetensors",
    }
    names = {path.name for path in bundle_dir.iterdir()}
    assert names == {*bundle.info.files, "bundle.json", "MODEL_CARD.md"}
    assert [path.name for path in bundle_dir.parent.iterdir()] == ["toy"]


def test_the_onnx_files_answer_as_the_networks_do(bundle_dir: Path) -> None:
    runtime = OnnxRuntime(load_bundle(bundle_dir), num_threads=1)
    networks = toy_networks()
    for network in networks:
        network.eval()
    current, previous = (prepare_image(image, 64, 32, "gray")[0] for image in FRAMES[0])
    with torch.no_grad():
        depth = 1 / networks.depth(torch.from_numpy(current))[0]
        flows = networks.flow(torch.from_numpy(current), torch.from_numpy(previous))
    np.testing.assert_allclose(runtime.depth(current), depth.numpy(), rtol=5e-3)
    found = run_on_pair(runtime, "flow", current, previous)
    for got, expected in zip(found, flows, strict=True):
        np.testing.assert_allclose(got, expected[0].numpy(), atol=5e-3)
    pose = runtime.pose(current, previous)[0]
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])


def test_the_errors_are_recorded(bundle_dir: Path) -> None:
    for name, network in load_bundle(bundle_dir).info.networks.items():
        check = network.check
        assert check is not None, name
        assert check.num_frames == 2
        assert 0 < check.median_error <= check.max_error < 0.05
        assert check.median_magnitude > 0


def test_weights_are_stored_as_float16_and_used_as_float32(bundle_dir: Path) -> None:
    types = onnx.TensorProto
    for name in NETWORK_NAMES:
        model = onnx.load(str(bundle_dir / f"{name}.onnx"))
        weights = [item for item in model.graph.initializer if len(item.dims) == 4]
        assert weights
        assert {item.data_type for item in weights} == {types.FLOAT16}
        inputs = [*model.graph.input, *model.graph.output]
        assert {item.type.tensor_type.elem_type for item in inputs} == {types.FLOAT}
    tensors = load_file(bundle_dir / "weights.safetensors")
    assert tensors["depth.layers.0.weight"].dtype == np.float16
    assert tensors["depth.layers.1.running_var"].dtype == np.float32
    assert {name.split(".")[0] for name in tensors} == {"depth", "pose", "flow"}


def test_the_files_hold_no_paths_of_this_machine(bundle_dir: Path) -> None:
    for path in bundle_dir.iterdir():
        data = path.read_bytes()
        assert str(Path.home()).encode() not in data, path
        assert b"site-packages" not in data, path
        assert b"toy_networks" not in data, path
        assert stat.S_IMODE(path.stat().st_mode) & 0o044, path


def test_the_model_card_has_terms_numbers_and_command(bundle_dir: Path) -> None:
    card = (bundle_dir / "MODEL_CARD.md").read_text()
    for text in (
        "# toy",
        "non-commercial",
        "| seed | 3 |",
        "| time | 90 min |",
        "`coopnet train --data data --out run`",
        "| toy | 0.1235 |",
        "- a note",
        "metres",
    ):
        assert text in card


def test_an_older_bundle_is_replaced_and_equal_networks_give_equal_bytes(
    bundle_dir: Path, tmp_path: Path
) -> None:
    target = tmp_path / "toy"
    shutil.copytree(bundle_dir, target)
    (target / "leftover.engine").write_bytes(b"old")
    again = export_bundle(toy_networks(), target, METADATA, FRAMES)
    assert again.info.files == load_bundle(bundle_dir).info.files
    assert again.version == load_bundle(bundle_dir).version
    assert not (target / "leftover.engine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ExportError, match="photos exists and is not a bundle"):
        export_bundle(toy_networks(), target, METADATA, FRAMES)
    assert (target / "cat.jpg").read_bytes() == b"cat"


def test_without_frames_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="at least one pair"):
        export_bundle(toy_networks(), tmp_path / "toy", METADATA, [])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_disagrees_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx = bundle_writer.write_onnx

    def write_another(graph: Any, name: Any, path: Path, width: int, height: int) -> None:
        graph = bundle_writer.build_graphs(toy_networks(9))[name]
        write_onnx(graph, name, path, width, height)

    monkeypatch.setattr(bundle_writer, "write_onnx", write_another)
    with pytest.raises(
        ExportError, match=r"depth network \(float32, output canonical_depth\) is off by"
    ):
        export_bundle(toy_networks(), tmp_path / "toy", METADATA, FRAMES)
    assert list(tmp_path.iterdir()) == []


def test_diverged_weights_are_refused(tmp_path: Path) -> None:
    networks = toy_networks()
    depth: Any = networks.depth
    assert isinstance(depth, ToyDepth)
    with torch.no_grad():
        depth.layers[2].weight.fill_(1e6)
    with pytest.raises(ExportError, match="beyond float16"):
        export_bundle(networks, tmp_path / "toy", METADATA, FRAMES)


def test_the_description_is_plain_json(bundle_dir: Path) -> None:
    content = json.loads((bundle_dir / "bundle.json").read_text())
    assert content["schema_version"] == 2
    assert content["training"]["seed"] == 3
    assert content["networks"]["flow"]["onnx"] == "flow.onnx"
