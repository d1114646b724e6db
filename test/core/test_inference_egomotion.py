"""Camera motion from flow and depth in a world where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flow_noise import frame_pair, spoil
from synthetic_world import camera, motion, render_pair

from coopnet_core.inference import rigid
from coopnet_core.inference.egomotion import LOST_VARIANCE, estimate_egomotion
from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.preprocess import prepare_image

CONFIG = EgomotionConfig()
NO_GUESS = [np.eye(4)]
MOTIONS = {
    "drive": motion(forward=1.0, yaw=0.01),
    "curve": motion(forward=0.6, right=0.05, yaw=-0.06, pitch=0.01),
    "turn": motion(yaw=0.05),
    "sideways": motion(right=0.3),
    "slow": motion(forward=0.12),
    "backwards": motion(forward=-0.5, yaw=0.02),
}


def errors(T_found: np.ndarray, T_true: np.ndarray) -> tuple[float, float]:
    """Translation error in metres and rotation error in degrees."""
    difference = rigid.invert(T_true) @ T_found
    return (
        float(np.linalg.norm(difference[:3, 3])),
        float(np.degrees(rigid.rotation_angle(difference))),
    )


@pytest.mark.parametrize("name", MOTIONS)
def test_exact_input_gives_the_exact_motion(name: str) -> None:
    result = estimate_egomotion(frame_pair(render_pair(MOTIONS[name])), NO_GUESS, CONFIG)
    assert result.source == "geometry"
    assert result.T_prev_cur is not None
    metres, degrees = errors(result.T_prev_cur, MOTIONS[name])
    assert metres < 1e-3
    assert degrees < 1e-3


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_noise_and_a_third_of_outliers_do_little_harm(name: str, seed: int) -> None:
    pair = render_pair(MOTIONS[name], mover_step=(0.4, 0.0, 0.3))
    pair = spoil(pair, noise_px=0.3, outliers=0.3, depth_noise=0.1, seed=seed)
    step = np.linalg.norm(MOTIONS[name][:3, 3])
    rough = frame_pair(pair)
    sharp = replace(rough, sharp_cur=pair.cur.image, sharp_prev=pair.prev.image)
    # Without images flow is all there is; a sideways step then looks much like a turn.
    for given, limit_m, limit_deg in ((rough, 0.12, 0.25), (sharp, 0.05, 0.15)):
        result = estimate_egomotion(given, NO_GUESS, CONFIG)
        assert result.source == "geometry"
        assert result.T_prev_cur is not None
        metres, degrees = errors(result.T_prev_cur, MOTIONS[name])
        assert metres < 0.02 + limit_m * step
        assert degrees < limit_deg


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_step_has_the_scale_of_depth(scale: float) -> None:
    pair = spoil(render_pair(MOTIONS["curve"]), depth_scale=scale)
    result = estimate_egomotion(frame_pair(pair), NO_GUESS, CONFIG)
    assert result.T_prev_cur is not None
    expected = MOTIONS["curve"].copy()
    expected[:3, 3] *= scale
    metres, degrees = errors(result.T_prev_cur, expected)
    assert metres < 2e-3
    assert degrees < 1e-3


@pytest.mark.parametrize("name", ["drive", "curve"])
def test_depth_that_is_wrong_on_one_side_does_not_bend_rotation(name: str) -> None:
    pair = frame_pair(render_pair(MOTIONS[name]))
    error = np.ones_like(pair.depth_cur)
    error[:, : error.shape[1] // 2] = 1.25
    wrong = replace(pair, depth_cur=pair.depth_cur * error, depth_prev=pair.depth_prev * error)
    result = estimate_egomotion(wrong, NO_GUESS, CONFIG)
    assert result.T_prev_cur is not None
    error_deg = errors(result.T_prev_cur, MOTIONS[name])[1]
    assert error_deg < 0.01
    trusting = estimate_egomotion(wrong, NO_GUESS, replace(CONFIG, depth_bend_sigma=0.15))
    assert trusting.T_prev_cur is not None
    assert errors(trusting.T_prev_cur, MOTIONS[name])[1] > 4 * error_deg


def test_points_are_polished_on_the_images() -> None:
    exact = render_pair(MOTIONS["drive"])
    bias = np.array([0.4, 0.1], np.float32)
    pair = replace(
        frame_pair(exact),
        flow_cur_prev=exact.flow_cur_prev + bias,
        flow_prev_cur=exact.flow_prev_cur - bias,
    )
    rough = estimate_egomotion(pair, NO_GUESS, CONFIG).T_prev_cur
    sharp = replace(pair, sharp_cur=exact.cur.image, sharp_prev=exact.prev.image)
    polished = estimate_egomotion(sharp, NO_GUESS, CONFIG).T_prev_cur
    untouched = estimate_egomotion(sharp, NO_GUESS, replace(CONFIG, polish=False)).T_prev_cur
    assert rough is not None
    assert polished is not None
    assert errors(rough, MOTIONS["drive"])[1] > 0.08
    assert errors(polished, MOTIONS["drive"])[1] < 0.02
    np.testing.assert_array_equal(untouched, rough)


def test_polishing_works_on_images_of_another_size() -> None:
    large = render_pair(MOTIONS["drive"], intrinsics=camera().resized(832, 256))
    pair = replace(
        frame_pair(render_pair(MOTIONS["drive"])),
        sharp_cur=large.cur.image,
        sharp_prev=large.prev.image,
    )
    result = estimate_egomotion(pair, NO_GUESS, CONFIG)
    assert result.T_prev_cur is not None
    metres, degrees = errors(result.T_prev_cur, MOTIONS["drive"])
    assert metres < 0.01
    assert degrees < 0.015


@pytest.mark.parametrize("focal", [0.5, 1.2])
def test_polished_steps_are_neither_too_long_nor_too_short(focal: float) -> None:
    """Pictures shrunk from a larger camera's, and flow that is a third of a pixel off."""
    small = camera(focal=focal)
    ratios = []
    for name in ("drive", "curve", "sideways"):
        exact = render_pair(MOTIONS[name], None, small)
        large = render_pair(MOTIONS[name], None, small.resized(1248, 384))
        sharp_cur, sharp_prev = (
            prepare_image(view.image, 416, 128, "gray").sharp for view in (large.cur, large.prev)
        )
        for seed in range(3):
            pair = frame_pair(spoil(exact, noise_px=0.3, noise_cell_px=32, seed=seed))
            pair = replace(pair, sharp_cur=sharp_cur, sharp_prev=sharp_prev)
            found = estimate_egomotion(pair, NO_GUESS, CONFIG).T_prev_cur
            assert found is not None
            assert errors(found, MOTIONS[name])[1] < 0.05
            lengths = [np.linalg.norm(step[:3, 3]) for step in (found, MOTIONS[name])]
            ratios.append(lengths[0] / lengths[1])
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(ratios, 1, atol=0.03)


@pytest.mark.parametrize("name", ["drive", "curve", "turn", "slow"])
def test_what_moves_by_itself_does_not_pull_at_the_motion(name: str) -> None:
    pair = render_pair(MOTIONS[name], mover_step=(0.4, 0.0, 0.3))
    result = estimate_egomotion(frame_pair(pair), NO_GUESS, CONFIG)
    assert result.T_prev_cur is not None
    metres, degrees = errors(result.T_prev_cur, MOTIONS[name])
    assert metres < 1e-3
    assert degrees < 2e-3


@pytest.mark.parametrize("noise_px", [0.0, 0.3])
def test_standing_still_is_exactly_no_motion(noise_px: float) -> None:
    pair = spoil(render_pair(np.eye(4), mover_step=None), noise_px=noise_px, depth_noise=0.1)
    result = estimate_egomotion(frame_pair(pair), [motion(forward=0.05)], CONFIG)
    assert result.source == "still"
    np.testing.assert_array_equal(result.T_prev_cur, np.eye(4))
    assert np.all(np.isfinite(result.covariance))


def test_standing_still_behind_traffic_is_exactly_no_motion() -> None:
    pair = render_pair(np.eye(4), mover_step=(0.8, 0.0, 0.0))
    result = estimate_egomotion(frame_pair(pair), NO_GUESS, CONFIG)
    assert result.source == "still"
    np.testing.assert_array_equal(result.T_prev_cur, np.eye(4))


def test_a_slow_step_is_not_standing_still() -> None:
    step = motion(forward=0.04)
    pair = spoil(render_pair(step), noise_px=0.1)
    sharp = replace(frame_pair(pair), sharp_cur=pair.cur.image, sharp_prev=pair.prev.image)
    result = estimate_egomotion(sharp, NO_GUESS, CONFIG)
    assert result.source == "geometry"
    assert result.T_prev_cur is not None
    assert errors(result.T_prev_cur, step)[0] < 0.01


def test_a_bad_guess_does_not_matter() -> None:
    pair = frame_pair(spoil(render_pair(MOTIONS["drive"]), noise_px=0.2, outliers=0.2))
    found = [
        estimate_egomotion(pair, [guess], CONFIG).T_prev_cur
        for guess in (MOTIONS["drive"], motion(forward=-2.0, yaw=0.3))
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert errors(found[1], found[0])[0] < 2e-3


def test_the_same_input_gives_the_same_bits() -> None:
    pair = frame_pair(spoil(render_pair(MOTIONS["curve"]), noise_px=0.3, outliers=0.3))
    first = estimate_egomotion(pair, NO_GUESS, CONFIG)
    second = estimate_egomotion(pair, NO_GUESS, CONFIG)
    np.testing.assert_array_equal(first.T_prev_cur, second.T_prev_cur)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_covariance_is_of_the_size_of_the_error() -> None:
    normalised = []
    for seed in range(12):
        pair = render_pair(MOTIONS["curve"])
        pair = spoil(pair, noise_px=0.4, noise_cell_px=32, depth_noise=0.1, seed=seed)
        result = estimate_egomotion(frame_pair(pair), NO_GUESS, CONFIG)
        assert result.T_prev_cur is not None
        difference = rigid.invert(MOTIONS["curve"]) @ result.T_prev_cur
        rotation = difference[:3, :3]
        angles = [rotation[2, 1], rotation[0, 2], rotation[1, 0]]
        error = np.concatenate([difference[:3, 3], angles])
        normalised.append(error @ np.linalg.solve(result.covariance, error))
        np.testing.assert_array_equal(result.covariance, result.covariance.T)
    # 6 on average for a perfect covariance; being a few times too careful is fine.
    assert 0.6 < np.mean(normalised) < 9


def test_neighbouring_steps_share_errors_of_direction_and_turn() -> None:
    result = estimate_egomotion(frame_pair(render_pair(MOTIONS["curve"])), NO_GUESS, CONFIG)
    shared = result.shared_errors
    step = np.linalg.norm(MOTIONS["curve"][:3, 3])
    np.testing.assert_allclose(
        np.linalg.norm(shared[:3]) ** 2, 2 * (CONFIG.direction_sigma * step) ** 2, rtol=0.02
    )
    angle = rigid.rotation_angle(MOTIONS["curve"])
    assert np.linalg.norm(shared[3:]) == pytest.approx(CONFIG.turn_sigma * angle, rel=0.02)
    # What they share is a part of the whole.
    assert np.all(np.linalg.eigvalsh(result.covariance - shared @ shared.T) > 0)


def test_the_networks_answer_is_twice_as_uncertain() -> None:
    pair = frame_pair(render_pair(MOTIONS["drive"]))
    by_geometry = estimate_egomotion(pair, NO_GUESS, CONFIG)
    by_network = estimate_egomotion(pair, [MOTIONS["drive"]], replace(CONFIG, method="network"))
    assert by_network.source == "network"
    expected = 4 * by_geometry.covariance
    np.testing.assert_allclose(by_network.covariance, expected, rtol=0.05, atol=1e-9)
    np.testing.assert_allclose(by_network.shared_errors, 2 * by_geometry.shared_errors, atol=1e-5)


def test_covariance_grows_with_the_step() -> None:
    small, large = (
        estimate_egomotion(frame_pair(render_pair(motion(forward=step))), NO_GUESS, CONFIG)
        for step in (0.2, 1.0)
    )
    assert large.covariance[2, 2] > 4 * small.covariance[2, 2]


def test_random_flow_is_lost_and_says_why() -> None:
    pair = spoil(render_pair(MOTIONS["drive"]), noise_px=20.0)
    result = estimate_egomotion(frame_pair(pair), NO_GUESS, CONFIG)
    assert result.T_prev_cur is None
    assert result.source == "none"
    assert "flow is consistent at" in result.reason
    np.testing.assert_array_equal(np.diag(result.covariance), LOST_VARIANCE)


def test_consistent_flow_of_no_rigid_motion_is_lost() -> None:
    pair = render_pair(np.eye(4), mover_step=None)
    height, width = pair.cur.depth.shape
    v, u = np.mgrid[:height, :width].astype(np.float32)
    swirl = np.stack([6 * np.sin(v / 7), 6 * np.sin(u / 9)], axis=-1).astype(np.float32)
    rigid_pair = replace(frame_pair(pair), flow_cur_prev=swirl, flow_prev_cur=-swirl)
    everywhere = replace(CONFIG, consistency_px=100.0)
    result = estimate_egomotion(rigid_pair, NO_GUESS, everywhere)
    assert result.T_prev_cur is None
    assert "agree on one motion" in result.reason


def test_a_covered_lens_is_lost_although_nothing_moves() -> None:
    pair = frame_pair(render_pair(np.eye(4)))
    noise = np.random.default_rng(0).normal(12, 0.8, pair.gray_cur.shape)
    result = estimate_egomotion(replace(pair, gray_cur=noise.astype(np.uint8)), NO_GUESS, CONFIG)
    assert result.T_prev_cur is None
    assert "no texture" in result.reason


def test_depth_without_valid_pixels_is_lost() -> None:
    pair = frame_pair(render_pair(MOTIONS["drive"]))
    nothing = np.full_like(pair.depth_cur, np.nan)
    result = estimate_egomotion(
        replace(pair, depth_cur=nothing, depth_prev=nothing), NO_GUESS, CONFIG
    )
    assert result.T_prev_cur is None
    assert result.num_points == 0


def test_a_guess_that_is_not_finite_is_lost() -> None:
    pair = frame_pair(render_pair(MOTIONS["drive"]))
    result = estimate_egomotion(pair, [np.full((4, 4), np.nan)], CONFIG)
    assert result.T_prev_cur is None
    assert "not finite" in result.reason


def test_an_implausible_motion_falls_back_to_the_network() -> None:
    pair = frame_pair(render_pair(MOTIONS["turn"]))
    strict = replace(CONFIG, max_rotation_rad=0.04)
    guess = motion(yaw=0.039)
    # The guess is a quarter of a degree off, 3 pixels at this focal length: wide tolerance.
    result = estimate_egomotion(pair, [guess], replace(strict, flow_sigma_px=2.0))
    assert result.source == "network"
    assert "not plausible" in result.reason
    np.testing.assert_allclose(result.T_prev_cur, guess, atol=1e-12)


def test_without_geometry_the_network_is_taken_as_it_is() -> None:
    pair = frame_pair(render_pair(MOTIONS["drive"]))
    config = replace(CONFIG, method="network")
    guess = MOTIONS["drive"] @ motion(forward=0.01)
    result = estimate_egomotion(pair, [guess], config)
    assert result.source == "network"
    np.testing.assert_allclose(result.T_prev_cur, guess, atol=1e-12)
    contradicted = estimate_egomotion(pair, [motion(forward=-1.0, yaw=0.1)], config)
    assert contradicted.T_prev_cur is None
