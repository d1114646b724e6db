"""Covariance of odometry against its errors, for single steps and for longer pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coopnet_core.evaluation.scale_run import ScaleRun
from coopnet_core.evaluation.tasks import Recorded, Row, Task
from coopnet_core.inference import rigid
from coopnet_core.inference.metric_scale import apply_scale
from coopnet_core.inference.pipeline import FrameResult
from coopnet_core.inference.pose_covariance import PoseCovariance

Float64 = npt.NDArray[np.float64]

AXES = ("x", "y", "z", "rot_x", "rot_y", "rot_z")
PIECES = (1, 30)
_STRIDE = 3
"""Between the starts of longer pieces: neighbours say nearly the same."""


def covariance_task(
    run: Recorded, poses: Float64, scaled: dict[str, ScaleRun], is_metric_bundle: bool
) -> Task:
    """Score the covariance of odometry.

    Args:
        run: The bundle's outputs on the sequence.
        poses: (N, 4, 4), the true ones in metres.
        scaled: What each source of scale made of it, by name.
        is_metric_bundle: Whether translations are in metres without any of them.

    Returns:
        The table.
    """
    results = [output.result for output in run.outputs]
    methods = {"none (the bundle's own metres)": results} if is_metric_bundle else {}
    for name, source in scaled.items():
        methods[name] = [
            apply_scale(result, state, np.eye(4))
            for result, state in zip(results, source.states, strict=True)
        ]
    return Task(
        name="covariance_kitti_03",
        title=f"Covariance of odometry on KITTI odometry 03, frames {run.span}",
        data=f"{len(results)} frames: validation block",
        protocol=(
            "fraction of the errors inside one standard deviation (0.68 is perfect) of single "
            f"steps and of all pieces of {PIECES[-1]} steps, starts every {_STRIDE} frames; "
            "nees: mean of error^T covariance^-1 error / 6 (1 is perfect)"
        ),
        rows=[
            {"method": name, "steps": length, **score_pieces(method, poses, length)}
            for name, method in methods.items()
            for length in PIECES
        ],
        notes=[
            "Camera axes: z is along the road, rot_y is yaw.",
            "Single steps hold the noise of the true poses too, which is that of the estimate's "
            "size. Simulated wheels have no error, but their covariance has that of real ones.",
        ],
    )


def score_pieces(results: list[FrameResult], poses: Float64, length: int) -> Row:
    """Compare the errors of all pieces of a trajectory with their covariance.

    Args:
        results: N frames.
        poses: (N, 4, 4), the true ones.
        length: Steps per piece. Pieces with a step that is not known are left out.

    Returns:
        For each of :data:`AXES` the fraction of errors inside one standard deviation, then
        ``nees``; NaN where there is no piece.
    """
    inside, nees = [], []
    for start in range(0, len(results) - length, 1 if length == 1 else _STRIDE):
        piece = _compose(results[start + 1 : start + length + 1])
        if piece is None:
            continue
        estimate, covariance = piece
        error = _error(estimate, rigid.invert(poses[start]) @ poses[start + length])
        inside.append(np.abs(error) < np.sqrt(np.diag(covariance)))
        nees.append(float(error @ np.linalg.solve(covariance, error)) / len(AXES))
    fractions = np.mean(inside, axis=0) if inside else np.full(len(AXES), np.nan)
    row: Row = {axis: float(value) for axis, value in zip(AXES, fractions, strict=True)}
    row["nees"] = float(np.mean(nees)) if nees else float("nan")
    return row


def _compose(results: list[FrameResult]) -> tuple[Float64, Float64] | None:
    """Return where the steps lead, and its covariance."""
    pose, covariance = np.eye(4), PoseCovariance(np.zeros((6, 6)))
    for result in results:
        if result.T_prev_cur is None:
            return None
        pose = pose @ result.T_prev_cur
        covariance.add_step(result.T_prev_cur, result.pose_covariance, result.shared_errors)
    return pose, covariance.matrix


def _error(estimate: Float64, truth: Float64) -> Float64:
    """Return the error as a twist seen from the end of the estimate, (6,)."""
    return -rigid.log(rigid.invert(estimate) @ truth)
