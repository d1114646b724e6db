"""What flows through training: a batch in, a prediction, loss terms out.

Named tuples, because fabric walks through what a wrapped model takes and returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


UNKNOWN_MOTION = 255


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
        motion_tgt: What moves by itself in the target, uint8 (B, 1, H, W): 0 static, 1 moving,
            ``UNKNOWN_MOTION`` where nobody knows. It judges the band and teaches nothing; none
            where no source has it.
    """

    image_tgt: Tensor
    image_src: Tensor
    input_tgt: Tensor
    input_src: Tensor
    K: Tensor
    T_src_tgt: Tensor
    has_pose: Tensor
    motion_tgt: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Move every tensor to a device."""
        present = {key: value for key, value in self._asdict().items() if value is not None}
        return Batch(**{key: tensor.to(device) for key, tensor in present.items()})


class Prediction(NamedTuple):
    """What the three networks say about a batch; lists are finest first.

    Attributes:
        inverse_depth_tgt: Inverse canonical depth at strides 1, 4, 8: (B, 1, H/s, W/s).
        inverse_depth_src: The same for the source image.
        T_src_tgt: (B, 4, 4): predicted; the recipes get the known pose where there is one.
        flow_tgt_src: (B, 2, H/s, W/s) at strides 1, 4, 8, 16, 32, pixels of each size.
        flow_src_tgt: The same in the other direction.
    """

    inverse_depth_tgt: list[Tensor]
    inverse_depth_src: list[Tensor]
    T_src_tgt: Tensor
    flow_tgt_src: list[Tensor]
    flow_src_tgt: list[Tensor]


class DeltaStatistics(NamedTuple):
    """Sums over valid pixels; sums and not ratios, so that processes can be added up first.

    Attributes:
        num_pixels: All pixels.
        num_valid: Pixels in Omega.
        num_positive: Those with Delta > 0, where min() would teach flow alone.
        num_negative: Those with Delta < 0, where min() would teach depth alone.
        num_kept: Those inside the band.
        sum_negative: Sum of Delta over Delta < 0; epsilon = -sum_negative / num_negative.
        sum_centre: Sum of the band's centre over valid pixels.
        sum_half_width: The same of its half width (infinite ones count as 0).
        histogram: Pixels per bin of Delta, (``rebalancing.LOGGED_BINS``,).
    """

    num_pixels: Tensor
    num_valid: Tensor
    num_positive: Tensor
    num_negative: Tensor
    num_kept: Tensor
    sum_negative: Tensor
    sum_centre: Tensor
    sum_half_width: Tensor
    histogram: Tensor


class LossTerms(NamedTuple):
    """What a recipe returns.

    Attributes:
        total: Weighted sum, scalar, with gradient.
        terms: Each term, scalar, by name: summed over sizes, before its own weight.
        statistics: Of Delta at full size, where the recipe makes them.
        kept_mask: V_eta at full size, bool (2B, 1, H, W): both directions.
        rejected_mask: Valid pixels outside V_eta, of the pairs that the band judges, of that shape.
    """

    total: Tensor
    terms: dict[str, Tensor]
    statistics: DeltaStatistics | None = None
    kept_mask: Tensor | None = None
    rejected_mask: Tensor | None = None
