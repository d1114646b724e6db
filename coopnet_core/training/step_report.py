"""What happened in a step, over all processes, for progress bars and logs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from coopnet_core.losses.rebalancing import LOGGED_BINS, ratios
from coopnet_core.training.processes import gather_table
from coopnet_core.types import UNKNOWN_MOTION, Batch, DeltaStatistics, LossTerms, Prediction

_STATISTIC = "statistic/"
_TERM = "term/"


@dataclass(frozen=True)
class StepReport:
    """What happened in a step.

    Attributes:
        step: Steps done so far.
        stage: Name of the stage.
        total: Loss.
        terms: Each term before weighting.
        gradient_norm: Per network, before clipping.
        band: What ``losses.rebalancing.ratios`` returns, and ``motion_iou`` where the batch knows
            what moves; empty during warm-up.
        delta_histogram: Pixels per bin of Delta (``rebalancing.LOGGED_BINS``); none in warm-up.
        translation: Mean length of the predicted motion of pairs in time; none without such pairs.
        learning_rate: As used.
        seconds: Wall time of the step.
        seconds_waiting: Part of it that the slowest process spent waiting for data.
        kept_mask: Pixels that taught depth, both directions; none during warm-up.
        batch: This process's part of the batch.
        prediction: What the networks said about it.
    """

    step: int
    stage: str
    total: float
    terms: dict[str, float]
    gradient_norm: dict[str, float]
    band: dict[str, float]
    delta_histogram: Tensor | None
    translation: float | None
    learning_rate: float
    seconds: float
    seconds_waiting: float
    kept_mask: Tensor | None = field(repr=False)
    batch: Batch = field(repr=False)
    prediction: Prediction = field(repr=False)


@dataclass(frozen=True)
class StepNumbers:
    """The numbers of a step that processes make apart, brought together.

    Attributes:
        total: Loss of the whole batch.
        terms: Its terms.
        not_finite: Number of each process whose loss is not finite.
        band: As in ``StepReport``.
        delta_histogram: As in ``StepReport``.
        translation: As in ``StepReport``.
        seconds_waiting: As in ``StepReport``.
    """

    total: float
    terms: dict[str, float]
    not_finite: list[int]
    band: dict[str, float]
    delta_histogram: Tensor | None
    translation: float | None
    seconds_waiting: float


def collect_numbers(
    batch: Batch, prediction: Prediction, losses: LossTerms, seconds_waiting: float
) -> StepNumbers:
    """Bring the numbers of all processes together: sums are added before ratios are taken.

    Args:
        batch: This process's part of the batch.
        prediction: What the networks said about it.
        losses: Of this process.
        seconds_waiting: How long this process waited for its part.
    """
    intersection, union = motion_overlap(batch, losses)
    is_temporal = ~batch.has_pose
    lengths = prediction.T_src_tgt.detach()[:, :3, 3].norm(dim=1)
    statistics = losses.statistics or _no_statistics(batch.image_tgt)
    table = gather_table(
        {
            "total": losses.total,
            "waiting": seconds_waiting,
            "intersection": intersection,
            "union": union,
            "translation": lengths[is_temporal].sum(),
            "num_temporal": is_temporal.sum(),
            **{_TERM + name: value for name, value in losses.terms.items()},
            **{_STATISTIC + name: value for name, value in statistics._asdict().items()},
        },
        batch.image_tgt.device,
    )
    sums = {name: values.sum(0) for name, values in table.items()}
    reduced = DeltaStatistics(*(sums[_STATISTIC + name] for name in DeltaStatistics._fields))
    band = ratios(reduced) if reduced.num_valid > 0 else {}
    if sums["union"] > 0:
        band["motion_iou"] = float(sums["intersection"] / sums["union"])
    num_temporal = float(sums["num_temporal"])
    return StepNumbers(
        total=float(table["total"].mean()),
        terms={name: float(table[_TERM + name].mean()) for name in losses.terms},
        not_finite=(~table["total"].isfinite()).nonzero().flatten().tolist(),
        band=band,
        delta_histogram=reduced.histogram if reduced.num_valid > 0 else None,
        translation=float(sums["translation"]) / num_temporal if num_temporal else None,
        seconds_waiting=float(table["waiting"].max()),
    )


def motion_overlap(batch: Batch, losses: LossTerms) -> tuple[Tensor, Tensor]:
    """Compare the rejected pixels with what moves by itself, where that is known.

    Counted are target pixels that the band judges: those in view of both warps, of pairs in time.

    Returns:
        Pixels that are both rejected and moving, and those that are either: their ratio is the IoU.
    """
    zero = batch.image_tgt.new_zeros(())
    if batch.motion_tgt is None or losses.rejected_mask is None or losses.kept_mask is None:
        return zero, zero
    size = len(batch.motion_tgt)  # masks hold both directions, the target's first
    rejected, kept = losses.rejected_mask[:size], losses.kept_mask[:size]
    is_temporal = ~batch.has_pose[:, None, None, None]
    judged = (rejected | kept) & is_temporal & (batch.motion_tgt != UNKNOWN_MOTION)
    moving = batch.motion_tgt == 1
    return (judged & rejected & moving).sum(), (judged & (rejected | moving)).sum()


def _no_statistics(like: Tensor) -> DeltaStatistics:
    zeros = {name: like.new_zeros(()) for name in DeltaStatistics._fields}
    return DeltaStatistics(**{**zeros, "histogram": torch.zeros(LOGGED_BINS, device=like.device)})
