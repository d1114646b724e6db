"""How far the files of a bundle are from what they were made from, on real frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from coopnet_core.errors import ExportError
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    ExportCheck,
    NetworkName,
    OutputError,
    Precision,
)
from coopnet_core.inference.preprocess import Pair
from coopnet_core.inference.runtime import FloatArray, Runtime
from coopnet_core.inference.signature import UNITS, outputs, run_on_pair

MAX_MEDIAN_ERROR: dict[Precision, dict[NetworkName, float]] = {
    "float32": {"depth": 0.02, "pose": 0.005, "flow_features": 0.05, "flow": 0.1},
    "float16": {"depth": 0.02, "pose": 0.005, "flow_features": 0.05, "flow": 0.1},
    "int8": {"depth": 0.1, "pose": 0.01, "flow_features": 0.5, "flow": 0.3},
}
"""Largest median error of a sound export, in ``UNITS``. Set by hand, well above what the included
bundle shows."""

Predict = Callable[[NetworkName, FloatArray, FloatArray], tuple[FloatArray, ...]]
"""Runs a network on (current, previous), as ``signature.run_on_pair`` does."""


def check_networks(
    precision: Precision,
    expected: Predict,
    got: Predict,
    frames: Sequence[Pair],
    reference: str,
) -> dict[NetworkName, ExportCheck]:
    """Run both on the same frames and compare.

    Args:
        precision: Of the files that are checked; says how much they may be off.
        expected: The reference.
        got: Runs the files.
        frames: (current, previous) image pairs, at least one, (1, 3, H, W) float32 in [0, 1] each.
        reference: What ``expected`` runs, for the record.

    Returns:
        The differences per network.

    Raises:
        ExportError: A file disagrees with the reference.
    """
    checks: dict[NetworkName, ExportCheck] = {}
    for name in NETWORK_NAMES:
        pairs = [(expected(name, *images), got(name, *images)) for images in frames]
        errors: dict[str, FloatArray] = {}
        magnitudes = []
        for place, output in enumerate(outputs(name, *frames[0][0].shape[2:])):
            right = np.stack([answer[place] for answer, _ in pairs]).astype(np.float64)
            found = np.stack([answer[place] for _, answer in pairs])
            error = np.abs(found - right)
            if name == "depth":
                error /= np.abs(right)
            _refuse_if_wrong(precision, name, output, error, reference)
            errors[output] = error
            magnitudes.append(np.abs(right).ravel())
        together = np.concatenate([error.ravel() for error in errors.values()])
        checks[name] = ExportCheck(
            num_frames=len(frames),
            unit=UNITS[name],
            median_error=float(np.median(together)),
            max_error=float(together.max()),
            median_magnitude=float(np.median(np.concatenate(magnitudes))),
            reference=reference,
            outputs={
                output: OutputError(
                    median_error=float(np.median(error)), max_error=float(error.max())
                )
                for output, error in errors.items()
            },
        )
    return checks


def predictor(runtime: Runtime) -> Predict:
    """Return what runs the networks of a runtime."""
    return partial(run_on_pair, runtime)


def _refuse_if_wrong(
    precision: Precision, name: NetworkName, output: str, error: FloatArray, reference: str
) -> None:
    what = f"the exported {name} network ({precision}, output {output})"
    if not np.all(np.isfinite(error)):
        raise ExportError(f"{what} returns values that are not finite: leave this precision out")
    median, limit = float(np.median(error)), MAX_MEDIAN_ERROR[precision][name]
    if median > limit:
        advice = {
            "float32": "another version of torch or onnxruntime may do better",
            "float16": "leave float16 out",
            "int8": "calibrate on more frames from other scenes, or leave int8 out",
        }
        raise ExportError(
            f"{what} is off by {median:.3g} ({UNITS[name]}) from the {reference} in the median, "
            f"expected at most {limit}: do not use this export; {advice[precision]}"
        )
