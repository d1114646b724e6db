"""Metric scale over a recorded sequence with true poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.evaluation.odometry_metrics import path_length
from coopnet_core.evaluation.tasks import Recorded, Row, Task
from coopnet_core.inference.metric_scale import (
    MetricScale,
    MetricScaleConfig,
    ScaleState,
    ScaleStatus,
    apply_scale,
)

Float64 = npt.NDArray[np.float64]

KITTI_CAMERA_HEIGHT_M = 1.65
"""Height of the cameras over the road (Geiger et al., "Vision meets Robotics", IJRR 2013)."""

_NEIGHBOURS = 11
_MIN_STEP_M = 0.2
"""Below that a true step is too short to say what the scale was."""


@dataclass(frozen=True)
class ScaleRun:
    """What a source of scale made of a sequence.

    Attributes:
        poses: (N, 4, 4), the scaled trajectory; the first one is the identity.
        states: The scale of each frame.
        true_path_m: Length of the true path.
        truth: (N,) what it should have been: true path over estimated path of the frames around
            each frame; NaN where the camera (nearly) stands.
    """

    poses: Float64
    states: list[ScaleState]
    true_path_m: float
    truth: Float64


def run_scale(
    run: Recorded, poses: Float64, config: MetricScaleConfig, is_metric_bundle: bool
) -> ScaleRun:
    """Scale the pipeline's results frame by frame, as it happens live.

    Args:
        run: The bundle's outputs on the sequence.
        poses: (N, 4, 4), the true ones in metres. Mode ``odometry`` takes its distances from them,
            as wheels without any error would measure.
        config: Where scale comes from.
        is_metric_bundle: Whether the bundle's depth is in metres already.

    Returns:
        The scaled trajectory and the scales.
    """
    steps_m = np.diff(poses[:, :3, 3], axis=0, prepend=poses[:1, :3, 3])
    lengths_m = np.linalg.norm(steps_m, axis=1)
    scale = MetricScale(config, is_metric_bundle)
    T_odom_cam = np.eye(4)
    scaled, states, lengths = [], [], []
    for output, length_m in zip(run.outputs, lengths_m, strict=True):
        result = output.result
        states.append(scale.update(result, float(length_m)))
        T_odom_cam = apply_scale(result, states[-1], T_odom_cam).T_odom_cam
        scaled.append(T_odom_cam)
        step = result.T_prev_cur
        lengths.append(0.0 if step is None else float(np.linalg.norm(step[:3, 3])))
    truth = _true_scale(lengths_m, np.array(lengths))
    return ScaleRun(np.stack(scaled), states, float(lengths_m.sum()), truth)


def scale_task(
    run: Recorded, poses: Float64, runs: dict[str, ScaleRun], is_metric_bundle: bool
) -> Task:
    """Score scales.

    Args:
        run: The sequence.
        poses: (N, 4, 4), the true ones in metres.
        runs: What each source made of it, by name.
        is_metric_bundle: Whether the bundle's depth is in metres without any of them.

    Returns:
        The table.
    """
    if is_metric_bundle:
        unscaled = run_scale(run, poses, MetricScaleConfig(), is_metric_bundle)
        runs = {"none (the bundle's own metres)": unscaled, **runs}
    return Task(
        name="scale_kitti_03",
        title=f"Metric scale on KITTI odometry 03, frames {run.span}",
        data=f"{len(run.outputs)} frames: validation block",
        protocol=(
            "scale over the true one, which is the true path over the estimated path of "
            f"{_NEIGHBOURS} frames; path: length of the whole scaled path over the true one"
        ),
        rows=[_row(name, result) for name, result in runs.items()],
        notes=[
            "The scale of predicted depth changes along the way; a source must follow it.",
            f"Camera height: {KITTI_CAMERA_HEIGHT_M} m over the road, mounting unknown (level). "
            "Wheel odometry: the true distance between two frames, without error.",
        ],
    )


def _row(name: str, result: ScaleRun) -> Row:
    known = np.isfinite(result.truth)
    factors = np.array([state.factor for state in result.states])
    sigmas = np.array([state.relative_sigma for state in result.states])
    ratio = factors[known] / result.truth[known]
    z = np.log(ratio) / sigmas[known]
    z = z[np.isfinite(z)]
    updated = [state.status is ScaleStatus.UPDATED for state in result.states]
    p05, p50, p95 = np.quantile(ratio, [0.05, 0.5, 0.95]) if ratio.size else [np.nan] * 3
    path = path_length(result.poses)
    return {
        "method": name,
        "path": path / result.true_path_m if result.true_path_m else float("nan"),
        "median": float(p50),
        "p05": float(p05),
        "p95": float(p95),
        "within_1_sigma": float((np.abs(z) <= 1).mean()) if z.size else float("nan"),
        "frames_with_observation": float(np.mean(updated)),
    }


def _true_scale(lengths_m: Float64, lengths: Float64) -> Float64:
    # Only frames whose step is known on both sides.
    known = np.ones(_NEIGHBOURS)
    counted = lengths > 0
    true_path = np.convolve(np.where(counted, lengths_m, 0), known, "same")
    path = np.convolve(lengths, known, "same")
    is_moving = counted & (lengths_m > _MIN_STEP_M)
    return np.where(is_moving, true_path / np.maximum(path, 1e-9), np.nan)
