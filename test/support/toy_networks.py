"""Networks with the interface of the real ones that export in a second."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from coopnet_core.geometry.warp import warp_by_flow
from coopnet_core.inference.signature import FEATURE_CHANNELS, FEATURE_STRIDES
from coopnet_core.networks import Networks


class ToyDepth(nn.Module):
    """Inverse canonical depth between 1/200 and 10, finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 1)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        inverse = 0.01 + torch.sigmoid(self.layers(image))
        return [inverse, inverse[:, :, ::2, ::2]]


class ToyPose(nn.Module):
    """A small motion."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> Tensor:
        both = torch.cat([image_tgt, image_src], dim=1)
        return 0.1 * cast("Tensor", self.layer(both)).mean(dim=(2, 3))


class ToyFlow(nn.Module):
    """Flow after one warp, so that GridSample and a Softmax over an inner axis are exported."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, FEATURE_CHANNELS, 3, padding=1)
        self.layer = nn.Conv2d(2 * FEATURE_CHANNELS, 2, 3, padding=1)

    def features(self, image: Tensor) -> list[Tensor]:
        features = self.projection(image)
        return [nn.functional.avg_pool2d(features, stride) for stride in FEATURE_STRIDES]

    def one_way(self, features_tgt: Tensor, features_src: Tensor) -> Tensor:
        flow = 3 * torch.tanh(self.layer(torch.cat([features_tgt, features_src], dim=1)))
        warped = warp_by_flow(features_src, flow).image
        flow = flow * warped.softmax(dim=1)[:, :2]
        return nn.functional.interpolate(flow, scale_factor=FEATURE_STRIDES[0], mode="nearest")

    def decode_both(
        self, features_tgt: list[Tensor], features_src: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        tgt, src = features_tgt[0], features_src[0]
        return [self.one_way(tgt, src)], [self.one_way(src, tgt)]

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.decode_both(self.features(image_tgt), self.features(image_src))


def toy_networks(seed: int = 0) -> Networks:
    """Return toy networks with weights from a seed, in training mode."""
    torch.manual_seed(seed)
    networks: Any = (ToyDepth(), ToyPose(), ToyFlow())
    return Networks(*networks)
