"""Covariance of many steps, of which a part of the errors is the same in each."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_world import motion

from coopnet_core.inference import rigid
from coopnet_core.inference.pose_covariance import (
    SCALE_ERROR,
    PoseCovariance,
    no_shared_errors,
    shared_errors,
)

NOTHING = np.zeros((6, 6))


def errors_of(step: np.ndarray, direction: float, turn: float, scale: float) -> np.ndarray:
    errors = shared_errors(step, direction, turn)
    errors[:3, SCALE_ERROR] = scale * (step[:3, :3].T @ step[:3, 3])
    return errors


def compose(steps: list[np.ndarray], random: np.ndarray, *sigmas: float) -> np.ndarray:
    pose = PoseCovariance(NOTHING)
    for step in steps:
        shared = errors_of(step, *sigmas)
        pose.add_step(step, random + shared @ shared.T, shared)
    return pose.matrix


def test_composed_covariance_is_that_of_samples() -> None:
    rng = np.random.default_rng(0)
    steps = [motion(forward=1.0, yaw=0.05, pitch=-0.01)] * 10 + [motion(forward=0.7, right=0.2)] * 5
    root = np.tril(rng.normal(size=(6, 6))) * np.repeat([5e-3, 1e-3], 3)[:, None]
    sigmas = (0.01, 0.05, 0.03)
    truth = np.linalg.multi_dot(steps)
    samples = []
    for _ in range(1500):
        pose, strengths = np.eye(4), rng.normal(size=5)
        for step in steps:
            error = errors_of(step, *sigmas) @ strengths + root @ rng.normal(size=6)
            pose = pose @ step @ rigid.exp(error)
        samples.append(rigid.log(rigid.invert(truth) @ pose))
    expected = np.cov(np.array(samples).T)
    found = compose(steps, root @ root.T, *sigmas)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((found - expected) / scale).max() < 0.12
    np.testing.assert_allclose(found, found.T, atol=1e-15)


def test_what_steps_share_grows_with_the_distance_and_the_rest_with_its_root() -> None:
    steps = [motion(forward=1.0)] * 25
    along = np.diag([0, 0, 0.1**2, 0, 0, 0])
    assert compose(steps, along, 0, 0, 0)[2, 2] == pytest.approx(25 * 0.1**2)
    shared = compose(steps, NOTHING, 0.02, 0, 0.1)
    np.testing.assert_allclose(np.sqrt(np.diag(shared)[:3]), [0.5, 0.5, 2.5], rtol=1e-9)


def test_driving_back_undoes_what_steps_share() -> None:
    out = [motion(forward=1.0)] * 10
    there = compose(out, NOTHING, 0.02, 0.05, 0.1)
    back = compose([*out, *[motion(forward=-1.0)] * 10], NOTHING, 0.02, 0.05, 0.1)
    assert np.sqrt(there[2, 2]) == pytest.approx(1.0)
    np.testing.assert_allclose(back, 0, atol=1e-12)


def test_a_turn_is_wrong_by_a_fraction_of_itself() -> None:
    left, right = motion(yaw=-0.1), motion(yaw=0.1)
    turned = compose([left] * 5, NOTHING, 0, 0.04, 0)
    assert np.sqrt(turned[4, 4]) == pytest.approx(0.04 * 0.5)
    np.testing.assert_allclose(compose([left, right], NOTHING, 0, 0.04, 0), 0, atol=1e-12)


def test_random_errors_can_be_added_in_between() -> None:
    pose = PoseCovariance(np.eye(6) * 1e-6)
    pose.add_random(np.diag([0.25, 0, 0, 0, 0, 0]))
    pose.add_step(np.eye(4), NOTHING, no_shared_errors())
    assert pose.matrix[0, 0] == pytest.approx(0.250001)
    assert pose.matrix[1, 1] == pytest.approx(1e-6)
