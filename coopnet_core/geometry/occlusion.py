"""Occlusion from forward-backward consistency of flow."""

from __future__ import annotations

from torch import Tensor

from coopnet_core.checks import check_shape
from coopnet_core.geometry.warp import warp_by_flow


def occlusion_mask(
    flow_tgt_src: Tensor, flow_src_tgt: Tensor, relative: float = 0.01, absolute_px2: float = 0.5
) -> Tensor:
    """Tell which target pixels have no counterpart in the source.

    Occluded where |f + b(p+f)|^2 > ``relative`` (|f|^2 + |b|^2) + ``absolute_px2`` (Sundaram et
    al., ECCV 2010; the constants are those of Meister et al., "UnFlow", AAAI 2018).

    Args:
        flow_tgt_src: (B, 2, H, W), pixels.
        flow_src_tgt: (B, 2, H, W), pixels.
        relative: Tolerance that grows with the motion.
        absolute_px2: Tolerance at rest, squared pixels.

    Returns:
        bool (B, 1, H, W), without gradient.
    """
    sizes = check_shape("flow_tgt_src", flow_tgt_src, "B", 2, "H", "W")
    check_shape("flow_src_tgt", flow_src_tgt, sizes["B"], 2, sizes["H"], sizes["W"])
    forward, backward = flow_tgt_src.detach(), flow_src_tgt.detach()
    back = warp_by_flow(backward, forward).image
    error = (forward + back).pow(2).sum(1, keepdim=True)
    size = forward.pow(2).sum(1, keepdim=True) + back.pow(2).sum(1, keepdim=True)
    return error > relative * size + absolute_px2
