"""Trajectory errors: KITTI's segment errors, absolute and relative errors, and alignment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError, ShapeError

Float64 = npt.NDArray[np.float64]

Alignment = Literal["none", "scale", "6dof", "7dof"]
ALIGNMENTS: tuple[Alignment, ...] = ("none", "scale", "6dof", "7dof")

KITTI_LENGTHS_M = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
SHORT_LENGTHS_M = (10.0, 20.0, 30.0, 40.0, 50.0)
SEGMENT_START_STEP = 10


@dataclass(frozen=True)
class OdometryMetrics:
    """Errors of a trajectory.

    Attributes:
        t_err_percent: Mean translation error of the segments, per cent of their length.
        r_err_deg_per_100m: Mean rotation error of the segments, degrees per 100 m.
        num_segments: Number of segments in both means.
        lengths_m: Segment lengths that were used.
        ate_m: Root mean square of the position error after alignment, metres.
        rpe_translation_m: Root mean square error of the steps between frames, metres.
        rpe_rotation_deg: The same for their rotation angle, degrees.
        alignment: "none", "scale", "6dof" or "7dof", see :func:`align`.
        scale: Factor that the alignment put on the estimate.
    """

    t_err_percent: float
    r_err_deg_per_100m: float
    num_segments: int
    lengths_m: tuple[float, ...]
    ate_m: float
    rpe_translation_m: float
    rpe_rotation_deg: float
    alignment: Alignment
    scale: float


def odometry_metrics(
    estimate: Float64,
    truth: Float64,
    alignment: Alignment,
    lengths_m: tuple[float, ...] | None = None,
    start_step: int = SEGMENT_START_STEP,
) -> OdometryMetrics:
    """Score a trajectory.

    Args:
        estimate: (N, 4, 4) T_world_cam.
        truth: (N, 4, 4) T_world_cam, metres.
        alignment: How the estimate is fitted to the truth first.
        lengths_m: Segment lengths; None takes those of KITTI, or the short ones where the path is
            no longer than KITTI's shortest.
        start_step: Segments start at every n-th frame; KITTI's is 10.

    Returns:
        The errors. Without any segment t_err and r_err are NaN.

    Raises:
        ShapeError: The trajectories are not (N, 4, 4) of one length N >= 2.
        DataError: A pose is not finite, or the estimate stands still and cannot be aligned.
    """
    _check(estimate, truth)
    estimate, truth = relative_to_first(estimate), relative_to_first(truth)
    estimate, scale = align(estimate, truth, alignment)
    if lengths_m is None:
        lengths_m = default_lengths(truth)
    segments = segment_errors(estimate, truth, lengths_m, start_step)
    translation, rotation = (
        (float(segments[:, 1].mean()), float(segments[:, 2].mean()))
        if len(segments)
        else (float("nan"), float("nan"))
    )
    steps = np.linalg.inv(_steps(truth)) @ _steps(estimate)
    return OdometryMetrics(
        t_err_percent=translation * 100,
        r_err_deg_per_100m=float(np.degrees(rotation)) * 100,
        num_segments=len(segments),
        lengths_m=tuple(sorted({float(length) for length in segments[:, 0]})),
        ate_m=_rms(np.linalg.norm(estimate[:, :3, 3] - truth[:, :3, 3], axis=1)),
        rpe_translation_m=_rms(np.linalg.norm(steps[:, :3, 3], axis=1)),
        rpe_rotation_deg=float(np.degrees(_rms(rotation_angles(steps)))),
        alignment=alignment,
        scale=scale,
    )


def relative_to_first(poses: Float64) -> Float64:
    """Return the trajectory in the frame of its first pose, (N, 4, 4)."""
    return np.asarray(np.linalg.inv(poses[0]) @ poses, np.float64)


def trajectory_from_steps(steps: Float64) -> Float64:
    """Chain steps ``T_prev_cur``, (N, 4, 4), to poses ``T_first_cur``, (N + 1, 4, 4)."""
    poses = [np.eye(4)]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def write_kitti_poses(path: Path, poses: Float64) -> None:
    """Write a trajectory (N, 4, 4) as KITTI does: T_world_cam without its last row, 12 numbers.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        np.savetxt(path, poses[:, :3].reshape(len(poses), 12), fmt="%.12g")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def align(estimate: Float64, truth: Float64, alignment: Alignment) -> tuple[Float64, float]:
    """Fit an estimate to the truth.

    "scale" keeps the common first pose and scales translations by least squares over positions.
    "7dof" is the similarity of Umeyama, PAMI 1991, over positions; "6dof" the same without scale,
    for estimates in metres. "none" changes nothing.

    Args:
        estimate: (N, 4, 4), first pose the identity.
        truth: (N, 4, 4), first pose the identity.
        alignment: Which.

    Returns:
        The aligned estimate, (N, 4, 4), and the scale.

    Raises:
        DataError: The estimate stands still, so it cannot be fitted; or the alignment is unknown.
    """
    if alignment not in ALIGNMENTS:
        raise DataError(f"unknown alignment {alignment!r}: choose from {', '.join(ALIGNMENTS)}")
    aligned = estimate.copy()
    if alignment == "none":
        return aligned, 1.0
    positions, expected = estimate[:, :3, 3], truth[:, :3, 3]
    if stands_still(estimate):
        raise DataError("the estimated trajectory stands still; it cannot be fitted to the truth")
    if alignment == "scale":
        scale = float((positions * expected).sum() / (positions**2).sum())
        aligned[:, :3, 3] *= scale
        return aligned, scale
    centred = positions - positions.mean(axis=0)
    centred_truth = expected - expected.mean(axis=0)
    u, singular, vt = np.linalg.svd(centred_truth.T @ centred)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((singular * signs).sum() / (centred**2).sum()) if alignment == "7dof" else 1.0
    T_truth_estimate = np.eye(4)
    T_truth_estimate[:3, :3] = rotation
    T_truth_estimate[:3, 3] = expected.mean(axis=0) - scale * rotation @ positions.mean(axis=0)
    aligned[:, :3, 3] *= scale
    return np.asarray(T_truth_estimate @ aligned, np.float64), scale


def stands_still(poses: Float64) -> bool:
    """Tell whether a trajectory never leaves its place, so that no scale can be fitted to it."""
    return bool(np.ptp(poses[:, :3, 3], axis=0).max() == 0)


def path_length(poses: Float64) -> float:
    """Return the length of a trajectory (N, 4, 4), in the unit of its positions."""
    return float(_distances(poses)[-1])


def default_lengths(truth: Float64) -> tuple[float, ...]:
    """Return KITTI's segment lengths, or short ones where the path allows none of KITTI's."""
    return KITTI_LENGTHS_M if path_length(truth) > KITTI_LENGTHS_M[0] else SHORT_LENGTHS_M


def usable_lengths(truth: Float64) -> tuple[float, ...]:
    """Return those of the default lengths that fit into the path at least once."""
    return tuple(x for x in default_lengths(truth) if x < path_length(truth))


def segment_errors(
    estimate: Float64,
    truth: Float64,
    lengths_m: tuple[float, ...] = KITTI_LENGTHS_M,
    start_step: int = SEGMENT_START_STEP,
) -> Float64:
    """Compute the errors of all path segments, as the KITTI odometry benchmark does.

    A segment starts at every ``start_step``-th frame and ends at the first frame whose true path
    is longer than the segment's length (Geiger et al., CVPR 2012).

    Args:
        estimate: (N, 4, 4) T_world_cam, metres.
        truth: (N, 4, 4) T_world_cam, metres.
        lengths_m: Segment lengths.
        start_step: Frames between starts.

    Returns:
        (S, 3) float64: length in metres, translation error per metre, rotation error in radians
        per metre.
    """
    distances = _distances(truth)
    rows = []
    for start in range(0, len(truth), start_step):
        for length in lengths_m:
            end = int(np.searchsorted(distances, distances[start] + length, side="right"))
            if end == len(truth):
                continue
            moved = np.linalg.inv(estimate[start]) @ estimate[end]
            moved_truth = np.linalg.inv(truth[start]) @ truth[end]
            error = np.linalg.inv(moved) @ moved_truth
            rows.append(
                (
                    length,
                    np.linalg.norm(error[:3, 3]) / length,
                    _angle_from_trace(error) / length,
                )
            )
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def rotation_angles(transforms: Float64) -> Float64:
    """Return the rotation angles of (N, 4, 4) motions, (N,) radians in [0, pi].

    From sine and cosine together: the trace alone loses small angles where rotations were rounded,
    as those in pose files are.
    """
    rotation = transforms[:, :3, :3]
    cosine = (np.trace(rotation, axis1=1, axis2=2) - 1) / 2
    twice = np.stack([rotation[:, i, j] - rotation[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))])
    return np.asarray(np.arctan2(np.linalg.norm(twice, axis=0) / 2, cosine), np.float64)


def _angle_from_trace(transform: Float64) -> float:
    """Return the rotation angle as KITTI's program does, which alone compares with its numbers."""
    return float(np.arccos(np.clip((np.trace(transform[:3, :3]) - 1) / 2, -1, 1)))


def _steps(poses: Float64) -> Float64:
    return np.asarray(np.linalg.inv(poses[:-1]) @ poses[1:], np.float64)


def _distances(poses: Float64) -> Float64:
    lengths = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(lengths)])


def _rms(values: Float64) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _check(estimate: Float64, truth: Float64) -> None:
    if estimate.shape != truth.shape or truth.ndim != 3 or truth.shape[1:] != (4, 4):
        raise ShapeError(
            f"trajectories must both be (N, 4, 4), got {estimate.shape} and {truth.shape}"
        )
    if len(truth) < 2:
        raise ShapeError(f"a trajectory needs at least 2 poses, got {len(truth)}")
    for name, poses in (("estimated", estimate), ("true", truth)):
        if not np.isfinite(poses).all():
            raise DataError(f"the {name} trajectory has poses that are not finite")
