"""Full precision for the last layers under mixed precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full_precision(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply a layer in float32 whatever the autocast mode around it.

    A bfloat16 logit moves depth in steps of 3 %, and a bfloat16 flow cannot tell 100.0 pixels from
    100.4.

    Args:
        layer: The layer.
        features: Its input.

    Returns:
        Its output, float32 where autocast is on.
    """
    if not torch.is_autocast_enabled(features.device.type):
        result: Tensor = layer(features)
        return result
    with torch.autocast(features.device.type, enabled=False):
        result = layer(features.float())
    return result
