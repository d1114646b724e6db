"""The curves of a whole run as one picture, read from its TensorBoard files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPORT_NAME = "report.png"
TENSORBOARD_NAME = "tensorboard"
_CORE = 0.99
"""Share of the pixels that the picture of Delta shows: its tails are a hundred times as long."""
_NUM_MEANS = 200

Float64 = npt.NDArray[np.float64]
Curve = tuple[Float64, Float64]


def write_report(run_dir: Path) -> Path:
    """Draw losses, distribution of Delta, gradient shares and times over all steps of a run.

    Args:
        run_dir: Folder of the run, with ``tensorboard``; a run in parts is drawn as one.

    Returns:
        The picture, ``run_dir/report.png``.
    """
    events = EventAccumulator(
        str(run_dir / TENSORBOARD_NAME), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}
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
    axes = iter(figure.subplots(4, 2).flat)
    _lines(next(axes), curves, "loss/", "loss terms before weighting", is_log=True)
    _delta(next(axes), events, curves)
    shares = ("p_positive", "kept", "valid", "motion_iou")
    _lines(next(axes), curves, "band/", "shares of pixels", only=shares)
    _lines(next(axes), curves, "band/", "epsilon = -E[Δ | Δ < 0]", only=("epsilon",))
    _lines(next(axes), curves, "gradient_share/", "share of the gradient norm")
    _lines(next(axes), curves, "gradient_norm/", "gradient norm before clipping", is_log=True)
    _lines(next(axes), curves, "pose/", "mean predicted motion, in the depth's unit")
    _lines(next(axes), curves, "time/", "time", only=("step_s", "share_waiting_for_data"))
    figure.suptitle(_summary(run_dir, curves))
    path = run_dir / REPORT_NAME
    figure.savefig(path, dpi=80)
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
        steps, values = _means(*curves[tag])
        axes.plot(steps, values, label=tag.removeprefix(group), linewidth=1.2)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if is_log:
        axes.set_yscale("log")
    if names:
        axes.legend(fontsize="small")
    else:
        _say_nothing(axes)


def _means(steps: Float64, values: Float64) -> Curve:
    """Average neighbours, so that a long run is a line and no carpet."""
    size = max(1, len(steps) // _NUM_MEANS)
    starts = np.arange(0, len(steps), size)
    counts = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _delta(axes: Axes, events: EventAccumulator, curves: dict[str, Curve]) -> None:
    axes.set_title("distribution of Δ with its mode and band")
    axes.set_xlabel("step")
    if "band/delta" not in events.Tags()["histograms"]:
        _say_nothing(axes)
        return
    found = events.Histograms("band/delta")
    counts = np.array([event.histogram_value.bucket for event in found]).T
    limits = np.array(found[0].histogram_value.bucket_limit)
    width = limits[1] - limits[0]
    cumulated = counts.sum(1).cumsum() / counts.sum()
    low, high = np.interp([(1 - _CORE) / 2, (1 + _CORE) / 2], cumulated, limits)
    steps = np.array([event.step for event in found], float)
    edges = np.concatenate([[limits[0] - width], limits])
    axes.pcolormesh(_step_edges(steps), edges, counts / counts.max(0, keepdims=True), cmap="Greys")
    mode, half_width = (_means(*curves[f"band/{name}"]) for name in ("mode", "half_width"))
    axes.plot(*mode, color="tab:red", label="mode", linewidth=1.2)
    for sign, label in ((-1, "band"), (1, None)):
        edge = mode[1] + sign * half_width[1]
        axes.plot(mode[0], edge, color="tab:orange", label=label, linewidth=1.2)
    axes.axhline(0, color="tab:blue", linewidth=0.6)
    axes.set_ylim(low - width, high + width)
    axes.set_ylabel("Δ = error by depth - error by flow")
    axes.legend(fontsize="small")


def _step_edges(steps: Float64) -> Float64:
    """Return where the columns of a picture begin and end when each has a step."""
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([steps[:1] - 0.5, middles, steps[-1:] + 0.5])


def _say_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not in this run", ha="center", va="center", transform=axes.transAxes)
