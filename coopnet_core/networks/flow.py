"""Flow network: warping, cost volume and refinement over a pyramid.

The parts are those of PWC-Net (Sun et al., CVPR 2018); one decoder serves every level, as in
IRR-PWC (Hur & Roth, CVPR 2019), which learns faster from little data; the last step to full size
is RAFT's convex combination (Teed & Deng, ECCV 2020), which keeps motion boundaries sharp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coopnet_core.checks import check_image_size
from coopnet_core.geometry.sample import resize_flow
from coopnet_core.geometry.warp import warp_by_flow
from coopnet_core.networks.encoder import Encoder
from coopnet_core.networks.precision import full_precision

RADIUS = 2
"""Search range of each level in pixels of that level: 2 at stride 32 covers motions of 64 pixels,
and the finer levels add to it."""

UPSAMPLE = 4


def cost_volume(features_tgt: Tensor, features_src: Tensor, radius: int = RADIUS) -> Tensor:
    """Correlate each target feature with the source features around the same place.

    Args:
        features_tgt: (B, C, H, W).
        features_src: (B, C, H, W), already warped to the target.
        radius: Search range in pixels.

    Returns:
        (B, (2 radius + 1)^2, H, W), mean over channels, rows of displacements v, columns u.
    """
    height, width = features_tgt.shape[2:]
    padded = F.pad(features_src, (radius, radius, radius, radius))
    costs = [
        (features_tgt * padded[:, :, v : v + height, u : u + width]).mean(1, keepdim=True)
        for v in range(2 * radius + 1)
        for u in range(2 * radius + 1)
    ]
    return torch.cat(costs, dim=1)


def convex_upsample(flow: Tensor, weights: Tensor, factor: int = UPSAMPLE) -> Tensor:
    """Upsample a flow field as convex combinations of each 3x3 neighbourhood.

    Args:
        flow: (B, 2, H, W), pixels of its own size.
        weights: (B, 9 factor^2, H, W), logits.
        factor: Upsampling factor.

    Returns:
        (B, 2, factor H, factor W), pixels of the new size.
    """
    batch, _, height, width = flow.shape
    mask = weights.view(batch, 1, 9, factor * factor, height, width).softmax(dim=2)
    padded = F.pad(flow * factor, (1, 1, 1, 1), mode="replicate")
    neighbours = torch.stack(
        [padded[:, :, v : v + height, u : u + width] for v in range(3) for u in range(3)], dim=2
    )
    upsampled = (mask * neighbours[:, :, :, None]).sum(dim=2)
    return F.pixel_shuffle(upsampled.reshape(batch, 2 * factor * factor, height, width), factor)


def _conv(in_channels: int, out_channels: int, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation),
        nn.LeakyReLU(0.1, inplace=True),
    )


class FlowNetwork(nn.Module):
    """Predict optical flow in both directions between two images.

    Args:
        encoder: Pyramid down to stride 16; a further level at stride 32 is added here.
        width: Channels of the matching features.
    """

    def __init__(self, encoder: Encoder, *, width: int = 32) -> None:
        super().__init__()
        self.encoder = encoder
        channels = encoder.feature_channels
        self.deepest = _conv(channels[-1], 96, stride=2)
        # Matching features of every level share one width so that one decoder fits all levels.
        self.projections = nn.ModuleList(
            nn.Conv2d(c, width, 1) for c in (channels[1], channels[2], channels[3], 96)
        )
        num_costs = (2 * RADIUS + 1) ** 2
        self.estimator = nn.Sequential(_conv(num_costs + width + 2, 64), _conv(64, 32))
        self.flow_head = nn.Conv2d(32, 2, 3, padding=1)
        self.context = nn.Sequential(_conv(34, 32), _conv(32, 32, 2), _conv(32, 32, 4))
        self.context_head = nn.Conv2d(32, 2, 3, padding=1)
        self.upsample_head = nn.Conv2d(32, 9 * UPSAMPLE**2, 1)
        for head in (self.flow_head, self.context_head, self.upsample_head):
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def features(self, image: Tensor) -> list[Tensor]:
        """Compute matching features at strides 4, 8, 16 and 32 of (B, 3, H, W) in [0, 1]."""
        pyramid = self.encoder(image)
        levels = [*pyramid[1:4], self.deepest(pyramid[3])]
        projected = [
            project(level) for project, level in zip(self.projections, levels, strict=True)
        ]
        # Unit variance per pixel makes the correlation a cosine: robust to exposure.
        return [F.layer_norm(f.movedim(1, -1), f.shape[1:2]).movedim(-1, 1) for f in projected]

    def decode(self, features_tgt: list[Tensor], features_src: list[Tensor]) -> list[Tensor]:
        """Estimate flow from coarse to fine.

        Args:
            features_tgt: As ``features`` returns them.
            features_src: The same of the other image.

        Returns:
            flow_tgt_src, finest first: full size, then strides 4, 8, 16 and 32; pixels of its size.
        """
        batch, _, height, width = features_tgt[-1].shape
        # Coordinates stay float32 under mixed precision: bfloat16 cannot tell pixel 100 from 100.4.
        flow = torch.zeros(batch, 2, height, width, device=features_tgt[-1].device)
        flows: list[Tensor] = []
        hidden = flow
        pairs = zip(reversed(features_tgt), reversed(features_src), strict=True)
        for f_tgt, f_src in pairs:
            if flows:
                flow = resize_flow(flow, f_tgt.shape[2], f_tgt.shape[3])
                f_src = warp_by_flow(f_src.float(), flow).image.to(f_tgt.dtype)
            costs = cost_volume(f_tgt, f_src)
            hidden = self.estimator(torch.cat([costs, f_tgt, flow], dim=1))
            flow = flow + full_precision(self.flow_head, hidden)
            refined = self.context(torch.cat([hidden, flow], dim=1))
            flow = flow + full_precision(self.context_head, refined)
            hidden = refined
            flows.append(flow)
        flows.append(convex_upsample(flow, full_precision(self.upsample_head, hidden)))
        return flows[::-1]

    def decode_both(
        self, features_tgt: list[Tensor], features_src: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Estimate flow in both directions at once; see :meth:`decode`.

        Returns:
            flow_tgt_src and flow_src_tgt.
        """
        batch = features_tgt[0].shape[0]
        pairs = list(zip(features_tgt, features_src, strict=True))
        flows = self.decode(
            [torch.cat([tgt, src]) for tgt, src in pairs],
            [torch.cat([src, tgt]) for tgt, src in pairs],
        )
        return [f[:batch] for f in flows], [f[batch:] for f in flows]

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Predict flow in both directions.

        Args:
            image_tgt: (B, 3, H, W) in [0, 1]; H and W multiples of 32.
            image_src: (B, 3, H, W).

        Returns:
            flow_tgt_src and flow_src_tgt, each as ``decode`` returns it.

        Raises:
            ShapeError: H or W is not a multiple of 32.
        """
        check_image_size("image_tgt", image_tgt)
        batch = image_tgt.shape[0]
        both = self.features(torch.cat([image_tgt, image_src]))
        return self.decode_both([f[:batch] for f in both], [f[batch:] for f in both])
