"""One estimator for every scene: where an essential matrix fails, and where PnP does."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from flow_noise import frame_pair, spoil
from synthetic_world import Pair, motion, plane_pair, render_pair, with_moving_part

from coopnet_core.inference import rigid
from coopnet_core.inference.egomotion import Egomotion, estimate_egomotion
from coopnet_core.inference.egomotion_config import EgomotionConfig

MOTIONS = {
    "drive": motion(forward=1.0, yaw=0.01),
    "curve": motion(forward=0.6, right=0.05, yaw=-0.06, pitch=0.01),
    "sideways": motion(right=0.3),
    "backwards": motion(forward=-0.5, yaw=0.02),
    "turn": motion(yaw=0.05),
    "tilt": motion(pitch=0.03),
}
WITH_STEP = ["drive", "curve", "sideways", "backwards"]


def solve(pair: Pair, seed: int = 0) -> Egomotion:
    """Estimate with flow that is 0.3 pixels off, without a guess."""
    noisy = frame_pair(spoil(pair, noise_px=0.3, seed=seed))
    sharp = replace(noisy, sharp_cur=pair.cur.image, sharp_prev=pair.prev.image)
    result = estimate_egomotion(sharp, [np.eye(4)], EgomotionConfig())
    assert result.source == "geometry"
    return result


def angles_deg(found: Egomotion, T_true: np.ndarray) -> tuple[float, float]:
    """Error of the rotation, and angle between the directions of the steps."""
    assert found.T_prev_cur is not None
    rotation = rigid.rotation_angle(rigid.invert(T_true) @ found.T_prev_cur)
    a, b = found.T_prev_cur[:3, 3], T_true[:3, 3]
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12)
    return float(np.degrees(rotation)), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def with_depth_error(pair: Pair, factor: np.ndarray | float) -> Pair:
    def spoiled(view):
        return replace(view, depth=(view.depth * factor).astype(np.float32))

    return replace(pair, cur=spoiled(pair.cur), prev=spoiled(pair.prev))


def wrong_depth(kind: str) -> np.ndarray | float:
    """Factor of depth, a number or (128, 416)."""
    if kind in ("a third", "three times"):
        return {"a third": 1 / 3, "three times": 3.0}[kind]
    factor = np.ones((128, 416), np.float32)
    if kind == "half the picture three times":
        factor[:, :208] = 3
        return factor
    patches = np.random.default_rng(0).normal(0, 0.6, (4, 13)).astype(np.float32)
    return np.exp(cv2.resize(patches, (416, 128), interpolation=cv2.INTER_NEAREST))


@pytest.mark.parametrize("name", ["turn", "tilt"])
def test_without_parallax_rotation_comes_without_a_step(name: str) -> None:
    result = solve(render_pair(MOTIONS[name], None))
    assert angles_deg(result, MOTIONS[name])[0] < 0.05
    assert result.T_prev_cur is not None
    assert np.linalg.norm(result.T_prev_cur[:3, 3]) < 0.01


@pytest.mark.parametrize(
    "kind", ["a third", "three times", "half the picture three times", "patches"]
)
@pytest.mark.parametrize("name", MOTIONS)
def test_wrong_depth_bends_neither_rotation_nor_direction(name: str, kind: str) -> None:
    result = solve(with_depth_error(render_pair(MOTIONS[name], None), wrong_depth(kind)))
    rotation_deg, direction_deg = angles_deg(result, MOTIONS[name])
    assert rotation_deg < 0.15
    if name in WITH_STEP:
        assert direction_deg < 5


@pytest.mark.parametrize("normal", [(0.5, 0.0, 1.0), (0.0, 1.0, 0.35)], ids=["oblique", "ground"])
@pytest.mark.parametrize("name", MOTIONS)
def test_a_plane_is_no_special_case(name: str, normal: tuple[float, float, float]) -> None:
    result = solve(plane_pair(MOTIONS[name], normal, 8.0 if normal[1] == 0 else 1.6))
    rotation_deg, direction_deg = angles_deg(result, MOTIONS[name])
    assert rotation_deg < 0.15
    if name in WITH_STEP:
        assert direction_deg < 3


@pytest.mark.parametrize("seed", range(4))
def test_in_front_of_a_wall_the_covariance_says_what_is_not_known(seed: int) -> None:
    """A step to the side and a turn look nearly the same there."""
    step = MOTIONS["drive"]
    result = solve(plane_pair(step, (0, 0, 1), 8.0), seed)
    assert result.T_prev_cur is not None
    error = rigid.log(rigid.invert(step) @ result.T_prev_cur)
    sigma = np.sqrt(np.diag(result.covariance))
    assert np.all(np.abs(error) < 2 * sigma)
    open_scene = np.sqrt(np.diag(solve(render_pair(step, None), seed).covariance))
    assert sigma[0] > 5 * open_scene[0]
    assert sigma[2] < 3 * open_scene[2]


@pytest.mark.parametrize("name", ["drive", "curve", "backwards", "turn"])
@pytest.mark.parametrize("depth", ["right", "patches"])
def test_forty_per_cent_of_the_picture_may_move_by_itself(name: str, depth: str) -> None:
    step = MOTIONS[name]
    pair = with_moving_part(render_pair(step, None), step @ motion(forward=0.5, right=0.4), 0.4)
    result = solve(pair if depth == "right" else with_depth_error(pair, wrong_depth(depth)))
    rotation_deg, direction_deg = angles_deg(result, step)
    assert rotation_deg < 0.6
    if name in WITH_STEP:
        assert direction_deg < 15
