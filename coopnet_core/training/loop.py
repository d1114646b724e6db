"""The co-training loop: one forward, one backward, three networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric, seed_everything
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from coopnet_core.config import Stage, TrainingConfig, parse_config
from coopnet_core.data.dataset import FrameCache, PairDataset
from coopnet_core.errors import TrainingError
from coopnet_core.losses.rebalancing import ratios
from coopnet_core.networks import build_networks
from coopnet_core.recipes.coopnet import CoopNetRecipe
from coopnet_core.training.batches import batches
from coopnet_core.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from coopnet_core.training.model import CoTrainingModel, with_known_pose
from coopnet_core.training.schedule import learning_rate_at
from coopnet_core.training.sources import collect_pairs
from coopnet_core.types import Batch, Prediction

NETWORK_NAMES = ("depth", "pose", "flow")
CHECKPOINT_NAME = "last.pt"


@dataclass(frozen=True)
class StepReport:
    """What happened in a step, for progress bars and logs.

    Attributes:
        step: Steps done so far.
        stage: Name of the stage.
        total: Loss.
        terms: Each term before weighting.
        gradient_norm: Per network, before clipping.
        band: What ``losses.rebalancing.ratios`` returns; empty during warm-up.
        learning_rate: As used.
        seconds: Wall time of the step.
        seconds_waiting: Part of it spent waiting for data.
        delta: Delta on valid pixels, for histograms.
        kept_mask: Pixels that taught depth, both directions; none during warm-up.
        batch: The batch.
        prediction: What the networks said about it.
    """

    step: int
    stage: str
    total: float
    terms: dict[str, float]
    gradient_norm: dict[str, float]
    band: dict[str, float]
    learning_rate: float
    seconds: float
    seconds_waiting: float
    delta: torch.Tensor | None = field(repr=False)
    kept_mask: torch.Tensor | None = field(repr=False)
    batch: Batch = field(repr=False)
    prediction: Prediction = field(repr=False)


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
    stop_after: int | None = None,
) -> Path:
    """Train the three networks together.

    Args:
        config: Everything that decides the result.
        data_root: Folder that the sources' paths are relative to.
        run_dir: Where checkpoints go.
        resume: Go on from ``run_dir/last.pt``; on one CPU the result is that of a run that was
            never stopped, bit for bit.
        start_from: Checkpoint of another run whose (averaged) weights are the first ones.
        checkpoint_every: Steps between checkpoints.
        report: Called after every step.
        fabric: Device and precision; the best device here when not given. One process only.
        stop_after: Stop (with a checkpoint) after this step, for runs in parts.

    Returns:
        The last checkpoint.

    Raises:
        TrainingError: The loss is not finite, or the checkpoint is of another config.
        DataError: The sources cannot be read.
    """
    checkpoint_path = run_dir / CHECKPOINT_NAME
    if checkpoint_path.exists() and not resume:
        raise TrainingError(
            f"{checkpoint_path} exists already: go on with --resume, or choose another folder"
        )
    fabric = fabric or default_fabric()
    _check_fabric(fabric)
    seed_everything(config.seed, verbose=False)
    networks = build_networks(
        config.variant,
        pretrained=config.pretrained and not resume and start_from is None,
        imagenet_weights=config.imagenet_weights,
    )
    if start_from is not None:
        load_weights(networks, start_from)
    model: Any = CoTrainingModel(networks)
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
    recipe = CoopNetRecipe(config.loss)
    average = get_ema_multi_avg_fn(config.averaging)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    # Before the checkpoint is restored: the optimisers' state must land where the weights are.
    model, *optimizers = fabric.setup(model, *optimizers)
    averaged.to(fabric.device)
    state = _State(model.module, averaged, optimizers, recipe)
    start = _restore(checkpoint_path, config, state) if resume else 0

    records = collect_pairs(config.sources, data_root)
    end = config.num_steps if stop_after is None else min(stop_after, config.num_steps)
    step = start
    while step < end:
        stage = config.stage_at(step)
        stage_end = step
        while stage_end < end and config.stage_at(stage_end) == stage:
            stage_end += 1
        dataset = PairDataset(
            records,
            stage.width,
            stage.height,
            seed=config.seed,
            cache=FrameCache(stage.width, stage.height, is_gray=config.color == "gray"),
        )
        clock = time.perf_counter()
        steps = range(step, stage_end)
        is_gray = config.color == "gray"
        for step, batch in batches(dataset, config.batch_size, config.seed, steps, is_gray):
            waited = time.perf_counter() - clock
            batch = batch.to(fabric.device)
            rate = learning_rate_at(config, step)
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
            prediction = with_known_pose(batch, model(batch))
            losses = recipe(batch, prediction, rebalance=stage.rebalance)
            if not torch.isfinite(losses.total):
                bad = [name for name, value in losses.terms.items() if not torch.isfinite(value)]
                raise _not_finite(bad or ["sum of the terms"], step, run_dir, batch)
            fabric.backward(losses.total)
            norms = _clip(fabric, model.module, optimizers, config.clip_gradient_norm)
            bad = [f"gradient of {name}" for name, norm in norms.items() if not isfinite(norm)]
            if bad:
                raise _not_finite(bad, step, run_dir, batch)
            for optimizer in optimizers:
                optimizer.step()
            averaged.update_parameters(model.module)
            now = time.perf_counter()
            report(
                StepReport(
                    step=step + 1,
                    stage=stage.name,
                    total=float(losses.total.detach()),
                    terms={name: float(value.detach()) for name, value in losses.terms.items()},
                    gradient_norm=norms,
                    band={} if losses.statistics is None else ratios(losses.statistics),
                    learning_rate=rate,
                    seconds=now - clock,
                    seconds_waiting=waited,
                    delta=losses.delta,
                    kept_mask=losses.kept_mask,
                    batch=batch,
                    prediction=prediction,
                )
            )
            done = step + 1
            if done % checkpoint_every == 0 or done in (stage_end, end):
                save_checkpoint(checkpoint_path, _content(config, stage, done, state))
            clock = time.perf_counter()
        step = stage_end
    return checkpoint_path


def default_fabric() -> Fabric:
    """One process on the best device here; bfloat16 where that is a GPU that has it.

    Not float16: its gradient scaler is made for one optimiser, and there are three.
    """
    if not torch.cuda.is_available():
        return Fabric(accelerator="cpu", devices=1, precision="32-true")
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Fabric(
        accelerator="cuda", devices=1, precision="bf16-mixed" if has_bfloat16 else "32-true"
    )


def _check_fabric(fabric: Fabric) -> None:
    if fabric.world_size > 1:
        raise TrainingError(
            f"training runs in one process, got {fabric.world_size}: use Fabric(devices=1)"
        )
    if getattr(fabric.strategy.precision, "scaler", None) is not None:
        raise TrainingError(
            "16-mixed scales gradients for one optimiser and there are three: use bf16-mixed or "
            "32-true"
        )


def _clip(
    fabric: Fabric, model: CoTrainingModel, optimizers: list[Any], max_norm: float
) -> dict[str, float]:
    norms = {}
    for name, optimizer in zip(NETWORK_NAMES, optimizers, strict=True):
        norm = fabric.clip_gradients(
            model.networks[name], optimizer, max_norm=max_norm, error_if_nonfinite=False
        )
        norms[name] = 0.0 if norm is None else float(norm)
    return norms


def _not_finite(names: list[str], step: int, run_dir: Path, batch: Batch) -> TrainingError:
    dump = run_dir / f"bad_batch_{step:06d}.pt"
    run_dir.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.cpu() for key, value in batch._asdict().items()}, dump)
    return TrainingError(
        f"not finite at step {step}: {', '.join(names)}; the batch is in {dump} and the last "
        "checkpoint is intact: look at the batch, or start again in another folder with a lower "
        "learning_rate"
    )


@dataclass(frozen=True)
class _State:
    """What changes during a run."""

    model: CoTrainingModel
    averaged: AveragedModel
    optimizers: list[Any]
    recipe: CoopNetRecipe

    @property
    def averaged_networks(self) -> nn.ModuleDict:
        """The networks with averaged weights."""
        return cast(CoTrainingModel, self.averaged.module).networks


def _content(config: TrainingConfig, stage: Stage, step: int, state: _State) -> dict[str, Any]:
    averaged = state.averaged_networks
    return {
        "networks": {name: state.model.networks[name].state_dict() for name in NETWORK_NAMES},
        "averaged_networks": {name: averaged[name].state_dict() for name in NETWORK_NAMES},
        "optimizers": {
            name: optimizer.state_dict()
            for name, optimizer in zip(NETWORK_NAMES, state.optimizers, strict=True)
        },
        "recipe": state.recipe.state_dict(),
        "variant": config.variant,
        "width": stage.width,
        "height": stage.height,
        "step": step,
        "config": config.model_dump(mode="json"),
    }


def _restore(path: Path, config: TrainingConfig, state: _State) -> int:
    content = load_checkpoint(path)
    needed = ("averaged_networks", "optimizers", "recipe")
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise TrainingError(f"checkpoint {path} cannot be resumed: it lacks {', '.join(lacking)}")
    # Validated, not compared as text: keys that have come since, with a default, are no change.
    before = parse_config(content["config"], TrainingConfig, f"config in {path}")
    changed = [
        key for key in TrainingConfig.model_fields if getattr(before, key) != getattr(config, key)
    ]
    if changed:
        raise TrainingError(
            f"checkpoint {path} was made with another {', '.join(changed)}: resume with the config "
            "that started the run, or start a new run in another folder"
        )
    for name, optimizer in zip(NETWORK_NAMES, state.optimizers, strict=True):
        state.model.networks[name].load_state_dict(content["networks"][name])
        state.averaged_networks[name].load_state_dict(content["averaged_networks"][name])
        optimizer.load_state_dict(content["optimizers"][name])
    state.recipe.load_state_dict(content["recipe"])
    # Zero would make the next update a copy of the weights.
    state.averaged.n_averaged.fill_(int(content["step"]))
    return int(content["step"])
