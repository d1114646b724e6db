"""One metric scale for depth, points and odometry, where it comes from and how sure it is."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import ConfigError, InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.ground_normal import GroundNormal
from coopnet_core.inference.ground_plane import GroundConfig, measure_ground, require
from coopnet_core.inference.pose_covariance import SCALE_ERROR
from coopnet_core.inference.scale_filter import ScaleFilter

if TYPE_CHECKING:
    from coopnet_core.inference.pipeline import FrameResult

Float64 = npt.NDArray[np.float64]

ScaleMode = Literal["none", "fixed", "camera_height", "odometry"]
SCALE_MODES: tuple[ScaleMode, ...] = get_args(ScaleMode)

_STANDSTILL_M = 0.001
"""Wheels that turn less than this between two images stand."""


class ScaleStatus(enum.Enum):
    """What a frame did to the scale."""

    WAITING = "waiting"
    HELD = "held"
    UPDATED = "updated"


@dataclass(frozen=True)
class MetricScaleConfig:
    """Where metric scale comes from.

    The defaults of the filter were chosen on KITTI odometry 03 frames 0-600, KITTI 00 frames 0-150
    and Karlsruhe 2010_03_09_drive_0019.

    Attributes:
        mode: ``none``: depth as the bundle gives it. ``fixed``: times ``fixed``. ``camera_height``:
            from the height of the camera over the ground. ``odometry``: from wheel odometry.
        fixed: Metres per unit of depth.
        camera_height_m: Height of the camera over the ground in metres; needed by its mode.
        fixed_sigma: Standard deviation of ``fixed``, relative, beside ``depth_sigma``.
        camera_height_sigma: Error that all frames share, relative: the height given, the pitch.
        wheel_sigma: The same of wheel odometry: radius of the wheels, slip.
        depth_sigma: Standard deviation, relative, of a scale that rests on depth alone: as the
            bundle gives it, by a fixed factor, by the depth of the ground before parallax can be
            seen; and how far a scale can drift while it is held.
        drift_sigma: Standard deviation, relative, that one step without observation adds.
        min_distance_m: Distance driven that one observation by wheel odometry needs.
        window: Observations whose median is the scale.
        min_observations: Observations that the first scale needs.
        max_jump: An observation that differs from the scale by more than this fraction is refused.
        patience: After so many refused observations in a row the scale starts anew.
        ground: What counts as ground.

    Raises:
        ConfigError: A value is out of range, or the mode's own setting is missing.
    """

    mode: ScaleMode = "none"
    fixed: float = 1.0
    camera_height_m: float | None = None
    fixed_sigma: float = 0.0
    camera_height_sigma: float = 0.045
    wheel_sigma: float = 0.03
    depth_sigma: float = 0.13
    drift_sigma: float = 0.015
    min_distance_m: float = 0.05
    window: int = 7
    min_observations: int = 5
    max_jump: float = 0.4
    patience: int = 20
    ground: GroundConfig = field(default_factory=GroundConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.mode not in SCALE_MODES:
            raise ConfigError(
                f"unknown scale mode {self.mode!r}: choose of {', '.join(SCALE_MODES)}"
            )
        if self.mode == "camera_height" and self.camera_height_m is None:
            raise ConfigError(
                "scale mode camera_height needs camera_height_m, the height of the camera over the "
                "ground in metres"
            )
        require("fixed", self.fixed, 1e-6, 1e6)
        if self.camera_height_m is not None:
            require("camera_height_m", self.camera_height_m, 0.01, 100.0)
        for name in ("fixed_sigma", "camera_height_sigma", "wheel_sigma", "depth_sigma"):
            require(name, getattr(self, name), 0.0, 1.0)
        require("drift_sigma", self.drift_sigma, 0.0, 1.0)
        require("min_distance_m", self.min_distance_m, _STANDSTILL_M, 100.0)
        require("window", self.window, 1, 10000)
        require("min_observations", self.min_observations, 1, self.window)
        require("max_jump", self.max_jump, 0.01, 10.0)
        require("patience", self.patience, self.min_observations, 100000)


@dataclass(frozen=True)
class ScaleState:
    """The scale after a frame.

    Attributes:
        factor: What depth and translations are multiplied by.
        is_metric: Whether the result is metres. False without a source: never call it metres then.
        source: ``none``, ``bundle`` (trained metric, nothing refines it), ``fixed``,
            ``camera_height``, ``odometry``.
        relative_sigma: Standard deviation of the factor relative to itself; where the result is not
            metric, how far its unit varies along the way.
        num_observations: Frames that the factor rests on.
        status: Waiting for the first estimate, held, or updated by this frame.
        reason: Why it waits or is held; else empty, or how the estimate is limited.
    """

    factor: float
    is_metric: bool
    source: str
    relative_sigma: float
    num_observations: int
    status: ScaleStatus
    reason: str

    @property
    def variance(self) -> float:
        """Variance of the factor."""
        return (self.factor * self.relative_sigma) ** 2


class MetricScale:
    """Keeps the scale from frame to frame.

    Depth, points and odometry share it. Where a mode has no estimate yet, depth stays as the bundle
    gives it: metres if the bundle was trained metric.

    Args:
        config: Where the scale comes from.
        is_metric_bundle: ``bundle.metric``: depth comes in metres already. The modes refine it.
        R_base_cam: (3, 3) of the mounting, from optical axes to the base (z up), for
            ``camera_height``; None for a level camera (see :class:`GroundNormal`).

    Raises:
        ConfigError: ``R_base_cam`` is no rotation.
    """

    def __init__(
        self,
        config: MetricScaleConfig,
        is_metric_bundle: bool,
        R_base_cam: npt.ArrayLike | None = None,
    ) -> None:
        self._config, self._is_metric_bundle = config, is_metric_bundle
        self._R_base_cam = R_base_cam
        self._intrinsics: Intrinsics | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every observation, as for another bundle; odometry going on needs no reset."""
        config = self._config
        limits = (config.window, config.min_observations, config.max_jump, config.patience)
        self._normal = GroundNormal(self._R_base_cam)
        self._observed = ScaleFilter(*limits)
        self._from_depth = ScaleFilter(*limits)
        self._wheels_m = self._picture = 0.0
        self._num_unseen = 0

    def update(self, result: FrameResult, wheel_distance_m: float | None = None) -> ScaleState:
        """Take a frame.

        Args:
            result: As the pipeline gives it, not scaled. Mode ``camera_height`` needs its flow.
            wheel_distance_m: How far the camera has come since the previous frame by wheel
                odometry (see :func:`distance_of_camera`); None where unknown.

        Returns:
            The scale for this frame.

        Raises:
            InputError: The distance is negative or not finite, or flow is missing.
        """
        if wheel_distance_m is not None and not 0 <= wheel_distance_m < math.inf:
            raise InputError(f"wheel odometry's distance must be 0 or more, got {wheel_distance_m}")
        if self._intrinsics is not None and result.intrinsics != self._intrinsics:
            self.reset()  # another focal length is another canonical depth
        self._intrinsics = result.intrinsics
        config = self._config
        if config.mode == "none":
            return self._without_estimate(ScaleStatus.UPDATED, "")
        if config.mode == "fixed":
            updated = ScaleStatus.UPDATED
            sigma = math.hypot(config.fixed_sigma, config.depth_sigma)
            return ScaleState(config.fixed, True, "fixed", sigma, 0, updated, "")
        if config.mode == "camera_height":
            shared_sigma, reason = config.camera_height_sigma, self._measure_height(result)
        else:
            shared_sigma, reason = (
                config.wheel_sigma,
                self._measure_distance(result, wheel_distance_m),
            )
        is_moving = result.T_prev_cur is not None and bool(result.T_prev_cur[:3, 3].any())
        self._num_unseen = self._num_unseen + is_moving if reason else 0
        status = ScaleStatus.HELD if reason else ScaleStatus.UPDATED
        scale, chosen = self._observed.scale, self._observed
        drift = min(config.depth_sigma, config.drift_sigma * math.sqrt(self._num_unseen))
        if scale is None:
            scale, chosen = self._from_depth.scale, self._from_depth
            shared_sigma, drift = config.depth_sigma, 0.0
            reason = reason or "by depth alone until the camera moves"
        if scale is None:
            count = self._observed.num_observations
            counted = f"{count} of {config.min_observations} observations"
            return self._without_estimate(
                ScaleStatus.WAITING, counted if status is ScaleStatus.UPDATED else reason
            )
        sigma = math.hypot(shared_sigma, drift, chosen.relative_sigma)
        return ScaleState(scale, True, config.mode, sigma, chosen.num_observations, status, reason)

    def _without_estimate(self, status: ScaleStatus, reason: str) -> ScaleState:
        source = "bundle" if self._is_metric_bundle else "none"
        sigma = self._config.depth_sigma
        return ScaleState(1.0, self._is_metric_bundle, source, sigma, 0, status, reason)

    def _measure_height(self, result: FrameResult) -> str:
        """Observe the scale by the ground; return why that was not possible, else empty."""
        if result.T_prev_cur is not None:
            self._normal.update(result.T_prev_cur, result.pose_covariance)
        ground = measure_ground(result, self._normal.down, self._config.ground)
        if ground.height is None or self._config.camera_height_m is None:
            return ground.reason
        observed = self._config.camera_height_m / ground.height
        if ground.is_by_parallax:
            return self._observed.add(observed)
        if self._observed.scale is None:
            return self._from_depth.add(observed)
        return ground.reason

    def _measure_distance(self, result: FrameResult, wheel_distance_m: float | None) -> str:
        """Observe the scale by wheel odometry; return why that was not possible, else empty."""
        reason = ""
        if result.T_prev_cur is None:
            reason = f"no step of the camera: {result.tracking.value}"
        elif wheel_distance_m is None:
            reason = "no wheel odometry for the time of this frame"
        elif wheel_distance_m < _STANDSTILL_M:
            reason = "the wheels stand still"
        if result.T_prev_cur is None or wheel_distance_m is None or reason:
            self._wheels_m = self._picture = 0.0
            return reason
        self._wheels_m += wheel_distance_m
        self._picture += float(np.linalg.norm(result.T_prev_cur[:3, 3]))
        wheels_m, picture = self._wheels_m, self._picture
        if wheels_m < self._config.min_distance_m:
            return f"only {wheels_m:.3f} m driven since the last observation"
        self._wheels_m = self._picture = 0.0
        if picture <= 0:
            return f"the wheels have gone {wheels_m:.2f} m while the picture stood still: slip?"
        return self._observed.add(wheels_m / picture)


def apply_scale(result: FrameResult, scale: ScaleState, T_odom_prev: Float64) -> FrameResult:
    """Bring a frame to the scale: depth, the step with its covariance, and the pose.

    The pose is that of the previous frame plus the scaled step. So a scale that changes later moves
    nothing that has been published.

    Args:
        result: As the pipeline gives it.
        scale: For this frame.
        T_odom_prev: (4, 4), scaled pose of the previous frame in the odometry frame; the identity
            at the start and after a reset to the origin.

    Returns:
        A new result. The covariance holds the scale's uncertainty along the direction of travel, in
        place of that of a scale which the result has been brought to before.
    """
    factor = scale.factor
    depth = result.depth if factor == 1 else result.depth * np.float32(factor)
    if result.T_prev_cur is None:
        return replace(result, depth=depth, T_odom_cam=T_odom_prev.copy(), scale=scale)
    step = result.T_prev_cur.copy()
    step[:3, 3] *= factor
    units = np.diag([factor] * 3 + [1.0] * 3)
    covariance, shared = units @ result.pose_covariance @ units, units @ result.shared_errors
    replaced = shared[:, SCALE_ERROR].copy()
    shared[:3, SCALE_ERROR] = step[:3, :3].T @ step[:3, 3] * scale.relative_sigma
    along = shared[:, SCALE_ERROR]
    covariance += np.outer(along, along) - np.outer(replaced, replaced)
    egomotion = result.egomotion
    if egomotion is not None:
        egomotion = replace(
            egomotion,
            T_prev_cur=step.copy(),
            covariance=covariance.copy(),
            shared_errors=shared.copy(),
        )
    return replace(
        result,
        depth=depth,
        T_prev_cur=step,
        T_odom_cam=rigid.nearest_rigid(T_odom_prev @ step),
        pose_covariance=covariance,
        shared_errors=shared,
        egomotion=egomotion,
        scale=scale,
    )


def distance_of_camera(T_prev_cur_base: Float64, T_base_cam: Float64) -> float:
    """Return how far the camera moves when the base makes a step.

    In a turn a camera in front of the axle goes further than the base.

    Args:
        T_prev_cur_base: (4, 4), step of the base, such as wheel odometry at two stamps.
        T_base_cam: (4, 4), the mounting.

    Returns:
        Metres.
    """
    step = rigid.invert(T_base_cam) @ T_prev_cur_base @ T_base_cam
    return float(np.linalg.norm(step[:3, 3]))
