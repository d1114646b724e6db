"""ResNet-18 as a feature pyramid (He et al., CVPR 2016), for the `base` variant on GPUs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from coopnet_core.errors import TrainingError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip; layer names follow the published checkpoints."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Transform (B, C, H, W)."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + self.downsample(features))
        return result


class ResNet18(nn.Module):
    """Features at strides 2, 4, 8, 16, 32 of one image, or of several stacked along channels."""

    def __init__(self, *, num_images: int = 1, deepest_stride: int = 32) -> None:
        super().__init__()
        self.num_images = num_images
        self.conv1 = nn.Conv2d(3 * num_images, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (64, 128, 256, 512)[: 3 if deepest_stride == 16 else 4]
        self.layer_names = [f"layer{index + 1}" for index in range(len(widths))]
        channels = 64
        for index, (name, width) in enumerate(zip(self.layer_names, widths, strict=True)):
            first = ResidualBlock(channels, width, stride=1 if index == 0 else 2)
            setattr(self, name, nn.Sequential(first, ResidualBlock(width, width, stride=1)))
            channels = width
        self.feature_channels = (64, *widths)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute features of (B, 3 * num_images, H, W) in [0, 1], finest first."""
        mean = self.get_buffer("mean").repeat(1, self.num_images, 1, 1)
        std = self.get_buffer("std").repeat(1, self.num_images, 1, 1)
        features = self.relu(self.bn1(self.conv1((image - mean) / std)))
        outputs = [features]
        features = self.maxpool(features)
        for name in self.layer_names:
            features = self.get_submodule(name)(features)
            outputs.append(features)
        return outputs

    def load_imagenet(self, path: Path) -> None:
        """Load a published ResNet-18 state dict that the user supplies.

        Args:
            path: A ``.pth`` file with the usual layer names (``conv1``, ``layer1.0.conv1``, ...).

        Raises:
            TrainingError: The file is missing or does not fit.
        """
        if not path.is_file():
            raise TrainingError(
                f"ImageNet weights {path} do not exist: give the path of a ResNet-18 .pth file, or "
                "train from scratch with pretrained: false"
            )
        published = torch.load(path, map_location="cpu", weights_only=True)
        own = self.state_dict()
        missing = [name for name in own if name not in published]
        if missing:
            raise TrainingError(
                f"ImageNet weights {path} lack {len(missing)} entries, the first is {missing[0]}: "
                "expected a ResNet-18 state dict"
            )
        weights = {name: published[name] for name in own}
        stem = weights["conv1.weight"]
        weights["conv1.weight"] = stem.repeat(1, self.num_images, 1, 1) / self.num_images
        self.load_state_dict(weights)
