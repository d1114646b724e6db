"""Camera motion between two frames from flow and depth, with the pose network as a first guess.

Flow says where a grid of points went, depth says how far away they are, and the motion that
explains both is found in steps: points are polished on the images, hypotheses (the pose network's
answer, the previous motion, PnP with RANSAC) are scored, and the best one is refined by robust
Gauss-Newton on both flow directions.

The two sources of error are kept apart. Flow is off by a fraction of a pixel in any direction;
depth is off by a fraction of itself, which shifts a point along its epipolar line only, and the
more the larger its parallax. So a residual across the epipolar line weighs as much as flow is
exact, a residual along it hardly at all: rotation and direction come from geometry that a wrong
depth cannot bend. Depth then sets the length of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.correspondences import Matches, Points, find_matches, with_depth
from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.frame_pair import FramePair
from coopnet_core.inference.motion_problem import CHI2, MotionProblem
from coopnet_core.inference.pose_covariance import no_shared_errors, shared_errors
from coopnet_core.inference.projection import Float32, Mask

Float64 = npt.NDArray[np.float64]

LOST_VARIANCE = 9999.0
"""Variance that means "unknown", as ROS odometry users expect it."""

_NETWORK_INFLATION = 2.0
"""Of standard deviations: the pose network's answer does not minimise the residuals."""


@dataclass(frozen=True)
class Egomotion:
    """Motion of the camera between two frames.

    Attributes:
        T_prev_cur: (4, 4) float64, pose of the current camera in the previous one, in the unit of
            depth; None when no motion explains what is seen.
        covariance: (6, 6) float64 of the step, seen from the current camera: x, y, z, then rotation
            about x, y, z in radians; optical axes. An error of the scale of depth is in it once
            the step has been brought to a scale. Lost: ``LOST_VARIANCE`` on the diagonal.
        source: What the motion rests on.
        reason: Why tracking was lost or the refined motion was refused, else empty.
        num_points: Consistent points.
        inlier_fraction: Fraction of them that agrees with the motion.
        shared_errors: (6, 5) float64, the part of the covariance that successive steps share, see
            :func:`~coopnet_core.inference.pose_covariance.shared_errors`.
    """

    T_prev_cur: Float64 | None
    covariance: Float64
    source: Literal["geometry", "network", "still", "none"]
    reason: str
    num_points: int
    inlier_fraction: float
    shared_errors: Float64 = field(default_factory=no_shared_errors)


@dataclass(frozen=True)
class Evidence:
    """What two frames say about the motion between them before anybody has guessed it.

    Attributes:
        cur: Points of the current frame.
        num_points: Points of both frames.
        num_tried: How many were tried.
        textured_fraction: Of the current image.
        problem: The residuals of a motion; None without points.
    """

    cur: Points
    num_points: int
    num_tried: int
    textured_fraction: float
    problem: MotionProblem | None


def gather_evidence(
    matches: Matches,
    depth_cur: Float32,
    depth_prev: Float32,
    intrinsics: Intrinsics,
    config: EgomotionConfig,
) -> Evidence:
    """Give matched points their depth.

    Args:
        matches: Of the two frames.
        depth_cur: (H, W), NaN where invalid.
        depth_prev: The same of the previous frame, on the same scale.
        intrinsics: Camera of both frames at this size.
        config: Tolerances.
    """
    cur, prev = with_depth(matches.cur, depth_cur), with_depth(matches.prev, depth_prev)
    num_points = len(cur.depth) + len(prev.depth)
    problem = MotionProblem(cur, prev, intrinsics, config) if num_points else None
    return Evidence(cur, num_points, matches.num_tried, matches.textured_fraction, problem)


def estimate_egomotion(
    pair: FramePair,
    T_prev_cur_guesses: Iterable[npt.ArrayLike],
    config: EgomotionConfig,
    evidence: Evidence | None = None,
) -> Egomotion:
    """Estimate the camera's motion between two frames.

    Args:
        pair: Depth and flow of the two frames.
        T_prev_cur_guesses: First guesses, (4, 4) each; the first one is the pose network's and is
            what remains when geometry finds nothing better.
        config: Tolerances.
        evidence: :func:`gather_evidence` of the pair, where that was done beforehand.

    Returns:
        The motion, or the reason why there is none.
    """
    arrays = [np.asarray(guess, np.float64) for guess in T_prev_cur_guesses]
    if not arrays or not np.all(np.isfinite(arrays[0])):
        return _lost("the pose network's answer is not finite", 0, 0.0)
    guesses = [rigid.nearest_rigid(array) for array in arrays if np.all(np.isfinite(array))]
    if evidence is None:
        matches = find_matches(
            pair.flow_cur_prev,
            pair.flow_prev_cur,
            pair.gray_cur,
            pair.sharp_cur,
            pair.sharp_prev,
            config,
        )
        evidence = gather_evidence(
            matches, pair.depth_cur, pair.depth_prev, pair.intrinsics, config
        )
    num_points, problem = evidence.num_points, evidence.problem
    if evidence.textured_fraction < config.min_textured_fraction:
        return _lost("the image has no texture (covered lens, darkness, fog?)", num_points, 0.0)
    least = max(config.min_points, config.min_consistent_fraction * evidence.num_tried)
    if problem is None or num_points < least:
        reason = f"flow is consistent at {num_points} of {evidence.num_tried} points only"
        return _lost(reason, num_points, 0.0)
    if config.method == "geometry":
        start, fraction = _best(problem, [*guesses, np.eye(4)])
        if fraction < config.good_start_fraction:
            ransac = _pnp_ransac(evidence.cur, pair.intrinsics, config)
            start, _ = _best(problem, [start] if ransac is None else [ransac, start])
        refined = problem.refine(start)
    else:
        refined = guesses[0]
    inliers = problem.agrees(refined)
    fraction = float(inliers.mean())
    if fraction >= config.min_inlier_fraction:
        speeds = problem.displacements(refined)[inliers]
        if float(np.mean(speeds < config.still_px)) >= config.still_fraction:
            covariance = problem.covariance(np.eye(4), inliers)
            return Egomotion(np.eye(4), covariance, "still", "", num_points, fraction)
    reason = _refusal(refined, fraction, problem.median_depth, config)
    if not reason and config.method == "geometry":
        covariance, shared = _uncertainty(problem, refined, inliers, config)
        return Egomotion(refined, covariance, "geometry", "", num_points, fraction, shared)
    inliers_guess = problem.agrees(guesses[0])
    fraction_guess = float(inliers_guess.mean())
    if not _refusal(guesses[0], fraction_guess, problem.median_depth, config):
        covariance, shared = _uncertainty(problem, guesses[0], inliers_guess, config)
        covariance, shared = _NETWORK_INFLATION**2 * covariance, _NETWORK_INFLATION * shared
        return Egomotion(
            guesses[0], covariance, "network", reason, num_points, fraction_guess, shared
        )
    return _lost(reason, num_points, fraction)


def _best(problem: MotionProblem, hypotheses: list[Float64]) -> tuple[Float64, float]:
    """Return the hypothesis that explains the points best, and what fraction agrees with it."""
    squared = [problem.squared(T_prev_cur) for T_prev_cur in hypotheses]
    # What disagrees counts as far off, however far: it may move by itself.
    best = int(np.argmin([np.minimum(s, CHI2).mean() for s in squared]))
    return hypotheses[best], float((squared[best] < CHI2).mean())


def _pnp_ransac(points: Points, intrinsics: Intrinsics, config: EgomotionConfig) -> Float64 | None:
    """Motion from the current frame's points alone, or None when RANSAC finds none."""
    if config.ransac_iterations <= 0 or len(points.depth) < 8:
        return None
    K = intrinsics.matrix()
    rays = np.column_stack([points.pixel, np.ones(len(points.depth))]) @ np.linalg.inv(K).T
    try:
        # OpenCV seeds its generator anew in every call: same input, same answer.
        found, rotation, translation, _ = cv2.solvePnPRansac(
            rays * points.depth[:, None],
            points.target,
            K,
            np.zeros(0),
            iterationsCount=config.ransac_iterations,
            reprojectionError=config.ransac_error_px,
            confidence=0.999,
            flags=cv2.SOLVEPNP_SQPNP,
        )
    except cv2.error:
        # Degenerate points (all in one place): the other hypotheses remain.
        return None
    if not found:
        return None
    result = np.eye(4)
    result[:3, :3] = cv2.Rodrigues(rotation)[0]
    result[:3, 3] = translation.ravel()
    return result if np.all(np.isfinite(result)) else None


def _uncertainty(
    problem: MotionProblem, T_prev_cur: Float64, inliers: Mask, config: EgomotionConfig
) -> tuple[Float64, Float64]:
    """Return the covariance of a motion, and the part of it that successive steps share."""
    shared = shared_errors(T_prev_cur, config.direction_sigma, config.turn_sigma)
    return problem.covariance(T_prev_cur, inliers) + shared @ shared.T, shared


def _refusal(
    T_prev_cur: Float64, inlier_fraction: float, median_depth: float, config: EgomotionConfig
) -> str:
    """Return why a motion is not believed, empty when it is."""
    if not np.all(np.isfinite(T_prev_cur)):
        return "the motion is not finite"
    if inlier_fraction < config.min_inlier_fraction:
        return f"only {inlier_fraction:.0%} of the points agree on one motion"
    angle = rigid.rotation_angle(T_prev_cur)
    if angle > config.max_rotation_rad:
        return f"the rotation of {angle:.2f} rad between two frames is not plausible"
    parallax = float(np.linalg.norm(T_prev_cur[:3, 3])) / median_depth
    if parallax > config.max_parallax:
        return f"a step of {parallax:.0%} of the median depth is not plausible"
    return ""


def _lost(reason: str, num_points: int, inlier_fraction: float) -> Egomotion:
    return Egomotion(None, np.eye(6) * LOST_VARIANCE, "none", reason, num_points, inlier_fraction)
