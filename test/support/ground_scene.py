"""Frames of a camera over flat ground, with exact depth and flow, as the pipeline would give them.

Made of planes only, so that the camera may be tilted in any way and the truth is a formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.egomotion import LOST_VARIANCE, Egomotion
from coopnet_core.inference.pipeline import FrameResult, Tracking

Float64 = npt.NDArray[np.float64]

CAMERA = Intrinsics(208, 64, 121.0, 123.0, 101.5, 29.0)
HEIGHT_M = 1.65
LEVEL = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Plane:
    """Points X with ``normal . X == distance``, in metres and camera axes.

    ``within``: (H, W) bool, the pixels that may see it; None for all.
    """

    normal: Float64
    distance: float
    within: npt.NDArray[np.bool_] | None = None


def tilted(pitch_deg: float, roll_deg: float = 0.0) -> Float64:
    """Return the direction down in a camera that looks down by ``pitch_deg``, then rolled."""
    pitch, roll = np.radians([pitch_deg, roll_deg])
    x, y, z = 0.0, np.cos(pitch), np.sin(pitch)
    return np.array([x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll), z])


def forward_of(down: Float64) -> Float64:
    """Return the direction of travel over the ground."""
    forward = np.array([0.0, 0.0, 1.0]) - down[2] * down
    return forward / np.linalg.norm(forward)


def rays() -> Float64:
    """Return the viewing rays with z = 1, (H, W, 3)."""
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    x, y = (u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def drive(
    down: Float64 = LEVEL,
    step_m: float = 0.8,
    yaw: float = 0.0,
    height_m: float = HEIGHT_M,
    others: Sequence[Plane] = (),
    unit_m: float = 1.0,
    noise_px: float = 0.0,
    depth_noise: float = 0.0,
    seed: int = 0,
) -> FrameResult:
    """Make the result of a frame after a step over the ground.

    Args:
        down: The ground's normal in the camera.
        step_m: Length of the step.
        yaw: Turn about the normal, radians.
        height_m: Of the camera.
        others: Planes that hide the ground where they are nearer.
        unit_m: Metres per unit of depth: what the scale should be.
        noise_px: Standard deviation of flow, constant over blocks of 4x4 pixels.
        depth_noise: The same of depth, relative.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    ray = rays()
    depth_m = np.full(ray.shape[:2], 60.0)
    for plane in (Plane(down, height_m), *others):
        sink = ray @ plane.normal
        with np.errstate(divide="ignore"):
            z = np.where(sink * plane.distance > 0, plane.distance / sink, np.inf)
        if plane.within is not None:
            z = np.where(plane.within, z, np.inf)
        depth_m = np.minimum(depth_m, z)
    T_prev_cur = rigid.exp(np.concatenate([step_m * forward_of(down), yaw * down]))
    before = (ray * depth_m[..., None]) @ T_prev_cur[:3, :3].T + T_prev_cur[:3, 3]
    grid = np.stack(np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height)), axis=-1)
    landing = np.stack(
        [
            CAMERA.fx * before[..., 0] / before[..., 2] + CAMERA.cx,
            CAMERA.fy * before[..., 1] / before[..., 2] + CAMERA.cy,
        ],
        axis=-1,
    )
    blocks = (CAMERA.height // 4, CAMERA.width // 4)
    noise = rng.normal(0, noise_px, (*blocks, 2)).repeat(4, axis=0).repeat(4, axis=1)
    error = rng.normal(0, depth_noise, blocks).repeat(4, axis=0).repeat(4, axis=1)
    T_prev_cur[:3, 3] /= unit_m
    is_still = step_m == 0 and yaw == 0
    covariance = np.diag([1e-4] * 3 + [1e-6] * 3)
    source = "still" if is_still else "geometry"
    return FrameResult(
        stamp_ns=0,
        intrinsics=CAMERA,
        depth=(depth_m * np.exp(error) / unit_m).astype(np.float32),
        flow=(grid - landing + noise).astype(np.float32),
        motion_mask=None,
        T_prev_cur=T_prev_cur,
        T_odom_cam=np.eye(4),
        pose_covariance=covariance,
        tracking=Tracking.TRACKING,
        reset_reason=None,
        timings_ms={},
        egomotion=Egomotion(T_prev_cur, covariance, source, "", 800, 1.0),
    )


def lost() -> FrameResult:
    """Make the result of a frame without a step."""
    frame = drive()
    return FrameResult(
        **{
            **frame.__dict__,
            "T_prev_cur": None,
            "flow": None,
            "egomotion": None,
            "tracking": Tracking.LOST,
            "pose_covariance": np.eye(6) * LOST_VARIANCE,
        }
    )
