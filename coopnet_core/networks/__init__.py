"""The three networks, in named variants."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from coopnet_core.checks import SIZE_MULTIPLE
from coopnet_core.errors import ConfigError
from coopnet_core.networks.depth import DepthNetwork
from coopnet_core.networks.efficientnet_lite import EfficientNetLite0
from coopnet_core.networks.flow import FlowNetwork
from coopnet_core.networks.pose import PoseNetwork
from coopnet_core.networks.resnet import ResNet18


class Networks(NamedTuple):
    """Depth, pose and flow networks with disjoint weights."""

    depth: DepthNetwork
    pose: PoseNetwork
    flow: FlowNetwork

    def as_module(self) -> nn.ModuleDict:
        """Return all three as one module whose state dict has the keys depth, pose, flow."""
        return nn.ModuleDict({"depth": self.depth, "pose": self.pose, "flow": self.flow})


def _build_small(pretrained: bool, imagenet_weights: Path | None) -> Networks:
    if imagenet_weights is not None:
        raise ConfigError("imagenet_weights is for the variant base; small brings its own package")
    encoders = (
        EfficientNetLite0(),
        EfficientNetLite0(num_images=2, deepest_stride=16),
        EfficientNetLite0(deepest_stride=16),
    )
    if pretrained:
        for encoder in encoders:
            encoder.load_imagenet()
    depth, pose, flow = encoders
    return Networks(DepthNetwork(depth), PoseNetwork(pose), FlowNetwork(flow))


def _build_base(pretrained: bool, imagenet_weights: Path | None) -> Networks:
    encoders = (
        ResNet18(),
        ResNet18(num_images=2, deepest_stride=16),
        ResNet18(deepest_stride=16),
    )
    if pretrained:
        if imagenet_weights is None:
            raise ConfigError(
                "variant base has no ImageNet weights of its own: set imagenet_weights to a "
                "ResNet-18 .pth file, or pretrained: false"
            )
        for encoder in encoders:
            encoder.load_imagenet(imagenet_weights)
    depth, pose, flow = encoders
    return Networks(
        DepthNetwork(depth, widths=(256, 128, 64, 32)), PoseNetwork(pose), FlowNetwork(flow)
    )


__all__ = [
    "SIZE_MULTIPLE",
    "VARIANTS",
    "DepthNetwork",
    "FlowNetwork",
    "Networks",
    "PoseNetwork",
    "build_networks",
]

VARIANTS = {"small": _build_small, "base": _build_base}


def build_networks(
    variant: str, *, pretrained: bool = False, imagenet_weights: Path | None = None
) -> Networks:
    """Build the networks of a named variant.

    Args:
        variant: ``small`` (EfficientNet-Lite0, real time on a CPU) or ``base`` (ResNet-18).
        pretrained: Start the encoders from ImageNet.
        imagenet_weights: Weights file for ``base``.

    Returns:
        The networks, in training mode, on the CPU.

    Raises:
        ConfigError: The variant is unknown.
        RuntimeUnavailableError: The package with the ImageNet weights is not installed.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"unknown variant {variant!r}: choose from {', '.join(VARIANTS)}")
    return VARIANTS[variant](pretrained, imagenet_weights)
