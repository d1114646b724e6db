"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from coopnet_core.errors import TrainingError
from coopnet_core.networks import Networks

SCHEMA = 1
REQUIRED_KEYS = ("schema", "networks", "variant", "width", "height", "step", "config")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside its final place, flush it to disk, then rename it.

    Args:
        path: Final place; an older file there stays whole until the new one is complete.
        content: Tensors and plain values only; ``schema`` is added.

    Raises:
        TrainingError: The disk refuses; the older file is untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({"schema": SCHEMA, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(
            f"cannot write checkpoint {path}: {error}; free some space and start again with "
            "--resume, the last complete checkpoint is intact"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        TrainingError: It is missing, damaged, not a checkpoint, or of another schema.
    """
    if not path.is_file():
        raise TrainingError(f"checkpoint {path} does not exist: start a run without --resume first")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds, from zipfile to pickle
        raise TrainingError(f"checkpoint {path} cannot be read: {error}") from error
    missing = [key for key in REQUIRED_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise TrainingError(f"{path} is not a coopnet checkpoint: it lacks {', '.join(missing)}")
    if content["schema"] != SCHEMA:
        raise TrainingError(
            f"checkpoint {path} has schema {content['schema']}, this version reads {SCHEMA}: "
            "use the version that wrote it, or train again"
        )
    result: dict[str, Any] = content
    return result


def load_weights(networks: Networks, path: Path) -> None:
    """Put the weights of a checkpoint into networks: averaged over its run, where it has those.

    Raises:
        TrainingError: The checkpoint cannot be read, or is of another variant or version.
    """
    content = load_checkpoint(path)
    # What a run averages is better than where it happened to stop; older checkpoints lack it.
    weights = content.get("averaged_networks", content["networks"])
    for name, network in networks._asdict().items():
        try:
            network.load_state_dict(weights[name])
        except (KeyError, RuntimeError) as error:
            raise TrainingError(
                f"{path} does not fit the {name} network (the checkpoint is of variant "
                f"{content['variant']!r}): {error}; use the version of coopnet that wrote it"
            ) from error
