"""Where points go when the camera moves: rays, rigid flow, and flow consistency in numpy.

The torch twins of these functions, for training, are in ``coopnet_core.geometry``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_DEPTH = 1e-3
"""Points nearer than this, in the depth's unit, count as behind the camera."""


@dataclass(frozen=True)
class RigidFlow:
    """Image motion that the camera's own motion explains.

    Attributes:
        flow: (H, W, 2) float32, pixels, from the current image into the other one.
        per_log_depth: (H, W, 2) float32, derivative of ``flow`` by the logarithm of depth: it
            points along the epipolar line, and its length is the parallax.
        is_visible: (H, W) bool, depth is valid and the point is in front of the other camera and
            inside its image.
    """

    flow: Float32
    per_log_depth: Float32
    is_visible: Mask


def rigid_flow(depth: Float32, T_other_cur: Float64, intrinsics: Intrinsics) -> RigidFlow:
    """Compute where each pixel goes if nothing but the camera moves.

    Args:
        depth: (H, W) float32 of the current image, NaN where invalid.
        T_other_cur: (4, 4), pose of the current camera in the other camera.
        intrinsics: Camera of both images, of the size of ``depth``.

    Returns:
        The flow with its sensitivity to depth.
    """
    fx, fy = np.float32(intrinsics.fx), np.float32(intrinsics.fy)
    cx, cy = np.float32(intrinsics.cx), np.float32(intrinsics.cy)
    height, width = depth.shape
    u = np.arange(width, dtype=np.float32)[None, :]
    v = np.arange(height, dtype=np.float32)[:, None]
    ray_x, ray_y = (u - cx) / fx, (v - cy) / fy
    rotation = T_other_cur[:3, :3].astype(np.float32)
    step = T_other_cur[:3, 3].astype(np.float32)
    # The point at depth d is d * direction + step in the other camera.
    dx, dy, dz = (r[0] * ray_x + r[1] * ray_y + r[2] for r in rotation)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, z = depth * dx, depth * dy, depth * dz
        inverse_z = 1 / (z + step[2])
        px, py = (x + step[0]) * inverse_z, (y + step[1]) * inverse_z
        flow = np.empty((height, width, 2), np.float32)
        landing_u, landing_v = fx * px + cx, fy * py + cy
        flow[..., 0] = landing_u - u
        flow[..., 1] = landing_v - v
        per_log_depth = np.empty_like(flow)
        per_log_depth[..., 0] = fx * (x - px * z) * inverse_z
        per_log_depth[..., 1] = fy * (y - py * z) * inverse_z
        is_visible = z + step[2] > MIN_DEPTH
        is_visible &= _is_inside(landing_u, landing_v, width, height)
    return RigidFlow(flow, per_log_depth, is_visible)


def is_consistent(
    flow_a_b: Float32, flow_b_a: Float32, absolute_px: float, relative: float
) -> Mask:
    """Tell which pixels of image a have a counterpart in image b, by going there and back.

    A pixel that is occluded in b, leaves b, or whose flow is wrong, does not come back to where it
    started (Sundaram et al., ECCV 2010).

    Args:
        flow_a_b: (H, W, 2) float32, pixels.
        flow_b_a: (H, W, 2) float32, pixels.
        absolute_px: Distance from the start that is always tolerated.
        relative: Further distance tolerated per pixel of flow.

    Returns:
        (H, W) bool.
    """
    height, width = flow_a_b.shape[:2]
    u, v = landing(flow_a_b)
    back = np.asarray(
        cv2.remap(flow_b_a, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    error = vector_length(flow_a_b + back)
    tolerance = np.float32(absolute_px) + np.float32(relative) * vector_length(flow_a_b)
    return (error <= tolerance) & _is_inside(u, v, width, height)


def vector_length(vectors: Float32) -> Float32:
    """Return the length of each vector, (H, W, 2) -> (H, W)."""
    length: Float32 = np.sqrt(np.square(vectors[..., 0]) + np.square(vectors[..., 1]))
    return length


def landing(flow: Float32) -> tuple[Float32, Float32]:
    """Return where flow (H, W, 2) takes each pixel: u and v, (H, W) each."""
    height, width = flow.shape[:2]
    u = flow[..., 0] + np.arange(width, dtype=np.float32)[None, :]
    v = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return u, v


def _is_inside(u: Float32, v: Float32, width: int, height: int) -> Mask:
    return (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
