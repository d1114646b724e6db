"""Sums over the processes of a training run, so that ratios are those of the whole batch.

Each process sees a part of the batch, and gradients are averaged over processes. A mean over masked
pixels is then not the mean of the processes' means: the counts differ. Terms made with
:func:`batch_ratio` have the gradient of the whole batch in one process. Everything here is the
identity where there is one process, and a collective where there are several: every process must
call it, in the same order, whatever its part of the batch holds.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def num_processes() -> int:
    """Return how many processes train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


class _Sum(torch.autograd.Function):
    """The sum of the processes' values; what is used of it everywhere flows back to each."""

    @staticmethod
    def forward(context: object, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        return sum_over_processes(gradients[0])


def sum_over_processes(value: Tensor) -> Tensor:
    """Add up a tensor of the same shape in every process; gradients flow back to all of them."""
    if num_processes() == 1:
        return value
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


def gather_over_processes(value: Tensor) -> Tensor:
    """Concatenate a tensor of the same shape in every process along dim 0, without gradient."""
    if num_processes() == 1:
        return value.detach()
    value = value.detach().contiguous()
    parts = [torch.empty_like(value) for _ in range(num_processes())]
    torch.distributed.all_gather(parts, value)
    return torch.cat(parts)


def batch_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return this process's share of sum(numerator) / max(1, sum(denominator)).

    Args:
        numerator: Sum over this process's part of the batch, scalar.
        denominator: The count or weight that belongs to it, scalar.

    Returns:
        Scalar; the mean over processes is the ratio of the whole batch, and so are its gradients.
    """
    return num_processes() * numerator / sum_over_processes(denominator).clamp(min=1)
