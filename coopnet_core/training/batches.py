"""Batches in an order that is a pure function of (seed, step), made ahead in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from coopnet_core.data.dataset import PairDataset
from coopnet_core.errors import DataError
from coopnet_core.types import Batch


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


def make_batch(
    dataset: PairDataset, batch_size: int, seed: int, step: int, is_gray: bool = False
) -> Batch:
    """Make the batch of a step.

    Args:
        dataset: Image pairs.
        batch_size: Pairs per batch.
        seed: Seed of the order.
        step: Step from 0.
        is_gray: The channels are equal: the losses get one of them, a third of the work.
    """
    indices, epoch = batch_indices(len(dataset), batch_size, seed, step)
    items = [dataset.item(index, epoch) for index in indices]
    # Stacked by numpy: torch would start a second pool of threads for the thread that does this,
    # and its spinning made every training step on two cores half as long again.
    batch = Batch(
        **{
            key: torch.from_numpy(np.stack([item[key].numpy() for item in items]))
            for key in items[0]
        }
    )
    if is_gray:
        batch = batch._replace(image_tgt=batch.image_tgt[:, :1], image_src=batch.image_src[:, :1])
    return batch


def batches(
    dataset: PairDataset, batch_size: int, seed: int, steps: range, is_gray: bool = False
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch), one batch made ahead while the caller works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead: Future[Batch] | None = None
        for step in steps:
            current = ahead or pool.submit(make_batch, dataset, batch_size, seed, step, is_gray)
            ahead = None
            if step + 1 in steps:
                ahead = pool.submit(make_batch, dataset, batch_size, seed, step + 1, is_gray)
            yield step, current.result()
