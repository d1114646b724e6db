"""The co-training loop: one forward, one backward, three networks, in one process or many."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from coopnet_core.config import Stage, TrainingConfig
from coopnet_core.data.dataset import MAX_CACHE_BYTES, FrameCache, PairDataset
from coopnet_core.data.pairs import PairRecord
from coopnet_core.errors import DataError, TrainingError
from coopnet_core.networks import build_networks
from coopnet_core.recipes.coopnet import CoopNetRecipe
from coopnet_core.training.batches import BatchPlan, batches, default_workers
from coopnet_core.training.checkpoint import load_weights, save_checkpoint
from coopnet_core.training.model import CoTrainingModel, with_known_pose
from coopnet_core.training.processes import (
    check_fabric,
    default_fabric,
    gather_table,
    processes_here,
    synchronise_batch_norm,
)
from coopnet_core.training.schedule import learning_rate_at
from coopnet_core.training.sources import collect_pairs
from coopnet_core.training.state import NETWORK_NAMES, State
from coopnet_core.training.step_report import StepReport, collect_numbers
from coopnet_core.types import Batch

CHECKPOINT_NAME = "last.pt"


def train(
    config: TrainingConfig,
    data_root: Path,
    run_dir: Path,
    *,
    resume: bool = False,
    start_from: Path | None = None,
    checkpoint_every: int = 200,
    report: Callable[[StepReport], None] = lambda _: None,
    fabric: Fabric | None = None,
    num_workers: int | None = None,
    stop_after: int | None = None,
) -> Path:
    """Train the three networks together.

    Args:
        config: Everything that decides the result.
        data_root: Folder that the sources' paths are relative to.
        run_dir: Where checkpoints go.
        resume: Go on from ``run_dir/last.pt``; on CPUs, with as many processes as before, the
            result is that of a run that was never stopped, bit for bit.
        start_from: Checkpoint of another run whose (averaged) weights are the first ones.
        checkpoint_every: Steps between checkpoints, which the first process writes.
        report: Called after every step, in the first process only.
        fabric: Device, precision and processes (launched); ``default_fabric()`` when not given.
        num_workers: Threads per process that make batches; by default as many as cores allow.
        stop_after: Stop (with a checkpoint) after this step, for runs in parts.

    Returns:
        The last checkpoint.

    Raises:
        TrainingError: The loss is not finite, or the checkpoint is of another config.
        DataError: The sources cannot be read, or differ between processes.
    """
    checkpoint_path = run_dir / CHECKPOINT_NAME
    if checkpoint_path.exists() and not resume:
        raise TrainingError(
            f"{checkpoint_path} exists already: go on with --resume, or choose another folder"
        )
    fabric = fabric or default_fabric()
    check_fabric(fabric, config.batch_size)
    state = _start(config, fabric, start_from, is_resumed=resume)
    step = state.restore(checkpoint_path, config, fabric) if resume else 0
    records = _collect_in_turn(config, data_root, fabric)
    num_workers = num_workers or default_workers(processes_here())
    plan = BatchPlan(
        config.batch_size,
        config.seed,
        fabric.global_rank,
        fabric.world_size,
        is_gray=config.color == "gray",
    )
    end = config.num_steps if stop_after is None else min(stop_after, config.num_steps)
    while step < end:
        stage = config.stage_at(step)
        stage_end = step
        while stage_end < end and config.stage_at(stage_end) == stage:
            stage_end += 1
        dataset = _dataset(config, stage, records)
        clock = time.perf_counter()
        steps = range(step, stage_end)
        for step, batch in batches(dataset, plan, steps, num_workers):
            waited = time.perf_counter() - clock
            done = step + 1
            step_report = _step(config, fabric, state, run_dir, step, batch, waited)
            if fabric.is_global_zero:
                report(step_report)
                if done % checkpoint_every == 0 or done in (stage_end, end):
                    content = state.content(config, stage, done, fabric.world_size)
                    save_checkpoint(checkpoint_path, content)
            clock = time.perf_counter()
        step = stage_end
    return checkpoint_path


def _start(
    config: TrainingConfig, fabric: Fabric, start_from: Path | None, *, is_resumed: bool
) -> State:
    """Build networks and optimisers, the same in every process."""
    seed_everything(config.seed, verbose=False)
    networks = build_networks(
        config.variant,
        pretrained=config.pretrained and not is_resumed and start_from is None,
        imagenet_weights=config.imagenet_weights,
    )
    if start_from is not None:
        load_weights(networks, start_from)
    model: Any = CoTrainingModel(networks)
    if fabric.world_size > 1:
        model = synchronise_batch_norm(model, fabric.device)
    model.to(memory_format=torch.channels_last)
    # One optimiser per network: gradients are clipped apart, so that none takes another's share.
    optimizers = [
        torch.optim.AdamW(
            model.networks[name].parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        for name in NETWORK_NAMES
    ]
    average = get_ema_multi_avg_fn(config.averaging)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    # Before a checkpoint is restored: the optimisers' state must land where the weights are.
    model, *optimizers = fabric.setup(model, *optimizers)
    averaged.to(fabric.device)
    return State(model, averaged, optimizers, CoopNetRecipe(config.loss))


def _collect_in_turn(config: TrainingConfig, data_root: Path, fabric: Fabric) -> list[PairRecord]:
    """Read the sources; the first process, then the first of each machine, unpack what is packed.

    Raises:
        DataError: They cannot be read, or another process found other pairs.
    """
    is_first_here = fabric.local_rank == 0
    turns = (fabric.is_global_zero, is_first_here and not fabric.is_global_zero, not is_first_here)
    records: list[PairRecord] = []
    for is_my_turn in turns:
        if is_my_turn:
            records = collect_pairs(config.sources, data_root)
        fabric.barrier()
    text = repr([(r.sequence, r.index_tgt, r.index_src, r.T_src_tgt) for r in records])
    prints = gather_table({"pairs": zlib.crc32(text.encode())}, fabric.device)["pairs"].tolist()
    if prints[fabric.global_rank] != prints[0]:
        raise DataError(
            f"{data_root} gives process {fabric.global_rank} other image pairs ({len(records)}) "
            "than the first process: the data must be the same on all machines"
        )
    return records


def _dataset(config: TrainingConfig, stage: Stage, records: list[PairRecord]) -> PairDataset:
    cache = FrameCache(
        stage.width,
        stage.height,
        is_gray=config.color == "gray",
        max_bytes=MAX_CACHE_BYTES // processes_here(),
    )
    return PairDataset(records, stage.width, stage.height, seed=config.seed, cache=cache)


def _step(
    config: TrainingConfig,
    fabric: Fabric,
    state: State,
    run_dir: Path,
    step: int,
    batch: Batch,
    waited: float,
) -> StepReport:
    """Train on one batch, which took ``waited`` seconds to come."""
    clock = time.perf_counter()
    stage = config.stage_at(step)
    batch = batch.to(fabric.device)
    rate = learning_rate_at(config, step)
    for optimizer in state.optimizers:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
    prediction = with_known_pose(batch, state.wrapped(batch))
    losses = state.recipe(batch, prediction, rebalance=stage.rebalance)
    numbers = collect_numbers(batch, prediction, losses, waited)
    if numbers.not_finite:
        bad = [name for name, value in numbers.terms.items() if not isfinite(value)]
        is_here = fabric.global_rank in numbers.not_finite
        raise _not_finite(bad or ["sum of the terms"], step, run_dir, batch, fabric, is_here)
    fabric.backward(losses.total)
    norms = _clip(fabric, state, config.clip_gradient_norm)
    bad = [f"gradient of {name}" for name, norm in norms.items() if not isfinite(norm)]
    if bad:
        raise _not_finite(bad, step, run_dir, batch, fabric, is_here=True)
    for optimizer in state.optimizers:
        optimizer.step()
    state.averaged.update_parameters(state.model)
    return StepReport(
        step=step + 1,
        stage=stage.name,
        total=numbers.total,
        terms=numbers.terms,
        gradient_norm=norms,
        band=numbers.band,
        delta_histogram=numbers.delta_histogram,
        translation=numbers.translation,
        learning_rate=rate,
        seconds=waited + time.perf_counter() - clock,
        seconds_waiting=numbers.seconds_waiting,
        kept_mask=losses.kept_mask,
        batch=batch,
        prediction=prediction,
    )


def _clip(fabric: Fabric, state: State, max_norm: float) -> dict[str, float]:
    norms = {}
    for name, optimizer in zip(NETWORK_NAMES, state.optimizers, strict=True):
        norm = fabric.clip_gradients(
            state.model.networks[name], optimizer, max_norm=max_norm, error_if_nonfinite=False
        )
        norms[name] = 0.0 if norm is None else float(norm)
    return norms


def _not_finite(
    names: list[str], step: int, run_dir: Path, batch: Batch, fabric: Fabric, is_here: bool
) -> TrainingError:
    what = f"not finite at step {step}: {', '.join(names)}"
    if not is_here:
        return TrainingError(f"{what}, in another process, which saves its batch")
    suffix = f"_process_{fabric.global_rank}" if fabric.world_size > 1 else ""
    dump = run_dir / f"bad_batch_{step:06d}{suffix}.pt"
    run_dir.mkdir(parents=True, exist_ok=True)
    content = {key: value.cpu() for key, value in batch._asdict().items() if value is not None}
    torch.save(content, dump)
    return TrainingError(
        f"{what}; the batch is in {dump} and the last checkpoint is intact: look at the batch, or "
        "start again in another folder with a lower learning_rate"
    )
