"""Forward-backward consistency of flow."""

from __future__ import annotations

from torch import Tensor

from coopnet_core.geometry.warp import warp_by_flow
from coopnet_core.losses.photometric import masked_mean


def flow_consistency_loss(flow_tgt_src: Tensor, flow_src_tgt: Tensor, mask: Tensor) -> Tensor:
    """Mean L1 distance between a pixel and where it lands after going there and back.

    Args:
        flow_tgt_src: (B, 2, H, W), pixels.
        flow_src_tgt: (B, 2, H, W), pixels.
        mask: Pixels to count, bool (B, 1, H, W); occluded ones have no way back.

    Returns:
        Scalar, pixels.
    """
    back = warp_by_flow(flow_src_tgt, flow_tgt_src).image
    return masked_mean((flow_tgt_src + back).abs().sum(1, keepdim=True), mask)
