"""One process or many: what ``torchrun`` started, and how its processes become one batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record

from coopnet_core.errors import CoopNetError, TrainingError
from coopnet_core.losses.reduction import (
    gather_over_processes,
    num_processes,
    sum_over_processes,
)


def default_fabric() -> Fabric:
    """Join the processes that ``torchrun`` started; else one process on the best device here.

    bfloat16 where that is a GPU that has it; not float16: its gradient scaler is made for one
    optimiser, and there are several.

    Raises:
        TrainingError: There are more processes on this machine than GPUs.
    """
    has_gpu = torch.cuda.is_available()
    has_bfloat16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    accelerator = "cuda" if has_gpu else "cpu"
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if has_bfloat16 else "32-true"
    if not TorchElasticEnvironment.detect() or os.environ["WORLD_SIZE"] == "1":
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    here = processes_here()
    if has_gpu and here > torch.cuda.device_count():
        raise TrainingError(
            f"torchrun started {here} processes on this machine, which has "
            f"{torch.cuda.device_count()} GPUs: use --nproc-per-node gpu"
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=int(os.environ["WORLD_SIZE"]) // here,
        precision=precision,
        # A recipe may leave a network, or a head of one, out of its loss.
        strategy=DDPStrategy(find_unused_parameters=True),
    )
    fabric.launch()
    return fabric


def processes_here() -> int:
    """Return how many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Do the work of one of several processes, so that one that fails ends all and says why.

    ``torchrun`` ends the others when one ends, and shows the error that came first.

    Raises:
        TrainingError: An error of this process, with its number, or the loss of another one.
    """
    if fabric.world_size == 1:
        yield
        return

    @record
    def shown_by_torchrun(error: Exception) -> None:
        raise error

    who = f"process {fabric.global_rank} of {fabric.world_size}"
    try:
        yield
    except CoopNetError as error:
        shown_by_torchrun(TrainingError(f"{who}: {error}"))
    except RuntimeError as error:
        # Which class and words depend on the backend; without a lost peer it is a mistake of ours.
        lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
        if not any(words in str(error) for words in lost):
            raise
        raise TrainingError(f"{who}: another process ended; its own message says why") from None
    torch.distributed.destroy_process_group()


def check_fabric(fabric: Fabric, batch_size: int) -> None:
    """Refuse what would not train as the config says.

    Raises:
        TrainingError: The batch cannot be split evenly, or the precision scales gradients.
    """
    if batch_size % fabric.world_size:
        raise TrainingError(
            f"batch_size {batch_size} cannot be split evenly over {fabric.world_size} processes: "
            "it counts the pairs of all processes together; make it a multiple"
        )
    if getattr(fabric.strategy.precision, "scaler", None) is not None:
        raise TrainingError(
            "16-mixed scales gradients for one optimiser and there are several: use bf16-mixed or "
            "32-true"
        )


class BatchNormOverProcesses(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes; ``nn.SyncBatchNorm`` refuses CPUs."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training:
            return super().forward(features)

        def mean_over_processes(values: Tensor) -> Tensor:
            # In float64: with channels last, float32 sums of this length are off by 1e-5.
            total = values.sum(dim=(0, 2, 3), dtype=torch.float64)
            return (sum_over_processes(total) / count).float()

        count = num_processes() * features.numel() // features.shape[1]
        exact = features.float()
        mean = mean_over_processes(exact)
        centred = exact - mean[:, None, None]
        variance = mean_over_processes(centred**2)
        with torch.no_grad():
            batches = self.get_buffer("num_batches_tracked").add_(1)
            new = 1 / int(batches) if self.momentum is None else self.momentum
            self.get_buffer("running_mean").lerp_(mean, new)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), new)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(features.dtype)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm of a module work over all processes; weights and names stay."""
    if device.type == "cuda":
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            layer = BatchNormOverProcesses(child.num_features, child.eps, child.momentum)
            layer.load_state_dict(child.state_dict())
            layer.weight, layer.bias = child.weight, child.bias
            setattr(module, name, layer.train(child.training))
        else:
            synchronise_batch_norm(child, device)
    return module


def gather_table(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, Tensor]:
    """Bring named numbers of all processes together, in one message.

    Args:
        values: The same names and shapes in every process.
        device: Where the processes exchange tensors.

    Returns:
        Each as float64 (num_processes, *shape), on the CPU.
    """
    tensors = [
        torch.as_tensor(value, device=device).detach().to(torch.float64)
        for value in values.values()
    ]
    row = torch.cat([tensor.reshape(-1) for tensor in tensors])
    rows = gather_over_processes(row[None]).cpu()
    parts = torch.split(rows, [tensor.numel() for tensor in tensors], dim=1)
    return {
        name: part.reshape(-1, *tensor.shape)
        for name, part, tensor in zip(values, parts, tensors, strict=True)
    }
