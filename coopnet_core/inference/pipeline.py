"""One camera frame in; depth, flow, motion mask and odometry out."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import InputError
from coopnet_core.geometry.canonical import depth_from_canonical
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.correspondences import Matches, find_matches
from coopnet_core.inference.egomotion import (
    LOST_VARIANCE,
    Egomotion,
    Evidence,
    estimate_egomotion,
    gather_evidence,
)
from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.frame_pair import FramePair
from coopnet_core.inference.metric_scale import (
    MetricScale,
    MetricScaleConfig,
    ScaleState,
    apply_scale,
)
from coopnet_core.inference.motion_mask import MotionMaskConfig, motion_mask
from coopnet_core.inference.pose_covariance import no_shared_errors
from coopnet_core.inference.preprocess import ImageArray, PreparedImage, prepare_image
from coopnet_core.inference.projection import Float32, Mask
from coopnet_core.inference.runtime import Features, FloatArray, Runtime

Float64 = npt.NDArray[np.float64]

_RANGE_TOLERANCE = 1.001
"""A network that says "as far as I can" is off the end of its range by rounding."""

OUTPUTS = frozenset({"depth", "flow", "motion_mask"})
STAGES = (
    "preprocess",
    "flow_features",
    "flow",
    "depth",
    "pose",
    "egomotion",
    "motion_mask",
    "scale",
)
"""What ``FrameResult.timings_ms`` tells apart, beside ``total``."""


class Tracking(enum.Enum):
    """State of odometry."""

    INITIALISING = "initialising"
    TRACKING = "tracking"
    LOST = "lost"


@dataclass(frozen=True)
class PipelineConfig:
    """How frames are processed.

    Attributes:
        max_gap_s: Frames further apart are not compared: the pipeline resets.
        egomotion: How camera motion is estimated.
        motion_mask: When a pixel counts as moving.
    """

    max_gap_s: float = 1.0
    egomotion: EgomotionConfig = field(default_factory=EgomotionConfig)
    motion_mask: MotionMaskConfig = field(default_factory=MotionMaskConfig)


@dataclass(frozen=True)
class FrameResult:
    """What is known after a frame.

    Attributes:
        stamp_ns: Stamp of the frame.
        intrinsics: Camera of the maps below (the network's size).
        depth: (H, W) float32, metres if ``scale.is_metric``, else in the bundle's own unit; NaN
            invalid.
        flow: (H, W, 2) float32, pixels that each point of this frame has moved since the previous
            one, +u right, +v down; None without a previous frame or when not wanted.
        motion_mask: (H, W) bool, what moves by itself; None without a previous frame, when tracking
            is lost (nothing can be said then), or when not wanted.
        T_prev_cur: (4, 4) float64, pose of this camera in the previous one; None without a step.
        T_odom_cam: (4, 4) float64, pose of this camera in the odometry frame, which is the first
            camera: optical axes.
        pose_covariance: (6, 6) float64 of the step in this camera's frame: x, y, z, rotation about
            x, y, z; ``LOST_VARIANCE`` on the diagonal where there is no step. Longer pieces:
            :class:`~coopnet_core.inference.pose_covariance.PoseCovariance`.
        tracking: State of odometry.
        reset_reason: Why the pipeline started anew with this frame, else None.
        timings_ms: Milliseconds per stage, and ``total``.
        egomotion: How the step was found, or why it was not; None without a previous frame.
        scale: What depth and the step have been multiplied by.
        shared_errors: (6, 5) float64, the part of ``pose_covariance`` that successive steps share.
    """

    stamp_ns: int
    intrinsics: Intrinsics
    depth: Float32
    flow: Float32 | None
    motion_mask: Mask | None
    T_prev_cur: Float64 | None
    T_odom_cam: Float64
    pose_covariance: Float64
    tracking: Tracking
    reset_reason: str | None
    timings_ms: dict[str, float]
    egomotion: Egomotion | None = None
    scale: ScaleState | None = None
    shared_errors: Float64 = field(default_factory=no_shared_errors)


@dataclass(frozen=True)
class _Frame:
    """What the next frame needs of this one."""

    stamp_ns: int
    camera: Intrinsics
    images: PreparedImage
    features: Features
    depth: Float32
    T_before_this: Float64 | None


class FramePipeline:
    """Runs the networks on a stream of frames and keeps the camera's pose.

    Args:
        bundle: The model.
        runtime: Runs the model's networks.
        config: Tolerances.
        T_odom_cam: (4, 4) pose to go on from, such as that of a pipeline with another bundle;
            identity by default.
        scale: Metric scale of depth and odometry; by default as the bundle gives it.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        config: PipelineConfig | None = None,
        T_odom_cam: Float64 | None = None,
        scale: MetricScale | None = None,
    ) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._config = config or PipelineConfig()
        self._T_odom_cam = np.eye(4) if T_odom_cam is None else rigid.nearest_rigid(T_odom_cam)
        self._scale = scale or MetricScale(MetricScaleConfig(), bundle.metric)
        self._is_metric: bool | None = None
        self._aside = ThreadPoolExecutor(1, "coopnet-matches")
        self._prev: _Frame | None = None
        self._reset_reason: str | None = None

    @property
    def T_odom_cam(self) -> Float64:
        """Pose of the last frame's camera in the odometry frame, (4, 4)."""
        return self._T_odom_cam.copy()

    def reset(self, reason: str) -> None:
        """Forget the previous frame and go back to the origin; the next result says ``reason``."""
        self._T_odom_cam = np.eye(4)
        self._prev = None
        self._reset_reason = reason

    def use_scale(self, scale: MetricScale) -> None:
        """Take metric scale from elsewhere from the next frame on, such as with a new mounting."""
        self._scale = scale

    def step(
        self,
        image_rgb: ImageArray,
        stamp_ns: int,
        intrinsics: Intrinsics,
        wanted: frozenset[str] = OUTPUTS,
        wheel_distance_m: float | None = None,
    ) -> FrameResult:
        """Process one frame.

        A stamp that goes backwards is a new run: the pose goes back to the origin. After a gap
        (longer than ``max_gap_s``) or a change of camera the pose is held, since odometry must not
        jump, and the step is unknown. When depth becomes metric, or ceases to be, the pose goes
        back to the origin, since a path cannot be in two units. ``reset_reason`` says so each time.

        Args:
            image_rgb: (H, W, 3) RGB or (H, W) mono, uint8, rectified.
            stamp_ns: Time of the image in nanoseconds.
            intrinsics: Camera of the image at its size.
            wanted: Outputs that somebody uses, of ``depth``, ``flow``, ``motion_mask``. Depth and
                odometry are always computed.
            wheel_distance_m: How far the camera has come since the previous frame by wheel
                odometry, for a scale that asks for it; None where unknown.

        Returns:
            Everything known after this frame.

        Raises:
            InputError: The image has another size than its camera, is not uint8 mono or RGB, or
                ``wanted`` names something else. The state stays as it was.
        """
        unknown = wanted - OUTPUTS
        if unknown:
            raise InputError(
                f"unknown outputs {', '.join(sorted(unknown))}: choose of "
                f"{', '.join(sorted(OUTPUTS))}"
            )
        if image_rgb.shape[:2] != (intrinsics.height, intrinsics.width):
            raise InputError(
                f"the image is {image_rgb.shape[1]}x{image_rgb.shape[0]} but its camera_info says "
                f"{intrinsics.width}x{intrinsics.height}: both must come from the same driver mode"
                if image_rgb.ndim >= 2
                else f"the image must have two or three axes, got shape {image_rgb.shape}"
            )
        timings = _Timings()
        bundle, runtime = self._bundle, self._runtime
        with timings.stage("preprocess"):
            images = prepare_image(image_rgb, bundle.width, bundle.height, bundle.color)
        camera = intrinsics.resized(bundle.width, bundle.height)
        self._reset_if_needed(stamp_ns, intrinsics)
        prev, flows, comparison = self._prev, None, None
        with timings.stage("flow_features"):
            features = runtime.flow_features(images.network_input)
        if prev is not None:
            with timings.stage("flow"):
                flows = self._flows(features, prev.features)
            # Points are followed, and get their depth, while the other networks are at work.
            matches = self._aside.submit(
                find_matches,
                *flows,
                images.gray,
                images.sharp,
                prev.images.sharp,
                self._config.egomotion,
            )
        with timings.stage("depth"):
            depth = self._depth(images.network_input, camera)
        if prev is not None and flows is not None:
            evidence = self._aside.submit(
                _evidence, matches, depth, prev.depth, camera, self._config.egomotion
            )
            with timings.stage("pose"):
                guess = runtime.pose(images.network_input, prev.images.network_input)[0]
            pair = FramePair(
                depth,
                prev.depth,
                *flows,
                images.gray,
                prev.images.gray,
                camera,
                images.sharp,
                prev.images.sharp,
            )
            guesses = [guess] if prev.T_before_this is None else [guess, prev.T_before_this]
            comparison = self._compare(pair, guesses, evidence, "motion_mask" in wanted, timings)

        egomotion, mask = comparison or (None, None)
        step = None if egomotion is None else egomotion.T_prev_cur
        result = FrameResult(
            stamp_ns=stamp_ns,
            intrinsics=camera,
            depth=depth,
            # In place: nobody needs it the other way round any more, and fresh memory costs more.
            flow=None if flows is None else np.negative(flows[0], out=flows[0]),
            motion_mask=mask,
            T_prev_cur=None if step is None else step.copy(),
            T_odom_cam=self.T_odom_cam,
            pose_covariance=np.eye(6) * LOST_VARIANCE
            if egomotion is None
            else egomotion.covariance,
            tracking=_tracking(egomotion),
            reset_reason=self._reset_reason,
            timings_ms={},
            egomotion=egomotion,
            shared_errors=no_shared_errors() if egomotion is None else egomotion.shared_errors,
        )
        with timings.stage("scale"):
            result = self._scaled(result, wheel_distance_m)
        # What the next frame is compared with stays in the bundle's unit.
        self._prev = _Frame(stamp_ns, intrinsics, images, features, depth, step)
        self._reset_reason = None
        return replace(
            result,
            flow=result.flow if "flow" in wanted else None,
            timings_ms=timings.finish(),
        )

    def _flows(self, features_cur: Features, features_prev: Features) -> tuple[Float32, Float32]:
        """Return flow from the current frame into the previous one and back, (H, W, 2) each."""
        flows = self._runtime.flow(features_cur, features_prev)
        cur_prev, prev_cur = (np.asarray(cv2.merge((f[0, 0], f[0, 1])), np.float32) for f in flows)
        return cur_prev, prev_cur

    def _compare(
        self,
        pair: FramePair,
        guesses: list[Float64],
        evidence: Future[Evidence],
        is_mask_wanted: bool,
        timings: _Timings,
    ) -> tuple[Egomotion, Mask | None]:
        """Find the camera's motion and, with it, what moves by itself."""
        config = self._config
        with timings.stage("egomotion"):
            egomotion = estimate_egomotion(pair, guesses, config.egomotion, evidence.result())
        if not is_mask_wanted or egomotion.T_prev_cur is None:
            return egomotion, None
        with timings.stage("motion_mask"):
            return egomotion, motion_mask(pair, egomotion.T_prev_cur, config.motion_mask)

    def _scaled(self, result: FrameResult, wheel_distance_m: float | None) -> FrameResult:
        scale = self._scale.update(result, wheel_distance_m)
        result = apply_scale(result, scale, self._T_odom_cam)
        if self._is_metric is not None and self._is_metric != scale.is_metric:
            now = f"metres by {scale.source}" if scale.is_metric else "no longer metres"
            reasons = filter(None, [result.reset_reason, f"depth and odometry are {now}"])
            result = replace(result, T_odom_cam=np.eye(4), reset_reason="; ".join(reasons))
        self._is_metric, self._T_odom_cam = scale.is_metric, result.T_odom_cam.copy()
        return result

    def _depth(self, network_input: FloatArray, camera: Intrinsics) -> Float32:
        canonical = self._runtime.depth(network_input)[0, 0]
        limits = self._bundle.info.depth
        lowest = limits.min_canonical / _RANGE_TOLERANCE
        highest = limits.max_canonical * _RANGE_TOLERANCE
        depth: Float32 = depth_from_canonical(canonical, np.float32(camera.fx), camera.width)
        # Two numbers tell whether there is anything to look for; NaN is never within.
        if not (canonical.min() >= lowest and canonical.max() <= highest):
            depth[~((canonical >= lowest) & (canonical <= highest))] = np.nan
        return depth

    def _reset_if_needed(self, stamp_ns: int, camera: Intrinsics) -> None:
        prev = self._prev
        if prev is None:
            return
        gap_s = (stamp_ns - prev.stamp_ns) / 1e9
        if gap_s < 0:
            self.reset(f"the stamp went back by {-gap_s:.3f} s")
        elif gap_s > self._config.max_gap_s:
            self._prev = None
            self._reset_reason = (
                f"no image for {gap_s:.3f} s (more than {self._config.max_gap_s} s)"
            )
        elif camera != prev.camera:
            self._prev = None
            self._reset_reason = f"the camera changed from {prev.camera} to {camera}"


def _evidence(matches: Future[Matches], *rest: Any) -> Evidence:
    """See ``gather_evidence``; the one thread that calls this has found the matches before."""
    return gather_evidence(matches.result(), *rest)


def _tracking(egomotion: Egomotion | None) -> Tracking:
    if egomotion is None:
        return Tracking.INITIALISING
    return Tracking.LOST if egomotion.T_prev_cur is None else Tracking.TRACKING


class _Timings:
    """Wall time of named stages."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._stages_ms[name] = (time.perf_counter() - start) * 1e3

    def finish(self) -> dict[str, float]:
        return {**self._stages_ms, "total": (time.perf_counter() - self._start) * 1e3}
