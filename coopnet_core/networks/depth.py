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


FINEST_DECODER_STRIDE = 2


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build two 3x3 convolutions, each with ELU."""
    # Zeros outside the picture would tell the network where its border is, and what lies there is
    # seldom taught, since the other view does not see it: depth then has a frame.
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate"),
        nn.ELU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, padding_mode="replicate"),
        nn.ELU(inplace=True),
    )


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

    The decoder stops at stride 2, where the encoder's finest features are; its head predicts four
    numbers per place, which a pixel shuffle (Shi et al., CVPR 2016) lays out at full size. That
    costs a quarter of a decoder level at full size, which would have no features to refine with.

    Args:
        encoder: Pyramid with features at strides 2 to 32.
        widths: Decoder channels at strides 16, 8, 4 and 2.
    """

    def __init__(self, encoder: Encoder, *, widths: tuple[int, ...] = (96, 64, 48, 32)) -> None:
        super().__init__()
        self.encoder = encoder
        self.strides = tuple(2**level for level in range(len(widths), 0, -1))
        skips = tuple(reversed(encoder.feature_channels))
        self.reduce = nn.Sequential(nn.Conv2d(skips[0], widths[0], 1), nn.ELU(inplace=True))
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        channels = widths[0]
        for skip, width, stride in zip(skips[1:], widths, self.strides, strict=True):
            self.blocks.append(conv_block(channels + skip, width))
            channels = width
            if stride == FINEST_DECODER_STRIDE or stride in OUTPUT_STRIDES:
                outputs = FINEST_DECODER_STRIDE**2 if stride == FINEST_DECODER_STRIDE else 1
                head = nn.Conv2d(width, outputs, 3, padding=1, padding_mode="replicate")
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
        predictions: list[Tensor] = []
        for block, skip, stride in zip(
            self.blocks, reversed(pyramid[:-1]), self.strides, strict=True
        ):
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([features, skip], dim=1))
            if stride == FINEST_DECODER_STRIDE or stride in OUTPUT_STRIDES:
                logit = full_precision(self.heads[len(predictions)], features)
                if stride == FINEST_DECODER_STRIDE:
                    logit = F.pixel_shuffle(logit, FINEST_DECODER_STRIDE)
                predictions.append(inverse_depth_from_logit(logit))
        return predictions[::-1]
