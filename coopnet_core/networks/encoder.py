"""What the networks ask of an encoder."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Encoder(Protocol):
    """A feature pyramid, finest first, starting at stride 2."""

    feature_channels: tuple[int, ...]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Compute features of (B, C, H, W) in [0, 1]."""
