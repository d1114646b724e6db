"""One scale for depth, points and odometry: where it comes from, how it lasts, what it moves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ground_scene import HEIGHT_M, LEVEL, Plane, drive, lost, tilted

from coopnet_core.errors import ConfigError, InputError
from coopnet_core.inference import rigid
from coopnet_core.inference.metric_scale import (
    MetricScale,
    MetricScaleConfig,
    ScaleState,
    ScaleStatus,
    apply_scale,
    distance_of_camera,
)
from coopnet_core.inference.pipeline import FrameResult
from coopnet_core.inference.pose_covariance import SCALE_ERROR
from coopnet_core.inference.scale_filter import ScaleFilter

UNIT_M = 2.5
BY_HEIGHT = MetricScaleConfig(mode="camera_height", camera_height_m=HEIGHT_M)
BY_WHEELS = MetricScaleConfig(mode="odometry")


def run(scale: MetricScale, frames: int, wheels_m: float | None = None, **scene: Any) -> ScaleState:
    scene = {"unit_m": UNIT_M, "noise_px": 0.2, "depth_noise": 0.03, **scene}
    for seed in range(frames):
        state = scale.update(drive(seed=seed, **scene), wheels_m)
    return state


def known(factor: float, relative_sigma: float = 0.0) -> ScaleState:
    return ScaleState(factor, True, "fixed", relative_sigma, 0, ScaleStatus.UPDATED, "")


# Sources


@pytest.mark.parametrize("is_metric", [False, True])
def test_without_a_source_only_a_metric_bundle_gives_metres(is_metric: bool) -> None:
    state = MetricScale(MetricScaleConfig(), is_metric).update(drive())
    assert state.factor == 1
    assert state.is_metric is is_metric
    assert state.source == ("bundle" if is_metric else "none")
    # How far the unit of depth varies along the way: odometry must say so.
    assert state.relative_sigma == MetricScaleConfig().depth_sigma
    assert state.variance == state.relative_sigma**2


def test_a_fixed_scale_is_what_it_is() -> None:
    config = MetricScaleConfig(mode="fixed", fixed=3.0, fixed_sigma=0.1)
    state = MetricScale(config, False).update(lost())
    assert (state.factor, state.is_metric, state.source) == (3.0, True, "fixed")
    # The factor given is not all that may be wrong: depth varies along the way.
    assert state.variance == pytest.approx(9 * (0.1**2 + config.depth_sigma**2))


@pytest.mark.parametrize("pitch_deg", [0.0, 8.0])
@pytest.mark.parametrize("is_metric", [False, True])
def test_camera_height_finds_the_scale_whatever_the_tilt(pitch_deg: float, is_metric: bool) -> None:
    scale = MetricScale(BY_HEIGHT, is_metric)
    state = run(scale, 4, down=tilted(pitch_deg))
    assert state.status is ScaleStatus.WAITING
    assert state.reason == "4 of 5 observations"
    # Until then depth is what the bundle says.
    assert (state.factor, state.is_metric) == (1.0, is_metric)
    state = run(scale, 12, down=tilted(pitch_deg))
    assert (state.status, state.reason) == (ScaleStatus.UPDATED, "")
    assert (state.source, state.is_metric, state.num_observations) == ("camera_height", True, 7)
    assert state.factor == pytest.approx(UNIT_M, rel=0.03)
    assert abs(math.log(state.factor / UNIT_M)) < 2 * state.relative_sigma < 0.2
    assert state.variance == pytest.approx((state.factor * state.relative_sigma) ** 2)


def test_the_mounting_is_where_down_is_at_first() -> None:
    down = tilted(25)
    forward = np.cross(np.array([1.0, 0.0, 0.0]), down)
    R_base_cam = np.stack([forward, np.cross(-down, forward), -down])
    state = run(MetricScale(BY_HEIGHT, False, R_base_cam), 6, down=down, step_m=0.3)
    assert state.factor == pytest.approx(UNIT_M, rel=0.03)


def test_a_robot_that_has_not_moved_yet_has_the_scale_of_its_depth() -> None:
    scale = MetricScale(BY_HEIGHT, False)
    state = run(scale, 6, step_m=0.0)
    assert state.factor == pytest.approx(UNIT_M, rel=0.03)
    assert state.is_metric
    assert state.relative_sigma >= 0.1
    assert "depth alone" in state.reason
    # Parallax knows better, however long depth has been looked at.
    biased = [drive(unit_m=UNIT_M, seed=seed) for seed in range(6)]
    biased = [replace(frame, depth=frame.depth * np.float32(1.3)) for frame in biased]
    for frame in biased:
        state = scale.update(frame)
    assert state.factor == pytest.approx(UNIT_M, rel=0.03)
    assert (state.reason, state.num_observations) == ("", 6)


def test_wheel_odometry_gives_the_scale() -> None:
    scale = MetricScale(BY_WHEELS, False)
    assert run(scale, 1, wheels_m=0.8).status is ScaleStatus.WAITING
    state = run(scale, 6, wheels_m=0.8)
    assert (state.source, state.status) == ("odometry", ScaleStatus.UPDATED)
    assert state.factor == pytest.approx(UNIT_M, rel=1e-6)
    assert 0 < state.relative_sigma < 0.05


def test_a_slow_robot_gathers_distance_first() -> None:
    scale = MetricScale(BY_WHEELS, False)
    state = run(scale, 2, wheels_m=0.02, step_m=0.02)
    assert "only 0.040 m" in state.reason
    state = run(scale, 13, wheels_m=0.02, step_m=0.02)
    assert state.num_observations == 5
    assert state.factor == pytest.approx(UNIT_M, rel=1e-6)


def test_the_camera_goes_further_than_the_base_in_a_turn() -> None:
    T_base_cam = np.eye(4)
    T_base_cam[:3, 3] = 2.0, 0.0, 1.0
    turn = rigid.exp(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.1]))
    assert distance_of_camera(turn, T_base_cam) == pytest.approx(0.2, rel=1e-3)
    assert distance_of_camera(np.eye(4), T_base_cam) == 0


# Robust over time


@pytest.mark.parametrize(
    ("frame", "wheels_m", "reason"),
    [
        (drive(step_m=0.0), 0.0, "still"),
        (lost(), 0.8, "lost"),
        (drive(others=[Plane(np.array([0.0, 0.0, 1.0]), 3.0)], step_m=0.3), None, ""),
        (drive(height_m=0.6, unit_m=UNIT_M), 3.0, "too far from"),
    ],
    ids=["standing still", "lost", "wall, no wheels", "another ground, slip"],
)
@pytest.mark.parametrize("config", [BY_HEIGHT, BY_WHEELS], ids=["height", "wheels"])
def test_what_says_nothing_holds_the_scale(
    config: MetricScaleConfig, frame: FrameResult, wheels_m: float | None, reason: str
) -> None:
    scale = MetricScale(config, False)
    before = run(scale, 11, wheels_m=0.8)
    state = scale.update(frame, wheels_m)
    assert state.status is ScaleStatus.HELD
    assert (state.factor, state.is_metric) == (before.factor, True)
    assert state.reason
    assert reason in state.reason


def test_wheels_that_slip_do_not_move_the_scale() -> None:
    scale = MetricScale(BY_WHEELS, False)
    run(scale, 6, wheels_m=0.8)
    state = scale.update(drive(step_m=0.0), 0.5)
    assert state.status is ScaleStatus.HELD
    assert "stood still: slip?" in state.reason


def test_a_held_scale_grows_uncertain_while_driving_but_not_while_standing() -> None:
    scale = MetricScale(BY_WHEELS, False)
    sigmas = [run(scale, 11, wheels_m=0.8).relative_sigma]
    sigmas.append(run(scale, 20, wheels_m=0.0, step_m=0.0).relative_sigma)
    sigmas.append(run(scale, 20).relative_sigma)
    assert sigmas[0] == sigmas[1]
    assert 2 * sigmas[0] < sigmas[2] < 0.15
    assert run(scale, 60).relative_sigma < 0.15


def test_scattered_outliers_do_not_move_the_median() -> None:
    scale = MetricScale(BY_WHEELS, False)
    rng = np.random.default_rng(4)
    for number in range(60):
        wrong = number % 3 == 1
        state = scale.update(drive(unit_m=UNIT_M), 0.8 * (1.35 if wrong else rng.normal(1, 0.02)))
    assert state.factor == pytest.approx(UNIT_M, rel=0.03)
    assert state.relative_sigma > 0.03


def test_the_scale_follows_the_scene() -> None:
    scale = MetricScale(BY_WHEELS, False)
    run(scale, 30, wheels_m=0.8)
    state = run(scale, 30, wheels_m=0.8, unit_m=1.2 * UNIT_M)
    assert state.factor == pytest.approx(1.2 * UNIT_M, rel=0.01)


def test_a_scale_that_everything_contradicts_is_given_up() -> None:
    scale = MetricScale(BY_WHEELS, False)
    run(scale, 11, wheels_m=0.8)
    patience = BY_WHEELS.patience
    state = run(scale, patience - 1, wheels_m=1.6)
    assert state.factor == pytest.approx(UNIT_M)
    state = run(scale, 1, wheels_m=1.6)
    assert (state.status, state.factor) == (ScaleStatus.UPDATED, pytest.approx(2 * UNIT_M))


def test_another_camera_starts_anew_and_so_does_reset() -> None:
    scale = MetricScale(BY_WHEELS, False)
    run(scale, 11, wheels_m=0.8)
    frame = drive()
    other = replace(frame, intrinsics=replace(frame.intrinsics, fx=200.0))
    assert scale.update(other, 0.8).status is ScaleStatus.WAITING
    run(scale, 11, wheels_m=0.8)
    scale.reset()
    assert not run(scale, 1, wheels_m=0.8).is_metric


def test_the_filter_is_a_median_in_log_space() -> None:
    chosen = ScaleFilter(window=4, min_observations=1, max_jump=9.0, patience=5)
    assert (chosen.scale, chosen.num_observations) == (None, 0)
    assert math.isnan(chosen.relative_sigma)
    for observed in (7.0, 1.0, 1.0, 4.0, 4.0):
        assert chosen.add(observed) == ""
    assert chosen.scale == pytest.approx(2.0)
    assert chosen.num_observations == 4


# Applied


def test_depth_step_and_covariance_are_scaled_together() -> None:
    frame = drive(unit_m=UNIT_M, yaw=0.05)
    scaled = apply_scale(frame, known(UNIT_M, 0.1), np.eye(4))
    np.testing.assert_allclose(scaled.depth, drive(yaw=0.05).depth, rtol=1e-5)
    assert scaled.depth.dtype == np.float32
    assert scaled.T_prev_cur is not None
    assert frame.T_prev_cur is not None
    np.testing.assert_allclose(scaled.T_prev_cur, drive(yaw=0.05).T_prev_cur, atol=1e-12)
    before, after = frame.pose_covariance, scaled.pose_covariance
    # In the axes of the current camera.
    along = scaled.T_prev_cur[:3, :3].T @ scaled.T_prev_cur[:3, 3]
    length = np.linalg.norm(along)
    assert length == pytest.approx(0.8)
    grown = after[:3, :3] - UNIT_M**2 * before[:3, :3]
    assert along @ grown @ along / length**2 == pytest.approx((0.1 * length) ** 2)
    assert grown @ np.cross(along, LEVEL) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(after[3:, 3:], before[3:, 3:])
    assert np.linalg.eigvalsh(after).min() > 0
    assert scaled.egomotion is not None
    np.testing.assert_array_equal(scaled.egomotion.T_prev_cur, scaled.T_prev_cur)
    # The frame itself is as it was.
    assert np.linalg.norm(frame.T_prev_cur[:3, 3]) == pytest.approx(0.8 / UNIT_M)
    assert scaled.flow is frame.flow


def test_a_scale_that_changes_leaves_the_past_where_it_is() -> None:
    T_odom_cam = np.eye(4)
    for factor in (1.0, 2.0, 3.0):
        T_odom_cam = apply_scale(drive(), known(factor), T_odom_cam).T_odom_cam
    np.testing.assert_allclose(T_odom_cam[:3, 3], [0, 0, 0.8 * (1 + 2 + 3)], atol=1e-12)


def test_a_lost_frame_holds_the_pose_and_scales_depth() -> None:
    T_odom_cam = rigid.exp(np.array([1.0, 2.0, 3.0, 0.1, 0.2, 0.3]))
    scaled = apply_scale(lost(), known(2.0, 0.1), T_odom_cam)
    np.testing.assert_array_equal(scaled.T_odom_cam, T_odom_cam)
    assert scaled.T_prev_cur is None
    np.testing.assert_array_equal(scaled.pose_covariance, lost().pose_covariance)
    np.testing.assert_array_equal(scaled.depth, 2 * lost().depth)


def test_a_second_scale_takes_the_place_of_the_first_ones_uncertainty() -> None:
    once = apply_scale(drive(), known(2.0, 0.05), np.eye(4))
    before = apply_scale(drive(), known(1.0, 0.3), np.eye(4))
    twice = apply_scale(before, known(2.0, 0.05), np.eye(4))
    np.testing.assert_allclose(twice.pose_covariance, once.pose_covariance, atol=1e-15)
    np.testing.assert_allclose(twice.shared_errors, once.shared_errors)
    assert np.linalg.norm(once.shared_errors[:, SCALE_ERROR]) == pytest.approx(0.05 * 1.6)
    assert once.egomotion is not None
    np.testing.assert_array_equal(once.egomotion.shared_errors, once.shared_errors)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "gps"}, "unknown scale mode 'gps': choose of none, fixed, camera_height, odom"),
        ({"mode": "camera_height"}, "needs camera_height_m"),
        ({"mode": "camera_height", "camera_height_m": -1.0}, "camera_height_m must be between"),
        ({"fixed": 0.0}, "fixed must be between"),
        ({"fixed": math.nan}, "fixed must be between"),
        ({"wheel_sigma": 2.0}, "wheel_sigma must be between"),
        ({"window": 3, "min_observations": 5}, "min_observations must be between 1 and 3"),
        ({"patience": 1}, "patience must be between"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetricScaleConfig(**settings)


@pytest.mark.parametrize("distance", [-0.1, math.nan, math.inf])
def test_an_impossible_distance_is_refused(distance: float) -> None:
    with pytest.raises(InputError, match="0 or more"):
        MetricScale(BY_WHEELS, False).update(drive(), distance)
