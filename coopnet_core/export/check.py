"""How far an exported graph is from the network it was made from, on real frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coopnet_core.errors import ExportError
from coopnet_core.inference.bundle import NETWORK_NAMES, ExportCheck, NetworkName
from coopnet_core.inference.runtime import FloatArray, Runtime

MAX_MEDIAN_ERROR: dict[NetworkName, float] = {"depth": 0.02, "pose": 0.005, "flow": 0.1}
"""Largest median error of a sound export: fraction of depth, matrix entries, pixels."""

UNITS: dict[NetworkName, str] = {
    "depth": "fraction of the depth",
    "pose": "matrix entries",
    "flow": "pixels",
}


def check_graphs(
    graphs: dict[NetworkName, nn.Module],
    runtime: Runtime,
    frames: Sequence[tuple[FloatArray, FloatArray]],
) -> dict[NetworkName, ExportCheck]:
    """Run both on the same frames and compare.

    Args:
        graphs: Torch modules in evaluation mode.
        runtime: Runs the exported files.
        frames: (current, previous) image pairs, at least one, (1, 3, H, W) float32 in [0, 1] each.

    Returns:
        The differences per network.

    Raises:
        ExportError: A graph disagrees with its network.
    """
    checks = {}
    for name in NETWORK_NAMES:
        errors, magnitudes = [], []
        for image_tgt, image_src in frames:
            expected = _run_torch(name, graphs[name], image_tgt, image_src)
            got = _run_runtime(name, runtime, image_tgt, image_src)
            error = np.abs(got.astype(np.float64) - expected)
            if name == "depth":
                error /= np.abs(expected)
            errors.append(error.ravel())
            magnitudes.append(np.abs(expected).ravel())
        error, magnitude = np.concatenate(errors), np.concatenate(magnitudes)
        if not np.all(np.isfinite(error)):
            raise ExportError(f"the exported {name} network returns values that are not finite")
        median = float(np.median(error))
        if median > MAX_MEDIAN_ERROR[name]:
            raise ExportError(
                f"the exported {name} network is off by {median:.3g} ({UNITS[name]}) in the "
                f"median, expected at most {MAX_MEDIAN_ERROR[name]}: do not use this export; "
                "another version of torch or onnxruntime may do better"
            )
        checks[name] = ExportCheck(
            num_frames=len(frames),
            unit=UNITS[name],
            median_error=median,
            max_error=float(error.max()),
            median_magnitude=float(np.median(magnitude)),
        )
    return checks


def _run_torch(
    name: NetworkName, graph: nn.Module, image_tgt: FloatArray, image_src: FloatArray
) -> npt.NDArray[np.float64]:
    images = [torch.from_numpy(image_tgt)]
    if name != "depth":
        images.append(torch.from_numpy(image_src))
    with torch.no_grad():
        outputs = graph(*images)
    return np.stack([output.numpy() for output in outputs]).astype(np.float64)


def _run_runtime(
    name: NetworkName, runtime: Runtime, image_tgt: FloatArray, image_src: FloatArray
) -> FloatArray:
    if name == "depth":
        return runtime.depth(image_tgt)[None]
    if name == "pose":
        return runtime.pose(image_tgt, image_src)[None]
    return np.stack(runtime.flow(image_tgt, image_src))
