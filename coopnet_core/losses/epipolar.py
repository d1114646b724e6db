"""Distance of flow from the epipolar line that camera motion allows."""

from __future__ import annotations

import torch
from torch import Tensor

from coopnet_core.checks import check_shape
from coopnet_core.geometry.camera import invert_intrinsics, pixel_grid
from coopnet_core.geometry.se3 import skew


def epipolar_error(flow_tgt_src: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """Return |M p . p_flow| / sqrt(a^2 + b^2) with (a, b, c) = M p (CoopNet supplement, eq. 29).

    M = K^-T [t]x R K^-1, p the target pixel, p_flow = p + flow(p). The absolute value is ours: the
    printed formula has a sign and would reward large distances on one side of the line.

    Args:
        flow_tgt_src: (B, 2, H, W), pixels.
        T_src_tgt: (B, 4, 4); only the direction of the translation matters.
        K: (B, 3, 3), pixels, shared by both images.

    Returns:
        Point-to-line distance in pixels, (B, 1, H, W).
    """
    sizes = check_shape("flow_tgt_src", flow_tgt_src, "B", 2, "H", "W")
    check_shape("T_src_tgt", T_src_tgt, sizes["B"], 4, 4)
    translation = T_src_tgt[:, :3, 3]
    # M is defined up to scale; a unit direction keeps the arithmetic well conditioned.
    direction = translation / translation.norm(dim=1, keepdim=True).clamp(min=1e-9)
    K_inverse = invert_intrinsics(K)
    fundamental = K_inverse.transpose(1, 2) @ skew(direction) @ T_src_tgt[:, :3, :3] @ K_inverse
    pixels = pixel_grid(sizes["H"], sizes["W"], flow_tgt_src)
    ones = torch.ones_like(pixels[:, :1])
    homogeneous = torch.cat([pixels, ones], dim=1).flatten(2)
    line = fundamental @ homogeneous.expand(sizes["B"], -1, -1)
    landed = torch.cat([pixels + flow_tgt_src, ones.expand(sizes["B"], -1, -1, -1)], dim=1)
    numerator = (line * landed.flatten(2)).sum(1).abs()
    # Clamped before the root: its gradient is infinite at zero, the epipole of a pixel.
    denominator = (line[:, :2] ** 2).sum(1).clamp(min=1e-12).sqrt()
    return (numerator / denominator).view(sizes["B"], 1, sizes["H"], sizes["W"])
