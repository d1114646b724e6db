"""What test_training_processes.py runs, once in one process and once under torchrun in two.

torchrun --nproc-per-node 2 test/support/two_processes.py SCENE OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from coopnet_core.config import BandSettings, LossSettings, TrainingConfig, parse_config
from coopnet_core.data.image_folder import write_calibration
from coopnet_core.errors import TrainingError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.networks import Networks
from coopnet_core.recipes.coopnet import CoopNetRecipe
from coopnet_core.training import loop
from coopnet_core.training.model import CoTrainingModel, with_known_pose
from coopnet_core.training.processes import default_fabric, synchronise_batch_norm
from coopnet_core.training.step_report import StepReport
from coopnet_core.types import Batch, LossTerms

WIDTH, HEIGHT = 96, 64
NUM_PAIRS = 4
NUM_FRAMES = 9
ALL_TERMS = {"flow_consistency": 0.1}
CASES = {
    "warm-up": LossSettings(),
    "image": LossSettings(**ALL_TERMS),  # type: ignore[arg-type]
    "batch": LossSettings(band=BandSettings(scope="batch"), normalise_by="all"),
    "running": LossSettings(band=BandSettings(scope="running"), flow_pixels="complement"),
    "shortest": LossSettings(band=BandSettings(scope="batch", width="shortest")),
}


class TinyDepth(nn.Module):
    """Inverse canonical depth at strides 1, 4, 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 1, 1)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        inverse = 0.02 + 0.2 * torch.sigmoid(self.layers(image))
        return [inverse, avg_pool2d(inverse, 4), avg_pool2d(inverse, 8)]


class TinyPose(nn.Module):
    """A step forward and a small rest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 6, 1)
        )

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> Tensor:
        both = self.layers(torch.cat([image_tgt, image_src], dim=1))
        return 0.05 * cast("Tensor", both).mean(dim=(2, 3)) + torch.eye(6)[3] * 0.3


class TinyFlow(nn.Module):
    """Flow of a few pixels at strides 1 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 2, 1)
        )

    def one_way(self, image_tgt: Tensor, image_src: Tensor) -> list[Tensor]:
        flow = self.layers(torch.cat([image_tgt, image_src], dim=1))
        return [flow, *(avg_pool2d(flow, s) / s for s in (4, 8, 16, 32))]

    def forward(self, image_tgt: Tensor, image_src: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.one_way(image_tgt, image_src), self.one_way(image_src, image_tgt)


def tiny_networks(*_: Any, **__: Any) -> Networks:
    """Return networks with weights from torch's seed and batch norm in each."""
    networks: Any = (TinyDepth(), TinyPose(), TinyFlow())
    return Networks(*networks)


def whole_batch() -> Batch:
    """Four pairs that differ in how much of them is in view: one is flat, one is stereo."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(NUM_PAIRS, 1, HEIGHT + 12, WIDTH + 24, generator=generator)
    texture = avg_pool2d(noise, 5, 1, 2).repeat(1, 3, 1, 1)
    tgt, src = texture[..., 6:-6, 12:-12], texture[..., 6:-6, 9:-15].clone()
    src[3] = texture[3, :, 6:-6, 4:-20]
    src[1, :, 10:40, 20:60] = 0.5
    K = torch.tensor([[80.0, 0, 47.5], [0, 80, 31.5], [0, 0, 1]]).repeat(NUM_PAIRS, 1, 1)
    T = torch.eye(4).repeat(NUM_PAIRS, 1, 1)
    T[2, 0, 3] = -0.4
    has_pose = torch.tensor([False, False, True, False])
    return Batch(tgt.contiguous(), src, tgt.contiguous(), src, K, T, has_pose)


def synchronised_model(networks: Networks) -> nn.Module:
    """Return the model with our batch norm in one process as well.

    torch's own on a CPU is off by 6e-5 with channels last, more than what is to be shown.
    """
    return synchronise_batch_norm(CoTrainingModel(networks), torch.device("cpu"))


def gradients(fabric: Fabric, case: str) -> tuple[float, dict[str, Tensor]]:
    """Return loss, and gradients and buffers, of the batch of which each process sees its part."""
    torch.manual_seed(0)
    model: Any = fabric.setup(synchronised_model(tiny_networks()))
    size = NUM_PAIRS // fabric.world_size
    part = slice(fabric.global_rank * size, (fabric.global_rank + 1) * size)
    batch = Batch(*(tensor[part] for tensor in whole_batch() if tensor is not None))
    recipe = CoopNetRecipe(CASES[case])
    losses = recipe(batch, with_known_pose(batch, model(batch)), rebalance=case != "warm-up")
    fabric.backward(losses.total)
    found = {name: p.grad.clone() for name, p in model.module.named_parameters()}
    buffers = {name: b.clone() for name, b in model.module.named_buffers()}
    total = fabric.all_reduce(losses.total.detach(), reduce_op="mean")
    return float(total), {**found, **buffers}  # type: ignore[arg-type]


def write_scene(root: Path) -> None:
    """Write ``root/frames``: a wall that slides to the left, a patch that moves over it, the truth.

    The patch is at rows 20 to 39 and columns 10 + 6 i to 33 + 6 i of frame i.
    """
    folder = root / "frames"
    (folder / "motion").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def texture(height: int, width: int) -> Any:
        noise = cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 2.5)
        return np.asarray(20 + 215 * (noise - noise.min()) / np.ptp(noise), np.uint8)

    wall, patch = texture(HEIGHT, WIDTH + 40), texture(20, 24)
    for index in range(NUM_FRAMES):
        frame = wall[:, 3 * index : 3 * index + WIDTH].copy()
        mask = np.zeros_like(frame)
        left = 10 + 6 * index
        frame[20:40, left : left + 24] = patch
        mask[20:40, left : left + 24] = 255
        cv2.imwrite(str(folder / f"{index:06d}.png"), frame)
        cv2.imwrite(str(folder / "motion" / f"{index:06d}.png"), mask)
    camera = Intrinsics(WIDTH, HEIGHT, 80.0, 80.0, WIDTH / 2, HEIGHT / 2)
    write_calibration(folder / "calibration.yaml", camera, "synthetic")


def config(**changes: Any) -> TrainingConfig:
    """Return a short run over the scene of the test."""
    size = {"width": WIDTH, "height": HEIGHT}
    content: dict[str, Any] = {
        "pretrained": False,
        "sources": [{"kind": "image_folder", "path": "frames"}],
        "stages": [
            {"name": "warm-up", "steps": 2, "rebalance": False, **size},
            {"name": "joint", "steps": 3, **size},
        ],
        "batch_size": 4,
        "learning_rate_warmup_steps": 1,
        "loss": {"band": {"scope": "running"}},
    }
    return parse_config({**content, **changes}, TrainingConfig, "test")


class PoisonedRecipe(CoopNetRecipe):
    """A term that is not a number in this process alone."""

    def __call__(self, *args: Any, **options: Any) -> LossTerms:
        losses = super().__call__(*args, **options)
        terms = {**losses.terms, "flow_photometric": torch.tensor(float("nan"))}
        return losses._replace(terms=terms, total=losses.total * float("nan"))


def numbers(report: StepReport) -> dict[str, float]:
    """Return what must not depend on the number of processes."""
    return {
        "total": report.total,
        "translation": float(report.translation or 0),
        **report.terms,
        **report.band,
        **{f"norm {name}": norm for name, norm in report.gradient_norm.items()},
    }


def main(scene: Path, out: Path) -> None:
    """Write what this process found to ``OUT/process_RANK.pt``."""
    torch.set_num_threads(1)
    loop.build_networks = tiny_networks  # type: ignore[assignment]
    fabric = default_fabric()
    steps: list[dict[str, float]] = []

    def train(name: str, **options: Any) -> None:
        loop.train(
            config(),
            scene,
            out / name,
            fabric=fabric,
            report=lambda report: steps.append(numbers(report)),
            **options,
        )

    found = {case: gradients(fabric, case) for case in CASES}
    train("whole")
    num_reports = len(steps)
    train("parts", stop_after=3)
    train("parts", resume=True, num_workers=3)
    try:
        loop.CoopNetRecipe = PoisonedRecipe if fabric.global_rank == 1 else CoopNetRecipe  # type: ignore[misc]
        train("poisoned")
        message = "nothing"
    except TrainingError as error:
        message = str(error)
    torch.save(
        {"gradients": found, "steps": steps[:num_reports], "message": message},
        out / f"process_{fabric.global_rank}.pt",
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
