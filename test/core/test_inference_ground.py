"""The camera's height over the ground, and what is not ground."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ground_scene import CAMERA, HEIGHT_M, LEVEL, Plane, drive, forward_of, lost, rays, tilted

from coopnet_core.errors import ConfigError, InputError
from coopnet_core.inference.ground_normal import GroundNormal
from coopnet_core.inference.ground_plane import GroundConfig, fit_plane, measure_ground
from coopnet_core.inference.pipeline import FrameResult

CONFIG = GroundConfig()


def strip(down: np.ndarray = LEVEL) -> np.ndarray:
    """The pixels of the strip ahead, worked out anew."""
    ray = rays()
    sink = np.maximum(ray @ down, 1e-9)
    side = np.abs(ray @ np.cross(down, forward_of(down))) / sink
    return (ray @ down > 0) & (ray @ forward_of(down) / sink < CONFIG.length) & (side < 1)


def with_depth(frame: FrameResult, where: np.ndarray, factor: float) -> FrameResult:
    return replace(frame, depth=np.where(where, frame.depth * factor, frame.depth))


@pytest.mark.parametrize("pitch_deg", [-4.0, 0.0, 20.0, 75.0])
@pytest.mark.parametrize("roll_deg", [0.0, 5.0])
@pytest.mark.parametrize("yaw", [0.0, 0.05])
def test_any_camera_finds_its_height(pitch_deg: float, roll_deg: float, yaw: float) -> None:
    down = tilted(pitch_deg, roll_deg)
    ground = measure_ground(drive(down, yaw=yaw, unit_m=2.5), down, CONFIG)
    assert ground.reason == ""
    assert ground.is_by_parallax
    assert ground.height == pytest.approx(HEIGHT_M / 2.5, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_noise_hardly_matters(seed: int) -> None:
    frame = drive(noise_px=0.3, depth_noise=0.05, seed=seed)
    assert measure_ground(frame, LEVEL, CONFIG).height == pytest.approx(HEIGHT_M, rel=0.05)


def test_asphalt_that_depth_puts_too_far_away_does_not_change_the_height() -> None:
    frame = with_depth(drive(), strip(), 1.15)
    assert measure_ground(frame, LEVEL, CONFIG).height == pytest.approx(HEIGHT_M, rel=1e-3)


def test_things_that_move_are_left_out() -> None:
    moving = strip() & (np.arange(CAMERA.width) < 90)
    assert 0.2 < moving[strip()].mean() < 0.45
    assert drive().flow is not None
    frame = with_depth(drive(noise_px=0.2), moving, 0.5)
    flow = np.where(moving[..., None], 20.0, frame.flow).astype(np.float32)
    masked = replace(frame, motion_mask=moving, flow=flow)
    assert measure_ground(masked, LEVEL, CONFIG).height == pytest.approx(HEIGHT_M, rel=0.05)
    hidden = replace(masked, motion_mask=strip() & (np.arange(CAMERA.width) < 115))
    ground = measure_ground(hidden, LEVEL, CONFIG)
    assert ground.height is None
    assert "the road is hidden" in ground.reason


def test_the_rear_of_a_car_ahead_is_not_the_ground_and_does_not_hide_it() -> None:
    car = Plane(np.array([0.0, 0.0, 1.0]), 9.0)
    ground = measure_ground(drive(others=[car]), LEVEL, CONFIG)
    assert ground.height == pytest.approx(HEIGHT_M, rel=0.02)


@pytest.mark.parametrize("yaw_deg", [0.0, 30.0])
def test_a_wall_is_no_ground(yaw_deg: float) -> None:
    angle = np.radians(yaw_deg)
    wall = Plane(np.array([np.sin(angle), 0.0, np.cos(angle)]), 3.0)
    ground = measure_ground(drive(others=[wall], step_m=0.3), LEVEL, CONFIG)
    assert ground.height is None
    assert "tilted by" in ground.reason


@pytest.mark.parametrize("rise_deg", [15.0, 30.0])
def test_a_ramp_is_no_ground(rise_deg: float) -> None:
    angle = np.radians(rise_deg)
    normal = np.array([0.0, np.cos(angle), np.sin(angle)])
    ramp = Plane(normal, float(normal @ [0.0, HEIGHT_M, 5.0]))
    ground = measure_ground(drive(others=[ramp]), LEVEL, CONFIG)
    assert ground.height is None
    assert "a ramp" in ground.reason


def test_a_table_has_the_floor_beside_it() -> None:
    down = tilted(20)
    ray = rays()
    on_table = np.abs(ray[..., 0]) < 1.1 * (ray @ down)
    table = Plane(down, 0.5, on_table)
    ground = measure_ground(drive(down, others=[table], step_m=0.2), down, CONFIG)
    assert ground.height is None
    assert "not the lowest surface" in ground.reason


def test_rubble_is_no_plane() -> None:
    ground = measure_ground(drive(depth_noise=0.6), LEVEL, replace(CONFIG, max_tilt_deg=45))
    assert ground.height is None
    assert "lies on one plane" in ground.reason


def test_flow_that_contradicts_itself_gives_no_height() -> None:
    ground = measure_ground(drive(noise_px=4.0), LEVEL, CONFIG)
    assert ground.height is None
    assert "flow on the road" in ground.reason


@pytest.mark.parametrize(("step_m", "reason"), [(0.0, "standing still"), (0.005, "too slow")])
def test_without_parallax_depth_has_to_do(step_m: float, reason: str) -> None:
    ground = measure_ground(drive(step_m=step_m, unit_m=3.0), LEVEL, CONFIG)
    assert not ground.is_by_parallax
    assert ground.height == pytest.approx(HEIGHT_M / 3, rel=1e-4)
    assert reason in ground.reason


def test_a_camera_that_looks_at_the_sky_sees_no_ground() -> None:
    ground = measure_ground(drive(tilted(-40)), tilted(-40), CONFIG)
    assert ground.height is None
    assert "check its mounting" in ground.reason


def test_no_step_or_no_depth_is_said() -> None:
    assert "lost" in measure_ground(lost(), LEVEL, CONFIG).reason
    blind = replace(drive(), depth=np.full((CAMERA.height, CAMERA.width), np.nan, np.float32))
    assert "0% of the strip" in measure_ground(blind, LEVEL, CONFIG).reason
    with pytest.raises(InputError, match="'flow'"):
        measure_ground(replace(drive(), flow=None), LEVEL, CONFIG)


def test_a_plane_is_found_among_a_third_of_outliers() -> None:
    rng = np.random.default_rng(5)
    true = np.array([0.02, 0.99, -0.1]) / 1.4
    ray = np.stack([rng.uniform(-0.3, 0.3, 900), rng.uniform(0.15, 0.3, 900), np.ones(900)], axis=1)
    points = ray / (ray @ true)[:, None] * rng.normal(1, 0.03, 900)[:, None]
    points[:300] *= rng.uniform(0.3, 0.7, 300)[:, None]
    plane, fraction = fit_plane(points, LEVEL, 0.1)
    assert 1 / np.linalg.norm(plane) == pytest.approx(1.4, rel=0.05)
    assert plane @ true / np.linalg.norm(plane) / np.linalg.norm(true) > np.cos(np.radians(2))
    assert fraction == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("name", "value"),
    [("length", 0), ("min_visible", 1.1), ("max_tilt_deg", np.nan), ("plane_tolerance", -1)],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name} must be between .* got"):
        GroundConfig(**{name: value})


# Which way is down


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def travel(normal: GroundNormal, down: np.ndarray, steps: int, nod_deg: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        frame = drive(down, yaw=rng.normal(0, 0.03))
        step = frame.T_prev_cur
        assert step is not None
        step[:3, 3] += 0.8 * np.radians(rng.normal(0, nod_deg)) * down
        normal.update(step, frame.pose_covariance)


def test_driving_tells_the_pitch_of_a_camera_of_unknown_mounting() -> None:
    normal = GroundNormal()
    np.testing.assert_array_equal(normal.down, LEVEL)
    travel(normal, tilted(6), steps=60, nod_deg=0.7, seed=1)
    assert angle_deg(normal.down, tilted(6)) < 0.4


def test_driving_corrects_the_pitch_of_the_mounting_and_keeps_its_roll() -> None:
    # The mounting's rows are the base's axes in the camera: the last one points up.
    down = tilted(3, 8)
    forward = forward_of(down)
    R_base_cam = np.stack([forward, np.cross(-down, forward), -down])
    normal = GroundNormal(R_base_cam)
    np.testing.assert_allclose(normal.down, down, atol=1e-9)
    travel(normal, tilted(5, 8), steps=60, nod_deg=0.5, seed=2)
    assert angle_deg(normal.down, tilted(5, 8)) < 0.4


def test_a_few_wrong_steps_do_not_turn_the_ground() -> None:
    normal = GroundNormal()
    travel(normal, LEVEL, steps=40, nod_deg=0.5, seed=3)
    upwards = np.eye(4)
    upwards[:3, 3] = 0.0, -0.5, 0.8
    for _ in range(4):
        normal.update(upwards, np.eye(6) * 1e-4)
    assert angle_deg(normal.down, LEVEL) < 0.7


def test_standing_still_says_nothing_about_the_ground() -> None:
    normal = GroundNormal()
    normal.update(np.eye(4), np.eye(6))
    np.testing.assert_array_equal(normal.down, LEVEL)


def test_a_mounting_that_is_no_rotation_is_refused() -> None:
    with pytest.raises(ConfigError, match="rotation"):
        GroundNormal(np.eye(3) * 2)
    with pytest.raises(ConfigError, match="rotation"):
        GroundNormal(np.eye(4))
