"""Batches in an order that is a pure function of (seed, step), made ahead by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from coopnet_core.data.dataset import PairDataset
from coopnet_core.errors import DataError
from coopnet_core.types import Batch

MAX_WORKERS = 8


@dataclass(frozen=True)
class BatchPlan:
    """Which pairs a process gets at which step.

    Attributes:
        batch_size: Pairs per step in all processes together; a multiple of ``num_processes``.
        seed: Seed of the order.
        rank: Number of this process from 0.
        num_processes: How many there are. It changes who gets a pair, never which pairs a step has.
        is_gray: The channels are equal: the losses get one of them, a third of the work.
    """

    batch_size: int
    seed: int
    rank: int = 0
    num_processes: int = 1
    is_gray: bool = False

    def indices(self, num_items: int, step: int) -> tuple[list[int], int]:
        """Return this process's part of ``batch_indices``, and the epoch."""
        whole, epoch = batch_indices(num_items, self.batch_size, self.seed, step)
        size = self.batch_size // self.num_processes
        return whole[self.rank * size : (self.rank + 1) * size], epoch


def batch_indices(num_items: int, batch_size: int, seed: int, step: int) -> tuple[list[int], int]:
    """Say which items make the batch of a step.

    Every epoch is a new permutation; the last incomplete batch of an epoch is left out.

    Args:
        num_items: Size of the data set.
        batch_size: Items per batch, at most ``num_items``.
        seed: Seed of the order.
        step: Step from 0.

    Returns:
        The indices, and the epoch they belong to.

    Raises:
        DataError: There are fewer items than a batch needs.
    """
    per_epoch = num_items // batch_size
    if per_epoch == 0:
        raise DataError(
            f"a batch needs {batch_size} image pairs but the sources give {num_items}: add frames "
            "or lower batch_size"
        )
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(num_items)
    return order[position * batch_size : (position + 1) * batch_size].tolist(), epoch


def make_batch(dataset: PairDataset, plan: BatchPlan, step: int) -> Batch:
    """Make a process's part of the batch of a step (from 0)."""
    indices, epoch = plan.indices(len(dataset), step)
    items = [dataset.item(index, epoch) for index in indices]
    # Stacked by numpy: torch would start a second pool of threads for the thread that does this,
    # and its spinning made every training step on two cores half as long again.
    batch = Batch(
        **{
            key: torch.from_numpy(np.stack([item[key].numpy() for item in items]))
            for key in items[0]
        }
    )
    if plan.is_gray:
        batch = batch._replace(image_tgt=batch.image_tgt[:, :1], image_src=batch.image_src[:, :1])
    return batch


def default_workers(processes_here: int) -> int:
    """Return how many threads make batches: the cores of a process but one, at least one."""
    cores = len(os.sched_getaffinity(0)) // processes_here
    return max(1, min(MAX_WORKERS, cores - 1))


def batches(
    dataset: PairDataset, plan: BatchPlan, steps: range, num_workers: int = 1
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch); each worker thread makes one ahead while the caller works.

    What a step holds does not depend on the number of workers.

    Raises:
        DataError: An image cannot be read, at the step that needs it.
    """
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="batches")
    ahead: deque[Future[Batch]] = deque()
    try:
        for step in steps:
            # One more than the workers: each has its next batch to make while this one is used.
            first = step + len(ahead)
            for later in range(first, min(step + num_workers + 1, steps.stop)):
                ahead.append(pool.submit(make_batch, dataset, plan, later))
            yield step, ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
