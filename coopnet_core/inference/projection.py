"""Where points go when the camera moves, and whether flow comes back: in numpy, at any pixels.

The torch twins of these functions, for training, are in ``coopnet_core.geometry``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_DEPTH = 1e-3
"""Points nearer than this, in the depth's unit, count as behind the camera."""

_SAMPLE_COLUMNS = 64


class RigidFlow(NamedTuple):
    """Where pixels go if nothing but the camera moves; arrays of the pixels' shape.

    Attributes:
        u: float32, column in the other image; NaN without depth.
        v: float32, row in the other image.
        by_log_depth_u: float32, derivative of ``u`` by the logarithm of depth.
        by_log_depth_v: float32, derivative of ``v``. The two point along the epipolar line, and
            their length is the parallax.
        is_visible: bool, depth is valid and the point is in front of the other camera and inside
            its image.
    """

    u: Float32
    v: Float32
    by_log_depth_u: Float32
    by_log_depth_v: Float32
    is_visible: Mask


def rigid_flow(
    u: npt.NDArray[Any],
    v: npt.NDArray[Any],
    depth: Float32,
    T_other_cur: Float64,
    intrinsics: Intrinsics,
) -> RigidFlow:
    """Compute where pixels go if nothing but the camera moves.

    Args:
        u: Columns of the pixels; ``u`` and ``v`` need only broadcast to the shape of ``depth``.
        v: Rows of the pixels.
        depth: float32, NaN where invalid.
        T_other_cur: (4, 4), pose of the current camera in the other camera.
        intrinsics: Camera of both images.

    Returns:
        The places with their sensitivity to depth.
    """
    K = intrinsics.matrix()
    # In pixels and divided by depth, a point is homography (u, v, 1) + epipole / depth.
    homography = (K @ T_other_cur[:3, :3] @ np.linalg.inv(K)).astype(np.float32)
    epipole = (K @ T_other_cur[:3, 3]).astype(np.float32)
    u, v = u.astype(np.float32), v.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        inverse_depth = np.float32(1) / depth
        x, y, z = (
            (h[0] * u + h[2]) + h[1] * v + e * inverse_depth
            for h, e in zip(homography, epipole, strict=True)
        )
        inverse_z = np.float32(1) / z
        to_u, to_v = x * inverse_z, y * inverse_z
        share = inverse_depth * inverse_z
        by_u, by_v = (
            (epipole[2] * to_u - epipole[0]) * share,
            (epipole[2] * to_v - epipole[1]) * share,
        )
        is_visible = z * depth > MIN_DEPTH
    is_visible &= _is_inside(to_u, to_v, intrinsics.width, intrinsics.height)
    return RigidFlow(to_u, to_v, by_u, by_v, is_visible)


def is_consistent(
    u: npt.NDArray[Any],
    v: npt.NDArray[Any],
    flow_a_b: Float32,
    image_flow_b_a: Float32,
    absolute_px: float,
    relative: float,
) -> Mask:
    """Tell which pixels of image a have a counterpart in image b, by going there and back.

    A pixel that is occluded in b, leaves b, or whose flow is wrong, does not come back to where it
    started (Sundaram et al., ECCV 2010).

    Args:
        u: (N,) columns of the pixels.
        v: (N,) rows of the pixels.
        flow_a_b: (N, 2) float32, their flow, pixels.
        image_flow_b_a: (H, W, 2) float32, flow of the whole image b, pixels.
        absolute_px: Distance from the start that is always tolerated.
        relative: Further distance tolerated per pixel of flow.

    Returns:
        (N,) bool.
    """
    height, width = image_flow_b_a.shape[:2]
    to_u, to_v = u + flow_a_b[:, 0], v + flow_a_b[:, 1]
    error = vector_length(flow_a_b + sample(image_flow_b_a, to_u, to_v))
    tolerance = np.float32(absolute_px) + np.float32(relative) * vector_length(flow_a_b)
    return (error <= tolerance) & _is_inside(to_u, to_v, width, height)


def sample(image: npt.NDArray[Any], u: npt.NDArray[Any], v: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an image's values at points, bilinear, beyond its border that of the border.

    Args:
        image: (H, W) or (H, W, C).
        u: (N,) columns.
        v: (N,) rows.

    Returns:
        (N,) or (N, C), of the image's type.
    """
    # In lines of a fixed length: remap takes any shape, but no more than 32767 rows.
    maps = np.zeros((2, len(u) // _SAMPLE_COLUMNS + 1, _SAMPLE_COLUMNS), np.float32)
    flat = maps.reshape(2, -1)
    flat[0, : len(u)] = u
    flat[1, : len(u)] = v
    found = cv2.remap(image, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found).reshape(-1, *image.shape[2:])[: len(u)]


def vector_length(vectors: Float32) -> Float32:
    """Return the length of each vector, (..., 2) -> (...)."""
    length: Float32 = np.sqrt(np.square(vectors[..., 0]) + np.square(vectors[..., 1]))
    return length


def _is_inside(u: Float32, v: Float32, width: int, height: int) -> Mask:
    return (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
