"""Pinhole projection on tensors. Pixel (0, 0) is the centre of the top-left pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from coopnet_core.checks import check_shape

MIN_DEPTH = 1e-3
"""Points nearer than this, in the depth's unit, count as behind the camera."""


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the pixel coordinates, (1, 2, H, W), u then v, on the device and dtype of ``like``."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([u, v])[None]


def scale_intrinsics(K: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Move K along with a resize: ``c' = (c + .5) s - .5``.

    Args:
        K: (B, 3, 3), pixels.
        scale_x: New width over old width.
        scale_y: New height over old height.

    Returns:
        (B, 3, 3), pixels of the resized image.
    """
    check_shape("K", K, "B", 3, 3)
    scaled = K.clone()
    scaled[:, 0] = K[:, 0] * scale_x
    scaled[:, 1] = K[:, 1] * scale_y
    scaled[:, 0, 2] = (K[:, 0, 2] + 0.5) * scale_x - 0.5
    scaled[:, 1, 2] = (K[:, 1, 2] + 0.5) * scale_y - 0.5
    return scaled


def invert_intrinsics(K: Tensor) -> Tensor:
    """Invert K in closed form (no skew), (B, 3, 3) -> (B, 3, 3)."""
    check_shape("K", K, "B", 3, 3)
    inverse = torch.zeros_like(K)
    inverse[:, 0, 0] = 1 / K[:, 0, 0]
    inverse[:, 1, 1] = 1 / K[:, 1, 1]
    inverse[:, 0, 2] = -K[:, 0, 2] / K[:, 0, 0]
    inverse[:, 1, 2] = -K[:, 1, 2] / K[:, 1, 1]
    inverse[:, 2, 2] = 1
    return inverse


def unproject(depth: Tensor, K: Tensor) -> Tensor:
    """Lift every pixel to a 3-D point in the camera frame.

    Args:
        depth: (B, 1, H, W), along the optical axis.
        K: (B, 3, 3), pixels.

    Returns:
        (B, 3, H, W), in the unit of ``depth``.
    """
    sizes = check_shape("depth", depth, "B", 1, "H", "W")
    check_shape("K", K, sizes["B"], 3, 3)
    pixels = pixel_grid(sizes["H"], sizes["W"], depth)
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=1)[:, :, None, None]
    centre = torch.stack([K[:, 0, 2], K[:, 1, 2]], dim=1)[:, :, None, None]
    return torch.cat([(pixels - centre) / focal * depth, depth], dim=1)


def transform_points(T_a_b: Tensor, points_b: Tensor) -> Tensor:
    """Apply a rigid motion to a map of points.

    Args:
        T_a_b: (B, 4, 4).
        points_b: (B, 3, H, W).

    Returns:
        Points in frame a, (B, 3, H, W).
    """
    sizes = check_shape("points_b", points_b, "B", 3, "H", "W")
    check_shape("T_a_b", T_a_b, sizes["B"], 4, 4)
    moved = T_a_b[:, :3, :3] @ points_b.flatten(2) + T_a_b[:, :3, 3:]
    return moved.view_as(points_b)


def project(points: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Project camera-frame points to pixels.

    Args:
        points: (B, 3, H, W).
        K: (B, 3, 3), pixels.

    Returns:
        Pixel coordinates (B, 2, H, W) and depth (B, 1, H, W). Depth is not clamped; where it is
        below ``MIN_DEPTH`` the coordinates are meaningless and the caller masks them.
    """
    sizes = check_shape("points", points, "B", 3, "H", "W")
    check_shape("K", K, sizes["B"], 3, 3)
    depth = points[:, 2:]
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=1)[:, :, None, None]
    centre = torch.stack([K[:, 0, 2], K[:, 1, 2]], dim=1)[:, :, None, None]
    return points[:, :2] / depth.clamp(min=MIN_DEPTH) * focal + centre, depth
