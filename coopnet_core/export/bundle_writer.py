"""Write a bundle: ONNX files, safetensors, model card, and ``bundle.json`` last of all."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from coopnet_core import __version__
from coopnet_core.errors import ExportError, RuntimeUnavailableError
from coopnet_core.export.check import check_networks, predictor
from coopnet_core.export.directory import describe_file, new_directory, write_description
from coopnet_core.export.graphs import build_graphs, num_parameters, write_onnx
from coopnet_core.export.precisions import add_precisions
from coopnet_core.export.torch_runtime import TorchRuntime
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    WEIGHTS_FILE,
    Bundle,
    BundleInfo,
    DepthInfo,
    InputInfo,
    NetworkInfo,
    Precision,
    Scores,
    TrainingInfo,
    load_bundle,
)
from coopnet_core.inference.preprocess import ImageArray, prepare_pairs
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.networks import SIZE_MULTIPLE, Networks
from coopnet_core.networks.depth import MAX_CANONICAL_DEPTH, MIN_CANONICAL_DEPTH

TORCH = "torch networks"


class BundleMetadata(BaseModel):
    """What the exporter cannot know by itself.

    Attributes:
        name: Name of the bundle.
        description: One or two sentences for the model card.
        variant: Name of the network variant.
        width: Width of the networks' input.
        height: Height of the networks' input.
        color: Colour of the training images.
        metric: Whether the depth is in metres.
        training: Data, terms, command.
        metrics: Measured numbers.
        depth_width: Width at which the depth network works, if not the input's.
        depth_height: Its height.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    variant: str
    width: int = Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)
    height: int = Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)
    color: Literal["gray", "rgb"]
    metric: bool
    training: TrainingInfo
    metrics: list[Scores] = []
    depth_width: int | None = Field(default=None, ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)
    depth_height: int | None = Field(default=None, ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)

    @property
    def depth_size(self) -> tuple[int, int] | None:
        """Width and height at which the depth network works; None: the input's."""
        if self.depth_width is None or self.depth_height is None:
            return None
        return self.depth_width, self.depth_height


def export_bundle(
    networks: Networks,
    out_dir: Path | str,
    metadata: BundleMetadata,
    frames: Sequence[tuple[ImageArray, ImageArray]],
    precisions: Sequence[Precision] = ("float32",),
    calibration: Sequence[tuple[ImageArray, ImageArray]] = (),
) -> Bundle:
    """Export trained networks.

    Everything is written into a temporary directory beside ``out_dir``, checked against the torch
    networks, and then renamed, so that ``out_dir`` is never half a bundle. A bundle that was there
    is replaced.

    Args:
        networks: Trained networks. They are moved to the CPU and put into evaluation mode.
        out_dir: Directory of the bundle.
        metadata: Name, size, meaning and origin.
        frames: Pairs of real (current, previous) images, RGB or mono uint8, that the ONNX files are
            compared with the networks on.
        precisions: What to write; ``float32`` is always among them.
        calibration: Pairs that set the ranges of ``int8``; best others than ``frames``.

    Returns:
        The written bundle, loaded and checked.

    Raises:
        ExportError: ``out_dir`` is something else than a bundle, or an ONNX file disagrees with its
            network.
        RuntimeUnavailableError: A package that export needs is not installed.
    """
    out_dir = Path(out_dir)
    if not frames:
        raise ExportError("an export is checked on real frames: give at least one pair, got none")
    for network in networks:
        network.cpu()
    graphs = build_graphs(networks, metadata.depth_size)
    with new_directory(out_dir) as work_dir:
        for name in NETWORK_NAMES:
            path = work_dir / f"{name}.onnx"
            write_onnx(graphs[name], name, path, metadata.width, metadata.height)
        _write_weights(networks, work_dir / WEIGHTS_FILE)
        info = _describe(metadata, work_dir)
        inputs = prepare_pairs(info.input, frames)
        expected = predictor(TorchRuntime(graphs))
        runtime = OnnxRuntime(Bundle(work_dir, info), num_threads=1)
        checks = check_networks("float32", expected, predictor(runtime), inputs, TORCH)
        checked = {
            name: network.model_copy(update={"check": checks[name]})
            for name, network in info.networks.items()
        }
        info = info.model_copy(update={"networks": checked})
        ranges = prepare_pairs(info.input, calibration)
        info = add_precisions(Bundle(work_dir, info), precisions, inputs, ranges, expected, TORCH)
        write_description(info, work_dir)
    return load_bundle(out_dir)


def _describe(metadata: BundleMetadata, work_dir: Path) -> BundleInfo:
    names = [f"{name}.onnx" for name in NETWORK_NAMES] + [WEIGHTS_FILE]
    return BundleInfo(
        name=metadata.name,
        description=metadata.description,
        variant=metadata.variant,
        coopnet_version=__version__,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        input=InputInfo(width=metadata.width, height=metadata.height, color=metadata.color),
        depth=DepthInfo(
            metric=metadata.metric,
            min_canonical=MIN_CANONICAL_DEPTH,
            max_canonical=MAX_CANONICAL_DEPTH,
            network_width=metadata.depth_width,
            network_height=metadata.depth_height,
        ),
        networks={
            name: NetworkInfo(
                onnx=f"{name}.onnx", parameters=num_parameters(work_dir / f"{name}.onnx")
            )
            for name in NETWORK_NAMES
        },
        training=metadata.training,
        metrics=metadata.metrics,
        files={name: describe_file(work_dir / name) for name in names},
    )


def _write_weights(networks: Networks, path: Path) -> None:
    """Write all weights as ``depth.*``, ``pose.*``, ``flow.*``; two or more axes as float16."""
    try:
        safetensors_torch = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"export needs the safetensors package ({error}): "
            "install it with 'pip install safetensors'"
        ) from error
    tensors = {}
    for key, value in networks.as_module().state_dict().items():
        if value.is_floating_point() and value.ndim >= 2:
            value = value.to(torch.float16)
        tensors[key] = value.contiguous()
    safetensors_torch.save_file(tensors, str(path))
    path.chmod(0o644)  # the library makes it readable for the owner alone
