"""Fractions of errors inside one standard deviation, where the errors are drawn from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ground_scene import drive, lost
from synthetic_world import motion

from coopnet_core.evaluation.odometry_metrics import trajectory_from_steps
from coopnet_core.evaluation.task_covariance import AXES, score_pieces
from coopnet_core.inference import rigid
from coopnet_core.inference.pipeline import FrameResult
from coopnet_core.inference.pose_covariance import shared_errors

STEP = motion(forward=0.8, yaw=0.03)
NUM_STEPS = 3000
FRAME = drive()


def drawn(claimed: float) -> tuple[list[FrameResult], np.ndarray]:
    """Random steps whose standard deviations are said to be ``claimed`` times what they are."""
    rng = np.random.default_rng(0)
    sigma = np.array([0.02, 0.01, 0.05, 1e-3, 3e-3, 2e-3])
    frames = [replace(FRAME, T_prev_cur=None)]
    for _ in range(NUM_STEPS):
        step = STEP @ rigid.exp(sigma * rng.normal(size=6))
        covariance = np.diag(claimed * sigma) ** 2
        frames.append(replace(FRAME, T_prev_cur=step, pose_covariance=covariance))
    return frames, trajectory_from_steps(np.stack([STEP] * NUM_STEPS))


@pytest.mark.parametrize(("claimed", "fraction"), [(1.0, 0.683), (2.0, 0.954), (0.5, 0.383)])
@pytest.mark.parametrize("length", [1, 10])
def test_the_fraction_inside_one_sigma(claimed: float, fraction: float, length: int) -> None:
    row = score_pieces(*drawn(claimed), length)
    np.testing.assert_allclose([row[axis] for axis in AXES], fraction, atol=0.08)
    assert row["nees"] == pytest.approx(1 / claimed**2, rel=0.1)


def test_shared_errors_count_in_long_pieces() -> None:
    frames, truth = drawn(1.0)
    shared = shared_errors(STEP, 0.05, 0.0)
    shared_only = [replace(frame, shared_errors=shared) for frame in frames]
    careless, careful = (score_pieces(given, truth, 10)["y"] for given in (frames, shared_only))
    assert careful > careless + 0.1


def test_pieces_with_a_lost_step_are_left_out() -> None:
    frames, truth = drawn(1.0)
    frames = [frame if place % 5 else lost() for place, frame in enumerate(frames)]
    assert np.isfinite(score_pieces(frames, truth, 1)["x"])
    assert np.isnan(score_pieces(frames, truth, 10)["x"])
    assert np.isnan(score_pieces(frames, truth, 10)["nees"])
