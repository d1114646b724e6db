"""Whether a runtime answers as the ONNX file does on the CPU.

Engines have been seen to be wrong without a word, so none drives a robot before it was compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from coopnet_core.errors import EngineError
from coopnet_core.inference.bundle import Bundle, NetworkName, Precision
from coopnet_core.inference.engines.cache import Verification
from coopnet_core.inference.preprocess import Pair, prepare_pairs
from coopnet_core.inference.runtime import FloatArray
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.inference.signature import UNITS, inputs_of_pair

Run = Callable[..., Sequence[FloatArray]]
"""A network's inputs to its outputs."""

MEDIAN_LIMITS: dict[Precision, dict[NetworkName, float]] = {
    "float32": {"depth": 0.005, "pose": 0.002, "flow_features": 0.005, "flow": 0.05},
    "float16": {"depth": 0.03, "pose": 0.005, "flow_features": 0.1, "flow": 0.1},
    "int8": {"depth": 0.03, "pose": 0.01, "flow_features": 0.1, "flow": 0.6},
}
"""Largest median difference on the worst frame. Chosen, not measured: float32 leaves room for
TF32, float16 for bfloat16; float16 and int8 compare with the ONNX file of the same precision."""
P95_FACTOR = 10.0
"""How much larger the 95th percentile may be: a twentieth of a picture may not be simply wrong."""
SYNTHETIC_SHIFT_PX = 4


def verify_network(
    network: NetworkName, run: Run, bundle: Bundle, pairs: Sequence[Pair], precision: Precision
) -> Verification:
    """Compare a network with its ONNX file, run by ONNX Runtime on the CPU.

    Args:
        network: Which network.
        run: Takes its inputs and returns its outputs in the order of the ONNX file.
        bundle: Has the ONNX file.
        pairs: Frames, at least one pair.
        precision: Decides the limits.

    Raises:
        EngineError: They disagree, or the network returns values that are not finite.
    """
    reference = OnnxRuntime(bundle, precision=precision)
    medians, p95s = [], []
    for pair in pairs:
        arrays = inputs_of_pair(network, *pair, reference.flow_features)
        error = _difference(network, run(*arrays), reference.run(network, *arrays))
        medians.append(float(np.median(error)))
        p95s.append(float(np.percentile(error, 95)))
    limit = MEDIAN_LIMITS[precision][network]
    for name, value, allowed in (
        ("median", max(medians), limit),
        ("95th percentile", max(p95s), P95_FACTOR * limit),
    ):
        if not value <= allowed:
            raise EngineError(
                f"the {network} network at {precision} is off by {value:.3g} ({UNITS[network]}, "
                f"{name} of the worst of {len(pairs)} frames) from "
                f"{bundle.onnx_path(network, precision).name} on the CPU, "
                f"expected at most {allowed:g}: do not use it; try another precision, library "
                "version or device"
            )
    return Verification(
        reference=reference.description,
        num_frames=len(pairs),
        unit=UNITS[network],
        median_error=max(medians),
        median_limit=limit,
        p95_error=max(p95s),
        p95_limit=P95_FACTOR * limit,
    )


def synthetic_pairs(bundle: Bundle) -> list[Pair]:
    """Return one pair of a texture that slides sideways, for where no frames are given."""
    rng = np.random.default_rng(0)
    width = bundle.width + SYNTHETIC_SHIFT_PX
    texture = np.zeros((bundle.height, width, 3), np.float32)
    for rows in (4, 12, 36):
        coarse = rng.uniform(0, 255 / 3, (rows, 3 * rows, 3)).astype(np.float32)
        texture += cv2.resize(coarse, (width, bundle.height), interpolation=cv2.INTER_LINEAR)
    image = texture.astype(np.uint8)
    current, previous = image[:, SYNTHETIC_SHIFT_PX:], image[:, :-SYNTHETIC_SHIFT_PX]
    return prepare_pairs(bundle.info.input, [(current, previous)])


def _difference(
    network: NetworkName, got: Sequence[FloatArray], expected: Sequence[FloatArray]
) -> FloatArray:
    """Return |got - expected| of every value; not a number where ``got`` is not finite."""
    errors = []
    for result, reference in zip(got, expected, strict=True):
        error = np.abs(result - reference)
        if network == "depth":
            error = error / np.abs(reference)
        errors.append(np.where(np.isfinite(result), error, np.nan).ravel())
    return np.concatenate(errors)
