"""A bundle of a few kilobytes whose networks answer what the test says (no torch, 10 ms to make).

Use it wherever a test needs a bundle but not a trained model::

    from tiny_bundle import textured_image, write_tiny_bundle   # test/support is on sys.path

    path = write_tiny_bundle(tmp_path / "bundle")                       # stands still, 10 deep
    path = write_tiny_bundle(tmp_path / "bundle", flow=(2.0, 0.0))      # see below
    bundle = load_bundle(path)
    pipeline = FramePipeline(bundle, OnnxRuntime(bundle, num_threads=1))
    camera = Intrinsics(128, 64, 64.0, 64.0, 63.5, 31.5)
    result = pipeline.step(textured_image(128, 64), stamp_ns, camera)

The networks ignore the images. ``depth`` is canonical depth, so a camera with ``fx == width`` (of
the image that you feed, any size) sees exactly this depth; ``flow`` is ``flow_tgt_src``, the motion
from the current image into the previous one, and ``FrameResult.flow`` is minus that.

A constant flow ``(u, v)`` over a constant depth is the flow of a sideways step: whatever the pose
network says, the pipeline refines it to no rotation and the translation
``(u d / fx, v d / fy, 0)``, with ``fx``, ``fy`` of the 64x32 image and ``d = depth * fx / 64``.
A flow of zero is standing still, exactly. Give an array of shape (2, H, W) as ``flow`` to move a
block by itself, see ``block_flow``.

Feed ``textured_image``, not zeros: on an image without texture nothing can be tracked, and the
pipeline says so (``Tracking.LOST``).
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core import __version__
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    BundleInfo,
    DepthInfo,
    FileInfo,
    InputInfo,
    NetworkInfo,
    NetworkName,
    TrainingInfo,
    sha256_of,
)
from coopnet_core.inference.signature import Shapes, inputs, outputs

WIDTH = 64
HEIGHT = 32


def write_tiny_bundle(
    path: Path,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    depth: float | npt.ArrayLike = 10.0,
    T_src_tgt: npt.ArrayLike | None = None,
    flow: tuple[float, float] | npt.ArrayLike = (0.0, 0.0),
    metric: bool = True,
    color: str = "gray",
    name: str = "tiny",
) -> Path:
    """Write a bundle whose networks return constants.

    Args:
        path: Directory to make; its parent must exist.
        width: Input width of the networks, a multiple of 32.
        height: Input height of the networks, a multiple of 32.
        depth: Canonical depth, a number or an array of shape (H, W).
        T_src_tgt: What the pose network answers, (4, 4); identity by default.
        flow: ``flow_tgt_src`` in pixels of the network's image: (u, v), or shape (2, H, W).
            ``flow_src_tgt`` is minus that (exact where flow is constant).
        metric: What the bundle says about its depth.
        color: ``gray`` or ``rgb``.
        name: The bundle's name.

    Returns:
        ``path``.
    """
    path.mkdir()
    pose = np.eye(4) if T_src_tgt is None else np.asarray(T_src_tgt)
    flow_map = np.asarray(flow, np.float32)
    if flow_map.ndim == 1:
        flow_map = flow_map[:, None, None]
    flow_tgt_src = np.broadcast_to(flow_map, (2, height, width))[None]
    depth_map = np.broadcast_to(np.asarray(depth, np.float32), (height, width))[None, None]
    answers: dict[NetworkName, dict[str, npt.NDArray[np.floating]]] = {
        "depth": {"canonical_depth": depth_map},
        "pose": {"T_src_tgt": pose[None]},
        "flow_features": {
            name: np.zeros(shape) for name, shape in outputs("flow_features", height, width).items()
        },
        "flow": {"flow_tgt_src": flow_tgt_src, "flow_src_tgt": -flow_tgt_src},
    }
    for network, values in answers.items():
        _write_constant(path / f"{network}.onnx", inputs(network, height, width), values)
    info = BundleInfo(
        name=name,
        variant="tiny",
        coopnet_version=__version__,
        created="2026-01-01T00:00:00Z",
        input=InputInfo.model_validate({"width": width, "height": height, "color": color}),
        depth=DepthInfo(metric=metric, min_canonical=0.1, max_canonical=200.0),
        networks={n: NetworkInfo(onnx=f"{n}.onnx", parameters=0) for n in NETWORK_NAMES},
        training=TrainingInfo(data=["none"], license="Apache-2.0", recipe="constant"),
        files={
            f"{n}.onnx": FileInfo(
                sha256=sha256_of(path / f"{n}.onnx"),
                size_bytes=(path / f"{n}.onnx").stat().st_size,
            )
            for n in NETWORK_NAMES
        },
    )
    (path / "bundle.json").write_text(json.dumps(info.model_dump(), indent=2), encoding="utf-8")
    return path


def textured_image(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return a smooth random RGB image, (height, width, 3) uint8, with texture at every scale."""
    return _noise(width, height, [(cells, 2 * cells) for cells in (4, 8, 16)], seed)


def textured_strip(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return the same for large or long pictures: squares of noise, the smallest of 4 pixels."""
    sides = [side for side in (4, 8, 16, 32, 64) if side <= height]
    return _noise(width, height, [(height // side, width // side) for side in sides], seed)


def _noise(
    width: int, height: int, grids: list[tuple[int, int]], seed: int
) -> npt.NDArray[np.uint8]:
    """Return the mean of noise on grids of (rows, columns), RGB."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for rows, columns in grids:
        coarse = rng.uniform(0, 255, (rows, columns, 3)).astype(np.float32)
        finer = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image += finer / len(grids)
    return np.clip(image, 0, 255).astype(np.uint8)


def block_flow(
    background: tuple[float, float],
    block: tuple[float, float],
    box: tuple[int, int, int, int],
    width: int = WIDTH,
    height: int = HEIGHT,
) -> npt.NDArray[np.float32]:
    """Return a flow (2, H, W): ``block`` inside ``box`` (x, y, w, h), ``background`` elsewhere."""
    flow = np.empty((2, height, width), np.float32)
    flow[:] = np.asarray(background, np.float32)[:, None, None]
    x, y, w, h = box
    flow[:, y : y + h, x : x + w] = np.asarray(block, np.float32)[:, None, None]
    return flow


def _write_constant(
    path: Path, arguments: Shapes, answers: dict[str, npt.NDArray[np.floating]]
) -> None:
    """Write a graph that takes anything and returns constants."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, results = [], [], []
    for name, value in answers.items():
        array = np.ascontiguousarray(value, dtype=np.float32)
        initializers.append(numpy_helper.from_array(array, f"{name}_value"))
        nodes.append(helper.make_node("Identity", [f"{name}_value"], [name]))
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape)))
    taken = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in arguments.items()
    ]
    graph = helper.make_graph(nodes, path.stem, taken, results, initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="coopnet"
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
