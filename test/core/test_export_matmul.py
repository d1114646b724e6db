"""The exported pose graph does without a matrix product, and says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from coopnet_core.export.graphs import PoseGraph, write_onnx
from coopnet_core.inference.engines.builder import BuildOptions, build_engine
from coopnet_core.inference.engines.library import bundle_signature, load_library


class Constant(nn.Module):
    """A pose network that reads its answer off the image."""

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> Tensor:
        motion = torch.tensor([0.25, -0.125, 0.5, 1.0, 2.0, 3.0])[None]  # exact in float16
        return motion * (image_tgt.mean() + image_src.mean())


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pose") / "pose.onnx"
    write_onnx(PoseGraph(Constant()).eval(), "pose", path, width=64, height=32)
    return path


def test_pose_needs_no_matrix_product(onnx_path: Path) -> None:
    types = {node.op_type for node in onnx.load(onnx_path).graph.node}
    assert not types & {"MatMul", "Gemm"}
    assert "Sin" in types  # the rotation was exported, not folded away
    tgt, src = (np.full((1, 3, 32, 64), value, np.float32) for value in (0.25, 0.5))
    session = onnxruntime.InferenceSession(str(onnx_path))
    (got,) = session.run(None, {"image_tgt": tgt, "image_src": src})
    (expected,) = PoseGraph(Constant())(torch.from_numpy(tgt), torch.from_numpy(src))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(got[0, :3, :3] @ got[0, :3, :3].T, np.eye(3), atol=1e-5)


def test_pose_builds_for_turing(onnx_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    options = BuildOptions(compute_capability="7.5")
    expected = bundle_signature("pose", 32, 64)
    assert build_engine(load_library("tensorrt_rtx"), onnx_path, expected, options).plan
