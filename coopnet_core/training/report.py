"""The curves of a whole run as one picture, read from its TensorBoard files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coopnet_core.errors import TrainingError

REPORT_NAME = "report.png"
TENSORBOARD_NAME = "tensorboard"
_CORE = 0.99
"""Share of the pixels that the picture of Delta shows: its tails are a hundred times as long."""
_NUM_MEANS = 60
"""Single steps scatter with their pairs: over them lies a line of this many means."""

Float64 = npt.NDArray[np.float64]
Curve = tuple[Float64, Float64]


def write_report(run_dir: Path) -> Path:
    """Draw losses, distribution of Delta, gradient shares and times over all steps of a run.

    Args:
        run_dir: Folder of the run, with ``tensorboard``; a run in parts is drawn as one.

    Returns:
        The picture, ``run_dir/report.png``.

    Raises:
        TrainingError: There are no curves, or the picture cannot be written.
    """
    folder = run_dir / TENSORBOARD_NAME
    if not folder.is_dir():
        raise TrainingError(f"no curves to draw: {folder} is missing; the checkpoint is complete")
    events = EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}
    )
    events.Reload()
    curves = {
        tag: (
            np.array([event.step for event in events.Scalars(tag)], float),
            np.array([event.value for event in events.Scalars(tag)], float),
        )
        for tag in events.Tags()["scalars"]
    }
    figure = Figure(figsize=(15, 14), layout="constrained")
    grid = figure.subplots(4, 2, sharex=True)
    axes = iter(grid.flat)
    _lines(next(axes), curves, "loss/", "loss terms before weighting", is_log=True)
    _delta(next(axes), events, curves)
    shares = ("p_positive", "kept", "valid", "motion_iou")
    _lines(next(axes), curves, "band/", "shares of pixels", only=shares)
    _lines(next(axes), curves, "band/", "epsilon = -E[Δ | Δ < 0]", only=("epsilon",))
    _lines(next(axes), curves, "gradient_share/", "share of the gradient norm")
    _lines(next(axes), curves, "gradient_norm/", "gradient norm before clipping", is_log=True)
    _lines(next(axes), curves, "pose/", "mean predicted motion, in the depth's unit")
    _lines(next(axes), curves, "time/", "time", only=("step_s", "share_waiting_for_data"))
    for last in grid[-1]:
        last.set_xlabel("step")
    figure.suptitle(_summary(run_dir, curves))
    path = run_dir / REPORT_NAME
    try:
        figure.savefig(path, dpi=80)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}; the checkpoint is complete") from error
    return path


def _summary(run_dir: Path, curves: dict[str, Curve]) -> str:
    steps, seconds = curves["time/step_s"]
    waiting = (curves["time/share_waiting_for_data"][1] * seconds).sum() / seconds.sum()
    return (
        f"{run_dir.name}: {int(steps[-1])} steps, {np.median(seconds):.2f} s each (median), "
        f"{waiting:.1%} of the time waiting for data"
    )


def _lines(
    axes: Axes,
    curves: dict[str, Curve],
    group: str,
    title: str,
    only: tuple[str, ...] = (),
    is_log: bool = False,
) -> None:
    names = [tag for tag in curves if tag.startswith(group)]
    names = [tag for tag in names if not only or tag.removeprefix(group) in only]
    for tag in names:
        label = tag.removeprefix(group)
        (line,) = axes.plot(*_means(*curves[tag]), label=label, linewidth=1.5)
        axes.plot(*curves[tag], color=line.get_color(), linewidth=0.5, alpha=0.3, zorder=1)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if is_log and names:
        axes.set_yscale("log", nonpositive="mask")
        # A term may be 0 in a batch, and almost 0 in another.
        shown = np.concatenate([_means(*curves[tag])[1] for tag in names])
        axes.set_ylim(bottom=0.5 * shown[shown > 0].min(initial=1.0))
    if names:
        axes.legend(fontsize="small")
    else:
        _say_nothing(axes)


def _means(steps: Float64, values: Float64) -> Curve:
    """Average neighbours."""
    starts = _group_starts(len(steps))
    counts = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _group_starts(number: int) -> npt.NDArray[np.int64]:
    return np.arange(0, number, max(1, number // _NUM_MEANS))


def _delta(axes: Axes, events: EventAccumulator, curves: dict[str, Curve]) -> None:
    axes.set_title("distribution of Δ with its mode and band")
    if "band/delta" not in events.Tags()["histograms"]:
        _say_nothing(axes)
        return
    found = events.Histograms("band/delta")
    starts = _group_starts(len(found))
    counts = np.array([event.histogram_value.bucket for event in found]).T
    counts = np.add.reduceat(counts, starts, axis=1)
    limits = np.array(found[0].histogram_value.bucket_limit)
    width = limits[1] - limits[0]
    cumulated = counts.sum(1).cumsum() / counts.sum()
    low, high = np.interp([(1 - _CORE) / 2, (1 + _CORE) / 2], cumulated, limits)
    steps = np.array([event.step for event in found], float)
    edges = np.concatenate([[limits[0] - width], limits])
    columns = np.append(steps[starts], steps[-1] + 1)
    # The root, or nothing is seen beside the peak.
    density = np.sqrt(counts / counts.max(0, keepdims=True))
    axes.pcolormesh(columns, edges, density, cmap="Greys")
    mode, half_width = (_means(*curves[f"band/{name}"]) for name in ("mode", "half_width"))
    axes.plot(*mode, color="tab:red", label="mode", linewidth=1.2)
    for sign, label in ((-1, "band"), (1, None)):
        edge = mode[1] + sign * half_width[1]
        axes.plot(mode[0], edge, color="tab:orange", label=label, linewidth=1.2)
    axes.axhline(0, color="tab:blue", linewidth=0.6)
    axes.set_ylim(low - width, high + width)
    axes.set_ylabel("Δ = error by depth - error by flow")
    axes.legend(fontsize="small")


def _say_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not in this run", ha="center", va="center", transform=axes.transAxes)
