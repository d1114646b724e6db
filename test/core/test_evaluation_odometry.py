"""Trajectory scores against cases worked by hand and against evo."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from coopnet_core.errors import DataError, ShapeError
from coopnet_core.evaluation.baselines import constant_velocity
from coopnet_core.evaluation.odometry_metrics import (
    align,
    default_lengths,
    odometry_metrics,
    path_length,
    relative_to_first,
    segment_errors,
    trajectory_from_steps,
)

Float64 = npt.NDArray[np.float64]


def _yaw(angle: float) -> Float64:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _drive(num: int, step_m: float = 1.0, yaw_per_step: float = 0.0) -> Float64:
    step = np.eye(4)
    step[:3, :3] = _yaw(yaw_per_step)
    step[2, 3] = step_m
    return trajectory_from_steps(np.repeat(step[None], num - 1, axis=0))


def _wobbly(num: int, seed: int) -> Float64:
    rng = np.random.default_rng(seed)
    poses = _drive(num, 1.0, 0.01)
    for pose in poses[1:]:
        pose[:3, 3] += rng.normal(0, 0.1, 3)
        pose[:3, :3] = pose[:3, :3] @ _yaw(rng.normal(0, 0.02))
    return poses


def test_perfect_odometry_has_no_error() -> None:
    truth = _drive(300, 1.0, 0.01)
    for alignment in ("none", "scale", "7dof"):
        score = odometry_metrics(truth, truth, alignment)
        assert score.t_err_percent == pytest.approx(0, abs=1e-6)
        assert score.ate_m == pytest.approx(0, abs=1e-6)
        assert score.scale == pytest.approx(1)
    assert score.lengths_m == (100.0, 200.0)


def test_ten_per_cent_too_far_is_ten_per_cent() -> None:
    truth = _drive(400)
    score = odometry_metrics(_drive(400, 1.1), truth, "none")
    # A segment ends at the first frame beyond its length, so 101 m count as 100 m.
    expected = np.mean([0.1 * (length + 1) / length for length in (100, 200, 300)])
    counts = [len(range(0, 400 - length - 1, 10)) for length in (100, 200, 300)]
    weighted = np.average(
        [0.1 * (length + 1) / length for length in (100, 200, 300)], weights=counts
    )
    assert score.t_err_percent == pytest.approx(100 * weighted)
    assert score.t_err_percent == pytest.approx(100 * expected, rel=0.01)
    assert score.num_segments == sum(counts)
    assert score.r_err_deg_per_100m == pytest.approx(0, abs=1e-6)
    assert odometry_metrics(_drive(400, 1.1), truth, "scale").t_err_percent == pytest.approx(0)


def test_constant_yaw_drift_is_the_rotation_error() -> None:
    truth = _drive(150)
    score = odometry_metrics(_drive(150, 1.0, np.radians(0.02)), truth, "none")
    assert score.r_err_deg_per_100m == pytest.approx(0.02 * 101)
    assert score.rpe_rotation_deg == pytest.approx(0.02)


def test_the_length_of_a_path_is_that_of_its_steps() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, :3, 3] = poses[2, :3, 3] = 3.0, 0.0, 4.0
    poses[2, 1, 3] = 2.0
    assert path_length(poses) == pytest.approx(7.0)


def test_short_paths_use_short_segments() -> None:
    truth = _drive(60)
    assert default_lengths(truth) == (10, 20, 30, 40, 50)
    score = odometry_metrics(_drive(60, 2.0), truth, "none")
    assert score.lengths_m == (10, 20, 30, 40, 50)
    tiny = odometry_metrics(_drive(4), _drive(4), "none")
    assert tiny.num_segments == 0
    assert np.isnan(tiny.t_err_percent)


def test_segments_start_every_ten_frames() -> None:
    truth = _drive(131)
    rows = segment_errors(truth, truth, (100.0,))
    assert len(rows) == 3  # starts 0, 10, 20; 101 frames on
    assert len(segment_errors(truth, truth, (100.0,), start_step=1)) == 30


def test_alignments_undo_what_they_name() -> None:
    truth = relative_to_first(_wobbly(100, 1))
    scaled = truth.copy()
    scaled[:, :3, 3] /= 3
    aligned, scale = align(scaled, truth, "scale")
    assert scale == pytest.approx(3)
    np.testing.assert_allclose(aligned, truth, atol=1e-9)
    turned = np.eye(4)
    turned[:3, :3] = _yaw(0.5)
    moved = relative_to_first(scaled)
    moved = turned @ moved
    aligned, scale = align(moved, truth, "7dof")
    assert scale == pytest.approx(3)
    np.testing.assert_allclose(aligned, truth, atol=1e-9)
    same, scale = align(moved, truth, "none")
    np.testing.assert_array_equal(same, moved)
    assert scale == 1


def test_against_evo() -> None:
    pytest.importorskip("evo", reason="evo is the oracle for ATE and RPE")
    from evo.core import metrics
    from evo.core.trajectory import PosePath3D

    truth, estimate = relative_to_first(_wobbly(120, 2)), relative_to_first(_wobbly(120, 3))
    estimate[:, :3, 3] *= 0.4
    reference = PosePath3D(poses_se3=list(truth))

    plain = PosePath3D(poses_se3=list(estimate))
    ours = odometry_metrics(estimate, truth, "none")
    for relation, expected in (
        (metrics.PoseRelation.translation_part, ours.rpe_translation_m),
        (metrics.PoseRelation.rotation_angle_deg, ours.rpe_rotation_deg),
    ):
        rpe = metrics.RPE(relation, 1, metrics.Unit.frames)
        rpe.process_data((reference, plain))
        assert rpe.get_statistic(metrics.StatisticsType.rmse) == pytest.approx(expected, rel=1e-6)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, plain))
    assert ape.get_statistic(metrics.StatisticsType.rmse) == pytest.approx(ours.ate_m)

    fitted = PosePath3D(poses_se3=list(estimate))
    _, _, scale = fitted.align(reference, correct_scale=True)
    ours = odometry_metrics(estimate, truth, "7dof")
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, fitted))
    assert ape.get_statistic(metrics.StatisticsType.rmse) == pytest.approx(ours.ate_m)
    assert scale == pytest.approx(ours.scale)


def test_7dof_does_not_mirror() -> None:
    truth = relative_to_first(_wobbly(50, 4))
    mirrored = truth.copy()
    mirrored[:, 0, 3] *= -1
    aligned, _ = align(mirrored, truth, "7dof")
    assert np.linalg.det(aligned[7, :3, :3]) == pytest.approx(1)


def test_bad_trajectories_are_refused() -> None:
    truth = _drive(5)
    with pytest.raises(ShapeError, match=r"\(N, 4, 4\)"):
        odometry_metrics(truth[:4], truth, "none")
    with pytest.raises(ShapeError, match="at least 2"):
        odometry_metrics(truth[:1], truth[:1], "none")
    with pytest.raises(DataError, match="not finite"):
        odometry_metrics(truth * np.nan, truth, "none")
    with pytest.raises(DataError, match="stands still"):
        odometry_metrics(np.repeat(np.eye(4)[None], 5, axis=0), truth, "scale")
    with pytest.raises(DataError, match="choose from none, scale, 6dof, 7dof"):
        align(truth, truth, "sim3")  # type: ignore[arg-type]


def test_constant_velocity_goes_straight() -> None:
    poses = constant_velocity(0.5, 5)
    np.testing.assert_allclose(poses[:, 2, 3], [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(poses[:, :3, :3], np.repeat(np.eye(3)[None], 5, axis=0))
