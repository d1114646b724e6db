"""Depth network: an encoder's pyramid and a U-shaped decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coopnet_core.checks import check_image_size
from coopnet_core.networks.encoder import Encoder
from coopnet_core.networks.precision import full_precision

MIN_CANONICAL_DEPTH = 0.1
MAX_CANONICAL_DEPTH = 200.0
OUTPUT_STRIDES = (1, 4, 8)
"""Sizes at which depth is predicted in training: those at which the flow network predicts too."""
INITIAL_CANONICAL_DEPTH = 20.0
"""Where training starts. The middle of the sigmoid would start at 0.2, where a translation of one
unit moves every pixel out of view and nothing can be learnt."""


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 3x3 convolution with ELU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ELU(inplace=True))


def inverse_depth_from_logit(logit: Tensor) -> Tensor:
    """Map an unbounded output to inverse canonical depth between the two limits.

    As in Godard et al., ICCV 2019: a sigmoid scaled to [1 / max, 1 / min].
    """
    lowest, highest = 1 / MAX_CANONICAL_DEPTH, 1 / MIN_CANONICAL_DEPTH
    return lowest + (highest - lowest) * torch.sigmoid(logit)


def _initial_logit() -> float:
    lowest, highest = 1 / MAX_CANONICAL_DEPTH, 1 / MIN_CANONICAL_DEPTH
    share = (1 / INITIAL_CANONICAL_DEPTH - lowest) / (highest - lowest)
    return math.log(share / (1 - share))


class DepthNetwork(nn.Module):
    """Predict inverse canonical depth at strides 1, 4 and 8 (see ``geometry.canonical``).

    Args:
        encoder: Pyramid with features at strides 2 to 32.
        widths: Decoder channels from the deepest level (stride 16) to full size.
    """

    def __init__(self, encoder: Encoder, *, widths: tuple[int, ...] = (96, 64, 40, 24, 16)) -> None:
        super().__init__()
        self.encoder = encoder
        skips = tuple(reversed(encoder.feature_channels))
        self.reduce = nn.Sequential(nn.Conv2d(skips[0], widths[0], 1), nn.ELU(inplace=True))
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            skip = skips[level + 1] if level + 1 < len(skips) else 0
            self.blocks.append(conv_block(channels + skip, width))
            channels = width
            if 2 ** (len(widths) - 1 - level) in OUTPUT_STRIDES:
                head = nn.Conv2d(width, 1, 3, padding=1)
                nn.init.normal_(head.weight, std=1e-3)
                nn.init.constant_(head.bias, _initial_logit())  # type: ignore[arg-type]
                self.heads.append(head)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Predict inverse canonical depth.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of 32.

        Returns:
            Finest first: (B, 1, H, W), (B, 1, H/4, W/4), (B, 1, H/8, W/8).

        Raises:
            ShapeError: H or W is not a multiple of 32.
        """
        check_image_size("image", image)
        pyramid = self.encoder(image)
        features = self.reduce(pyramid[-1])
        skips = [*reversed(pyramid[:-1]), None]
        predictions: list[Tensor] = []
        for level, (block, skip) in enumerate(zip(self.blocks, skips, strict=True)):
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            if skip is not None:
                features = torch.cat([features, skip], dim=1)
            features = block(features)
            if 2 ** (len(self.blocks) - 1 - level) in OUTPUT_STRIDES:
                logit = full_precision(self.heads[len(predictions)], features)
                predictions.append(inverse_depth_from_logit(logit))
        return predictions[::-1]
