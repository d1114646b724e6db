"""A progress bar for people, TensorBoard for curves and pictures."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from coopnet_core.config import TrainingConfig
from coopnet_core.inference import rendering
from coopnet_core.losses.rebalancing import LOGGED_BINS, LOGGED_RANGE
from coopnet_core.training.step_report import StepReport

PLAIN_EVERY = 20
NUM_HISTOGRAMS = 200
"""How often a whole run writes the histogram of Delta."""
SMOOTHING = 0.05
"""Weight of the newest step in the loss that the bar shows."""


class RunLogger:
    """Reports every step; a context manager.

    Args:
        run_dir: TensorBoard files go to ``run_dir/tensorboard``.
        config: For the number of steps.
        pictures_every: Steps between pictures of the first pair of a batch.
        has_bar: Draw a bar; otherwise print a line every 20 steps.
    """

    def __init__(
        self, run_dir: Path, config: TrainingConfig, *, pictures_every: int, has_bar: bool
    ) -> None:
        self.config = config
        self.pictures_every = pictures_every
        self.run_dir = run_dir
        # Made at the first step: a run that is refused leaves nothing behind.
        self.writer: SummaryWriter | None = None
        self.smooth_loss: float | None = None
        self.seconds = 0.0
        self.seconds_waiting = 0.0
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        if has_bar:
            self.progress = Progress(
                TextColumn("{task.fields[stage]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
            )

    def __enter__(self) -> RunLogger:
        if self.progress is not None:
            self.progress.start()
            self.task = self.progress.add_task(
                "train", total=self.config.num_steps, stage="start", loss="-", detail=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def __call__(self, report: StepReport) -> None:
        """Show and write one step."""
        if self.smooth_loss is None:
            self.smooth_loss = report.total
        self.smooth_loss += SMOOTHING * (report.total - self.smooth_loss)
        self.seconds += report.seconds
        self.seconds_waiting += report.seconds_waiting
        self._write(report)
        detail = " ".join(f"{name.split('_')[0]} {report.terms[name]:.3f}" for name in _SHOWN)
        if report.band:
            detail += f" kept {report.band['kept']:.0%}"
        if self.progress is not None and self.task is not None:
            self.progress.update(
                self.task,
                completed=report.step,
                stage=report.stage,
                loss=f"{self.smooth_loss:.4f}",
                detail=detail,
            )
        elif report.step % PLAIN_EVERY == 0 or report.step == self.config.num_steps:
            print(
                f"{report.stage} {report.step}/{self.config.num_steps} "
                f"loss {self.smooth_loss:.4f} {detail} {report.seconds:.2f} s/step "
                f"data {self.share_waiting:.0%}",
                flush=True,
            )

    @property
    def share_waiting(self) -> float:
        """Share of the time since the start that went by waiting for data."""
        return self.seconds_waiting / max(self.seconds, 1e-9)

    def _write(self, report: StepReport) -> None:
        if self.writer is None:
            # After a resume, what was logged beyond the checkpoint is replaced.
            folder = str(self.run_dir / "tensorboard")
            self.writer = SummaryWriter(folder, purge_step=report.step)
        scalar = self.writer.add_scalar
        scalar("loss/total", report.total, report.step)
        for name, value in report.terms.items():
            scalar(f"loss/{name}", value, report.step)
        total_norm = max(sum(report.gradient_norm.values()), 1e-12)
        for name, value in report.gradient_norm.items():
            scalar(f"gradient_norm/{name}", value, report.step)
            scalar(f"gradient_share/{name}", value / total_norm, report.step)
        for name, value in report.band.items():
            scalar(f"band/{name}", value, report.step)
        if report.translation is not None:
            scalar("pose/translation", report.translation, report.step)
        scalar("time/learning_rate", report.learning_rate, report.step)
        scalar("time/step_s", report.seconds, report.step)
        scalar("time/share_waiting_for_data", report.seconds_waiting / report.seconds, report.step)
        if report.step % self.pictures_every == 0 or report.step == 1:
            self.writer.add_image(
                "pair/image_depth_flow_kept",
                training_picture(report),
                report.step,
                dataformats="HWC",
            )
        every = max(1, self.config.num_steps // NUM_HISTOGRAMS)
        if report.delta_histogram is not None and report.step % every == 0:
            _add_histogram(self.writer, report.delta_histogram, report.step)


def _add_histogram(writer: SummaryWriter, counts: Tensor, step: int) -> None:
    edges = np.linspace(-LOGGED_RANGE, LOGGED_RANGE, LOGGED_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    per_bin = counts.numpy()
    writer.add_histogram_raw(
        "band/delta",
        min=-LOGGED_RANGE,
        max=LOGGED_RANGE,
        num=int(per_bin.sum()),
        sum=float(per_bin @ centres),
        sum_squares=float(per_bin @ centres**2),
        bucket_limits=edges[1:].tolist(),
        bucket_counts=per_bin.tolist(),
        global_step=step,
    )


_SHOWN = ("depth_photometric", "flow_photometric")


def training_picture(report: StepReport) -> npt.NDArray[np.uint8]:
    """Draw image, depth, flow and the pixels that taught depth, for the first pair of a batch.

    Args:
        report: The step.

    Returns:
        RGB, (4 H, W, 3) uint8; (3 H, W, 3) during warm-up, when every pixel teaches.
    """
    batch, prediction = report.batch, report.prediction
    image = batch.image_tgt[0].detach().cpu().numpy().transpose(1, 2, 0)
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    inverse_depth = prediction.inverse_depth_tgt[0][0, 0].detach().float().cpu().numpy()
    depth = np.asarray(1 / inverse_depth, np.float32)
    near, far = rendering.depth_range(depth)
    flow = prediction.flow_tgt_src[0][0].detach().float().cpu().numpy().transpose(1, 2, 0)
    rows = [
        (image * 255).astype(np.uint8),
        _rgb(rendering.render_depth(depth, near, far)),
        _rgb(rendering.render_flow(flow, max(1.0, float(np.percentile(np.hypot(*flow.T), 98))))),
    ]
    if report.kept_mask is not None:
        kept = report.kept_mask[0, 0].cpu().numpy()
        rows.append(np.where(kept[:, :, None], rows[0], np.uint8(0)))
    return np.concatenate(rows)


def _rgb(bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
