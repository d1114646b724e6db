"""Pose network: two images in, the motion between their cameras out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coopnet_core.checks import check_image_size
from coopnet_core.networks.encoder import Encoder
from coopnet_core.networks.precision import full_precision

ROTATION_SCALE = 0.1
TRANSLATION_SCALE = 1.0
"""What an output of one means, in radians and in the depth's unit. Zhou et al., CVPR 2017, use 0.01
for both; over a few thousand steps that head learns neither: stereo partners fix the unit to the
metre, where a car moves one per frame, and after 800 steps at 0.01 its yaw did not follow the true
one at all."""


class PoseNetwork(nn.Module):
    """Predict ``T_src_tgt`` as axis-angle and translation.

    Args:
        encoder: Pyramid over both images stacked along channels, down to stride 16.
        width: Channels of the head.
    """

    def __init__(self, encoder: Encoder, *, width: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        # Leaky: with plain ReLUs and too high a rate 99 % of this head died, and a pose that is the
        # same for every pair teaches depth nothing.
        self.head = nn.Sequential(
            nn.Conv2d(encoder.feature_channels[-1], width, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width, 6, 1),
        )

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> Tensor:
        """Predict motion.

        Args:
            image_tgt: (B, 3, H, W) in [0, 1].
            image_src: (B, 3, H, W) in [0, 1].

        Returns:
            (B, 6): axis-angle in radians, then translation in the depth's unit.

        Raises:
            ShapeError: H or W is not a multiple of 32.
        """
        check_image_size("image_tgt", image_tgt)
        features = self.encoder(torch.cat([image_tgt, image_src], dim=1))[-1]
        vector = full_precision(self.head, features).mean(dim=(2, 3))
        return torch.cat([vector[:, :3] * ROTATION_SCALE, vector[:, 3:] * TRANSLATION_SCALE], dim=1)
