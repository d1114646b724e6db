"""What flows through training: a batch in, a prediction, loss terms out.

Named tuples, because fabric walks through what a wrapped model takes and returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coopnet_core.losses.rebalancing import DeltaStatistics


class Batch(NamedTuple):
    """B image pairs.

    Attributes:
        image_tgt: (B, C, H, W) in [0, 1], for the losses; C is 1 for gray frames, else 3.
        image_src: (B, C, H, W).
        input_tgt: The target as the networks see it, with photometric jitter, (B, 3, H, W).
        input_src: The source with the same jitter.
        K: (B, 3, 3), pixels of these images, shared by both.
        T_src_tgt: (B, 4, 4), metres; the identity where unknown.
        has_pose: bool (B,): ``T_src_tgt`` is known (stereo partner).
    """

    image_tgt: Tensor
    image_src: Tensor
    input_tgt: Tensor
    input_src: Tensor
    K: Tensor
    T_src_tgt: Tensor
    has_pose: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move every tensor to a device."""
        return Batch(*(tensor.to(device) for tensor in self))


class Prediction(NamedTuple):
    """What the three networks say about a batch; lists are finest first.

    Attributes:
        inverse_depth_tgt: Inverse canonical depth at strides 1, 4, 8: (B, 1, H/s, W/s).
        inverse_depth_src: The same for the source image.
        T_src_tgt: (B, 4, 4), predicted, or the known pose where there is one.
        flow_tgt_src: (B, 2, H/s, W/s) at strides 1, 4, 8, 16, 32, pixels of each size.
        flow_src_tgt: The same in the other direction.
    """

    inverse_depth_tgt: list[Tensor]
    inverse_depth_src: list[Tensor]
    T_src_tgt: Tensor
    flow_tgt_src: list[Tensor]
    flow_src_tgt: list[Tensor]


class LossTerms(NamedTuple):
    """What a recipe returns.

    Attributes:
        total: Weighted sum, scalar, with gradient.
        terms: Each term before weighting, scalar, by name.
        statistics: Of Delta at full size, where the recipe makes them.
        delta: Delta on the valid pixels of full size, (N,), for histograms.
    """

    total: Tensor
    terms: dict[str, Tensor]
    statistics: DeltaStatistics | None = None
    delta: Tensor | None = None
