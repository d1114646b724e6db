"""Rigid motions as 4x4 matrices; ``T_a_b`` maps points of frame b into frame a."""

from __future__ import annotations

import torch
from torch import Tensor

from coopnet_core.checks import check_shape


def skew(vector: Tensor) -> Tensor:
    """Return the matrix [v]x of a cross product: ``[v]x @ w == cross(v, w)``.

    Args:
        vector: (B, 3).

    Returns:
        (B, 3, 3).
    """
    check_shape("vector", vector, "B", 3)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def rotation_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula, smooth through the zero rotation.

    Args:
        axis_angle: (B, 3), radians.

    Returns:
        Rotation matrices, (B, 3, 3).
    """
    check_shape("axis_angle", axis_angle, "B", 3)
    squared = (axis_angle * axis_angle).sum(-1)
    is_small = squared < 1e-6
    # The square root has no finite gradient at zero, so the exact branch never sees a small angle.
    safe_squared = torch.where(is_small, torch.ones_like(squared), squared)
    angle = safe_squared.sqrt()
    sine_ratio = torch.where(is_small, 1 - squared / 6, angle.sin() / angle)
    cosine_ratio = torch.where(is_small, 0.5 - squared / 24, (1 - angle.cos()) / safe_squared)
    generator = skew(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return (
        identity
        + sine_ratio[:, None, None] * generator
        + cosine_ratio[:, None, None] * (generator @ generator)
    )


def matrix_from_vector(vector: Tensor) -> Tensor:
    """Build a transform from axis-angle and translation.

    The translation is taken as it is (no SE(3) left Jacobian), as in Zhou et al., CVPR 2017.

    Args:
        vector: (B, 6), axis-angle in radians, then translation in the depth's unit.

    Returns:
        (B, 4, 4).
    """
    check_shape("vector", vector, "B", 6)
    rotation = rotation_from_axis_angle(vector[:, :3])
    upper = torch.cat([rotation, vector[:, 3:, None]], dim=2)
    last = torch.tensor([0, 0, 0, 1], dtype=vector.dtype, device=vector.device)
    return torch.cat([upper, last.expand(vector.shape[0], 1, 4)], dim=1)


def invert(transform: Tensor) -> Tensor:
    """Invert rigid transforms without a general matrix inverse.

    Args:
        transform: (B, 4, 4), ``T_a_b``.

    Returns:
        (B, 4, 4), ``T_b_a``.
    """
    check_shape("transform", transform, "B", 4, 4)
    rotation_t = transform[:, :3, :3].transpose(1, 2)
    translation = -(rotation_t @ transform[:, :3, 3:])
    return torch.cat([torch.cat([rotation_t, translation], dim=2), transform[:, 3:]], dim=1)
