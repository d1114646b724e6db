"""Odometry of a bundle against truth: with geometry, from the pose network alone, and none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError
from coopnet_core.evaluation import baselines
from coopnet_core.evaluation.odometry_metrics import (
    ALIGNMENTS,
    odometry_metrics,
    path_length,
    relative_to_first,
    stands_still,
    trajectory_from_steps,
    usable_lengths,
)
from coopnet_core.evaluation.scale_run import KITTI_CAMERA_HEIGHT_M, ScaleRun, run_scale
from coopnet_core.evaluation.tasks import Recorded, Row, Task
from coopnet_core.inference.metric_scale import MetricScaleConfig
from coopnet_core.inference.pipeline import Tracking

Float64 = npt.NDArray[np.float64]

GROUND_TRUTH = "ground truth"
PIPELINE = "CoopNet pipeline"
CONSTANT_VELOCITY = "constant velocity"
_SCALED = f"{PIPELINE}, scale by "
_SOURCES = {
    "camera height": MetricScaleConfig(mode="camera_height", camera_height_m=KITTI_CAMERA_HEIGHT_M),
    "wheel odometry (simulated from ground truth)": MetricScaleConfig(mode="odometry"),
}
_ALIGNMENT_NAMES = {
    "none": "none (metres)",
    "scale": "scale only",
    "6dof": "6-DoF (metres)",
    "7dof": "7-DoF",
}


def scale_runs(run: Recorded, is_metric: bool) -> dict[str, ScaleRun]:
    """Bring the pipeline to metric scale by each source.

    Args:
        run: The bundle's outputs on a sequence with true poses.
        is_metric: Whether the bundle's translations are in metres already.

    Returns:
        By the name of the source.

    Raises:
        DataError: There are no true poses.
    """
    return {
        name: run_scale(run, _truth(run), config, is_metric) for name, config in _SOURCES.items()
    }


def trajectories_of(run: Recorded, scaled: dict[str, ScaleRun]) -> dict[str, Float64]:
    """Collect the trajectories to compare.

    Args:
        run: The bundle's outputs on a sequence with true poses.
        scaled: From :func:`scale_runs`.

    Returns:
        Poses (N, 4, 4) in the frame of the first camera, by method; the truth is one of them.

    Raises:
        DataError: There are no true poses, or frames so far apart that they were not compared.
    """
    truth = _truth(run)
    network_steps = [
        output.T_prev_cur_network for output in run.outputs if output.T_prev_cur_network is not None
    ]
    if len(network_steps) != len(truth) - 1:
        raise DataError(
            f"{run.sequence.name}: the pipeline compared {len(network_steps)} of {len(truth) - 1} "
            "neighbouring frames; are there gaps in its times?"
        )
    return {
        GROUND_TRUTH: truth,
        PIPELINE: np.stack([output.result.T_odom_cam for output in run.outputs]),
        **{f"{_SCALED}{name}": result.poses for name, result in scaled.items()},
        "pose network alone": trajectory_from_steps(np.stack(network_steps)),
        CONSTANT_VELOCITY: baselines.constant_velocity(
            float(np.linalg.norm(truth[1, :3, 3])), len(truth)
        ),
    }


def odometry_task(run: Recorded, trajectories: dict[str, Float64], is_metric: bool) -> Task:
    """Score odometry.

    Args:
        run: The bundle's outputs on the sequence.
        trajectories: From :func:`trajectories_of`.
        is_metric: Whether the bundle's translations are in metres.

    Returns:
        The table.
    """
    truth = trajectories[GROUND_TRUTH]
    estimates = {method: poses for method, poses in trajectories.items() if method != GROUND_TRUTH}
    metric = {m for m in estimates if is_metric or m == CONSTANT_VELOCITY or m.startswith(_SCALED)}
    lengths = usable_lengths(truth)
    path_m = path_length(truth)
    num_lost = sum(output.result.tracking is Tracking.LOST for output in run.outputs)
    return Task(
        name="odometry_kitti_03",
        title=f"Odometry on KITTI odometry 03, frames {run.span}",
        data=f"{len(truth)} frames, {path_m:.1f} m: validation block",
        protocol=(
            "KITTI segment errors, starts every 10 frames, lengths "
            f"{', '.join(f'{length:.0f}' for length in lengths)} m"
            + (" (the block is too short for KITTI's 100 m)" if path_m <= 100 else "")
        ),
        rows=odometry_rows(estimates, truth, metric),
        notes=[
            f"The pipeline lost track in {num_lost} of {len(truth)} frames.",
            "Constant velocity drives straight on at the true speed of the first step.",
            "Alignment is fitted on the whole block: scale only, a rigid motion (6-DoF) or a "
            "similarity (7-DoF). ate and rpe are root mean squares.",
        ],
    )


def odometry_rows(estimates: dict[str, Float64], truth: Float64, metric: set[str]) -> list[Row]:
    """Score trajectories under every alignment that makes sense for them.

    Args:
        estimates: (N, 4, 4) by method.
        truth: (N, 4, 4) metres.
        metric: Methods whose translations are in metres; only they are scored without a scale.

    Returns:
        One row per method and alignment, which it names.
    """
    rows: list[Row] = []
    for method, poses in estimates.items():
        for alignment in ALIGNMENTS:
            if alignment in ("none", "6dof") and method not in metric:
                continue
            if alignment != "none" and stands_still(poses):
                continue
            score = odometry_metrics(poses, truth, alignment)
            rows.append(
                {
                    "method": method,
                    "alignment": _ALIGNMENT_NAMES[alignment],
                    "t_err_percent": score.t_err_percent,
                    "r_err_deg_per_100m": score.r_err_deg_per_100m,
                    "ate_m": score.ate_m,
                    "rpe_m": score.rpe_translation_m,
                    "rpe_deg": score.rpe_rotation_deg,
                    "scale": score.scale,
                    "segments": score.num_segments,
                }
            )
    return rows


def _truth(run: Recorded) -> Float64:
    if run.sequence.poses is None:
        raise DataError(f"{run.sequence.name} has no ground truth poses")
    return relative_to_first(run.sequence.poses)
