"""Tolerances of the camera motion estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EgomotionConfig:
    """How camera motion is estimated.

    Attributes:
        method: ``geometry`` refines the pose network's answer with flow and depth; ``network``
            takes that answer as it is, where flow and depth do not contradict it.
        grid_step_px: Distance of the points that are used, of either frame, on one grid: 8 gives
            832 at 416x128.
        consistency_px: How far a point may be off after following flow there and back.
        consistency_relative: The same per pixel of flow.
        min_gradient: Image gradient, gray levels per pixel, from which on a point has texture.
        min_textured_fraction: Below this fraction of textured points there is nothing to track
            (covered lens, fog, darkness).
        min_points: Consistent points needed.
        min_consistent_fraction: Fraction of the grid that must be consistent.
        polish: Whether points are refined on the images, see ``correspondences.polish``.
        polish_window_px: Side of the compared squares, pixels of the sharp images.
        polish_change_px: A point that moves further was lost.
        flow_sigma_px: Standard deviation of flow at rest.
        flow_sigma_relative: The same per pixel of flow.
        polished_sigma_px: Standard deviation of a polished point at rest.
        polished_sigma_relative: The same per pixel of flow.
        depth_sigma: Standard deviation of depth relative to itself, when asking whether a point
            agrees with a motion.
        depth_length_sigma: The same when the length of the step is sought; smaller, so that it
            follows what most points agree on instead of their mean.
        depth_bend_sigma: The same as far as rotation and direction are concerned. Errors of depth
            are shared by whole regions, so that many points together would bend the motion to suit
            them; a large value leaves rotation and direction to what depth cannot touch.
        min_inlier_fraction: Fraction of the consistent points that must agree on one motion.
        max_rotation_rad: Larger steps are refused.
        max_parallax: Steps longer than this fraction of the median depth are refused.
        good_start_fraction: With this fraction of points agreeing, a first guess is good enough to
            refine; below it, PnP with RANSAC gives another one.
        ransac_iterations: Iterations of PnP with RANSAC; 0 leaves it out.
        ransac_error_px: Distance up to which RANSAC counts a point as agreeing.
        refine_iterations: Most Gauss-Newton iterations at the final tolerance.
        still_px: The camera stands still when its motion shifts ``still_fraction`` of the points
            that agree with it by less than this. A motion is known better than any single point:
            under camera noise of 5 gray levels it stays below 0.1 pixels.
        still_fraction: See ``still_px``.
        correlation: How many neighbouring grid points share one error of flow: the covariance is
            that of so many times fewer independent points.
        direction_sigma: Standard deviation of the step's direction in radians, an error that
            successive steps share (calibration, bias of flow) and more points cannot improve.
        turn_sigma: The same of its rotation, relative to itself. What the scale of depth adds to
            the length is known to ``MetricScaleConfig``.
    """

    method: Literal["geometry", "network"] = "geometry"
    grid_step_px: int = 8
    consistency_px: float = 0.75
    consistency_relative: float = 0.1
    min_gradient: float = 3.0
    min_textured_fraction: float = 0.05
    min_points: int = 20
    min_consistent_fraction: float = 0.15
    polish: bool = True
    polish_window_px: int = 9
    polish_change_px: float = 1.5
    flow_sigma_px: float = 0.3
    flow_sigma_relative: float = 0.03
    polished_sigma_px: float = 0.15
    polished_sigma_relative: float = 0.03
    depth_sigma: float = 0.2
    depth_length_sigma: float = 0.07
    depth_bend_sigma: float = 2.0
    min_inlier_fraction: float = 0.4
    max_rotation_rad: float = 0.5
    max_parallax: float = 0.7
    good_start_fraction: float = 0.7
    ransac_iterations: int = 60
    ransac_error_px: float = 1.5
    refine_iterations: int = 8
    still_px: float = 0.1
    still_fraction: float = 0.8
    correlation: float = 5.0
    direction_sigma: float = 0.008
    turn_sigma: float = 0.03
