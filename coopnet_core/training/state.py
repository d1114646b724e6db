"""What changes during a run, to and from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel

from coopnet_core.config import Stage, TrainingConfig, parse_config
from coopnet_core.errors import TrainingError
from coopnet_core.recipes.coopnet import CoopNetRecipe
from coopnet_core.training.checkpoint import load_checkpoint
from coopnet_core.training.model import CoTrainingModel

NETWORK_NAMES = ("depth", "pose", "flow")


@dataclass(frozen=True)
class State:
    """What changes during a run; equal in all processes.

    Attributes:
        wrapped: The model as fabric wraps it: calling it makes backward reduce the gradients.
        averaged: The average of the weights.
        optimizers: One per network.
        recipe: The loss.
    """

    wrapped: Any
    averaged: AveragedModel
    optimizers: list[Any]
    recipe: CoopNetRecipe

    @property
    def model(self) -> CoTrainingModel:
        """The model itself."""
        return cast(CoTrainingModel, self.wrapped.module)

    @property
    def averaged_networks(self) -> nn.ModuleDict:
        """The networks with averaged weights."""
        return cast(CoTrainingModel, self.averaged.module).networks

    def content(
        self, config: TrainingConfig, stage: Stage, step: int, num_processes: int
    ) -> dict[str, Any]:
        """Return what a checkpoint holds after ``step`` steps."""
        averaged = self.averaged_networks
        return {
            "networks": {name: self.model.networks[name].state_dict() for name in NETWORK_NAMES},
            "averaged_networks": {name: averaged[name].state_dict() for name in NETWORK_NAMES},
            "optimizers": {
                name: optimizer.state_dict()
                for name, optimizer in zip(NETWORK_NAMES, self.optimizers, strict=True)
            },
            "recipe": self.recipe.state_dict(),
            "variant": config.variant,
            "width": stage.width,
            "height": stage.height,
            "step": step,
            "num_processes": num_processes,
            "config": config.model_dump(mode="json"),
        }

    def restore(self, path: Path, config: TrainingConfig, fabric: Fabric) -> int:
        """Take everything from a checkpoint of the same config, which the first process reads.

        Returns:
            Steps done.

        Raises:
            TrainingError: The checkpoint is damaged, of another config, or cannot be resumed.
        """
        content = _checked(path, config) if fabric.is_global_zero else {}
        content = fabric.broadcast(content)
        before = content.get("num_processes", 1)
        if before != fabric.world_size:
            fabric.print(
                f"resuming in {fabric.world_size} process(es) what {before} began: the batches are "
                "the same, sums are rounded differently"
            )
        for name, optimizer in zip(NETWORK_NAMES, self.optimizers, strict=True):
            self.model.networks[name].load_state_dict(content["networks"][name])
            self.averaged_networks[name].load_state_dict(content["averaged_networks"][name])
            optimizer.load_state_dict(content["optimizers"][name])
        self.recipe.load_state_dict(content["recipe"])
        # Zero would make the next update a copy of the weights.
        self.averaged.n_averaged.fill_(int(content["step"]))
        return int(content["step"])


def _checked(path: Path, config: TrainingConfig) -> dict[str, Any]:
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
    return content
