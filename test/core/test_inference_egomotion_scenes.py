"""One estimator for every scene: where an essential matrix fails, and where PnP does.

Run as a program it prints the table of ``docs/method.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from flow_noise import frame_pair, spoil
from synthetic_world import Pair, motion, plane_pair, render_pair, with_moving_part

from coopnet_core.inference import rigid
from coopnet_core.inference.correspondences import Points, find_matches, with_depth
from coopnet_core.inference.egomotion import Egomotion, estimate_egomotion
from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.frame_pair import FramePair

MOTIONS = {
    "drive": motion(forward=1.0, yaw=0.01),
    "curve": motion(forward=0.6, right=0.05, yaw=-0.06, pitch=0.01),
    "sideways": motion(right=0.3),
    "backwards": motion(forward=-0.5, yaw=0.02),
    "turn": motion(yaw=0.05),
    "tilt": motion(pitch=0.03),
}
WITH_STEP = ["drive", "curve", "sideways", "backwards"]


CONFIG = EgomotionConfig()


def observed(pair: Pair, seed: int) -> FramePair:
    """Flow that is 0.3 pixels off, and the images."""
    noisy = frame_pair(spoil(pair, noise_px=0.3, seed=seed))
    return replace(noisy, sharp_cur=pair.cur.image, sharp_prev=pair.prev.image)


def solve(pair: Pair, seed: int = 0) -> Egomotion:
    """Estimate without a guess."""
    result = estimate_egomotion(observed(pair, seed), [np.eye(4)], CONFIG)
    assert result.source == "geometry"
    return result


def points_of(pair: Pair, seed: int) -> Points:
    """The same points for OpenCV's solvers."""
    seen = observed(pair, seed)
    matches = find_matches(
        seen.flow_cur_prev,
        seen.flow_prev_cur,
        seen.gray_cur,
        seen.sharp_cur,
        seen.sharp_prev,
        CONFIG,
    )
    return with_depth(matches.cur, seen.depth_cur)


def rotation_by_pnp(pair: Pair, seed: int) -> np.ndarray:
    points, K = points_of(pair, seed), pair.intrinsics.matrix()
    rays = np.column_stack([points.pixel, np.ones(len(points.depth))]) @ np.linalg.inv(K).T
    found = cv2.solvePnPRansac(
        rays * points.depth[:, None],
        points.target,
        K,
        np.zeros(0),
        iterationsCount=60,
        reprojectionError=1.5,
        confidence=0.999,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    return cv2.Rodrigues(found[1])[0]


def rotation_by_essential_matrix(pair: Pair, seed: int) -> np.ndarray:
    points, K = points_of(pair, seed), pair.intrinsics.matrix()
    E, mask = cv2.findEssentialMat(
        points.pixel, points.target, K, method=cv2.USAC_MAGSAC, prob=0.999, threshold=1.0
    )
    return cv2.recoverPose(E, points.pixel, points.target, K, mask=mask)[1]


def rotation_here(pair: Pair, seed: int) -> np.ndarray:
    found = estimate_egomotion(observed(pair, seed), [np.eye(4)], CONFIG).T_prev_cur
    return np.full((3, 3), np.nan) if found is None else found[:3, :3]


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


def with_large_mover(pair: Pair) -> Pair:
    return with_moving_part(pair, pair.T_prev_cur @ motion(forward=0.5, right=0.4), 0.4)


def without_depth(pair: Pair) -> Pair:
    def flat(view):
        return replace(view, depth=np.full_like(view.depth, 10.0))

    return replace(pair, cur=flat(pair.cur), prev=flat(pair.prev))


WALL, OBLIQUE, GROUND = (0.0, 0.0, 1.0), (0.5, 0.0, 1.0), (0.0, 1.0, 0.35)


def plane(step: np.ndarray, normal: tuple[float, float, float]) -> Pair:
    return plane_pair(step, normal, 1.6 if normal == GROUND else 8.0)


SCENES: dict[str, Callable[[np.ndarray], Pair]] = {
    "street canyon": lambda step: render_pair(step, None),
    **{
        f"depth wrong: {kind}": lambda step, kind=kind: with_depth_error(
            render_pair(step, None), wrong_depth(kind)
        )
        for kind in ("three times", "half the picture three times", "patches")
    },
    "ground": lambda step: plane(step, GROUND),
    "wall": lambda step: plane(step, WALL),
    "40 % moves by itself": lambda step: with_large_mover(render_pair(step, None)),
    "depth that says nothing": lambda step: without_depth(render_pair(step, None)),
}
SOLVERS = {
    "here": rotation_here,
    "PnP": rotation_by_pnp,
    "essential matrix": rotation_by_essential_matrix,
}


def rotation_errors_deg(scene: str, solver: str, seeds: int) -> np.ndarray:
    """Errors over all motions and seeds."""
    errors = []
    for step in MOTIONS.values():
        pair = SCENES[scene](step)
        for seed in range(seeds):
            off = np.eye(4)
            off[:3, :3] = step[:3, :3].T @ SOLVERS[solver](pair, seed)
            errors.append(np.degrees(rigid.rotation_angle(off)))
    return np.array(errors)


@pytest.mark.parametrize(
    ("scene", "fails"),
    [
        ("depth wrong: half the picture three times", "PnP"),
        ("ground", "essential matrix"),
        ("40 % moves by itself", "essential matrix"),
    ],
)
def test_either_limit_alone_fails_where_this_does_not(scene: str, fails: str) -> None:
    here, other = (np.median(rotation_errors_deg(scene, name, 1)) for name in ("here", fails))
    assert here < 0.1
    assert other > 3 * here


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


@pytest.mark.parametrize("normal", [OBLIQUE, GROUND], ids=["oblique", "ground"])
@pytest.mark.parametrize("name", MOTIONS)
def test_a_plane_is_no_special_case(name: str, normal: tuple[float, float, float]) -> None:
    result = solve(plane(MOTIONS[name], normal))
    rotation_deg, direction_deg = angles_deg(result, MOTIONS[name])
    assert rotation_deg < 0.15
    if name in WITH_STEP:
        assert direction_deg < 3


@pytest.mark.parametrize("seed", range(4))
def test_in_front_of_a_wall_the_covariance_says_what_is_not_known(seed: int) -> None:
    """A step to the side and a turn look nearly the same there."""
    step = MOTIONS["drive"]
    result = solve(plane(step, WALL), seed)
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
    pair = with_large_mover(render_pair(step, None))
    result = solve(pair if depth == "right" else with_depth_error(pair, wrong_depth(depth)))
    rotation_deg, direction_deg = angles_deg(result, step)
    assert rotation_deg < 0.6
    if name in WITH_STEP:
        assert direction_deg < 15


if __name__ == "__main__":
    print("| scene |", " | ".join(SOLVERS), "|")
    for scene in SCENES:
        quantiles = [
            np.quantile(rotation_errors_deg(scene, solver, 4), [0.5, 0.9]) for solver in SOLVERS
        ]
        print(f"| {scene} |", " | ".join(f"{a:.2f}, {b:.2f}" for a, b in quantiles), "|")
