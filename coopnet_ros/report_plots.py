"""Plots of the report as inline SVG; colours are CSS variables, so they follow light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 60, 14, 12, 40


@dataclass(frozen=True)
class Series:
    """A line of a plot.

    Attributes:
        name: For the legend.
        x: (N,) values.
        y: (N,) values; NaN breaks the line.
        color: CSS class ``c1`` to ``c5`` of the report.
        dashed: Draw it dashed.
    """

    name: str
    x: Float64
    y: Float64
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels."""

    low: float
    high: float
    first_px: float
    last_px: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.first_px + share * (self.last_px - self.first_px)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round values that span ``low`` to ``high`` in about ``count`` steps of 1, 2 or 5."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    while span / step > count * 1.5:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def line_plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_high: float | None = None,
    reference: tuple[float, str] | None = None,
    width: int = 620,
    height: int = 250,
) -> str:
    """Draw lines over time, with a cursor that the report's player moves.

    Args:
        series: The lines.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        x_range: Ends of the x axis.
        y_high: Upper end of the y axis, whose lower end is 0; None fits it.
        reference: A horizontal line and its name.
        width: Width of the view box, pixels.
        height: Height of the view box, pixels.

    Returns:
        An ``<svg>`` element.
    """
    values = np.concatenate([s.y for s in series]) if series else np.zeros(0)
    values = values[np.isfinite(values)]
    if y_high is None:
        y_high = float(values.max()) * 1.12 if values.size and values.max() > 0 else 1.0
    x = _Scale(*x_range, _MARGIN_LEFT, width - _MARGIN_RIGHT)
    y = _Scale(0.0, y_high, height - _MARGIN_BOTTOM, _MARGIN_TOP)
    parts = [_open(width, height), _axes(x, y, x_label, y_label, width, height)]
    if reference is not None and reference[0] <= y_high:
        level = y(reference[0])
        parts.append(
            f'<line class="ref" x1="{x.first_px:.1f}" x2="{x.last_px:.1f}" '
            f'y1="{level:.1f}" y2="{level:.1f}"/>'
            f'<text class="ref-text" x="{x.last_px - 4:.1f}" y="{level - 5:.1f}" '
            f'text-anchor="end">{html.escape(reference[1])}</text>'
        )
    parts += [_path(s, x, y) for s in series]
    parts.append(
        f'<line class="cursor" data-low="{x.low}" data-high="{x.high}" '
        f'data-first="{x.first_px}" data-last="{x.last_px}" '
        f'x1="{x.first_px}" x2="{x.first_px}" y1="{y.first_px}" y2="{y.last_px}"/>'
    )
    parts.append("</svg>")
    return "".join(parts) + legend(series)


def top_view(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    width: int = 620,
    heights: tuple[int, int] = (250, 400),
) -> str:
    """Draw trajectories seen from above, both axes in the same scale.

    Forward is to the right and left is up: a drive is long and narrow, as the plot is.

    Args:
        series: Trajectories: x forward, y left.
        x_label: Label of the forward axis.
        y_label: Label of the left axis.
        width: Width of the view box, pixels.
        heights: Least and greatest height of the view box, pixels; the path decides between them.

    Returns:
        An ``<svg>`` element. The dots that the player moves have the class ``dot``.
    """
    xs = np.concatenate([s.x for s in series])
    ys = np.concatenate([s.y for s in series])
    span_x = max(float(np.ptp(xs)), 1e-3) * 1.1
    span_y = max(float(np.ptp(ys)), 1e-3) * 1.1
    plot_w = width - _MARGIN_LEFT - _MARGIN_RIGHT
    margins = _MARGIN_TOP + _MARGIN_BOTTOM
    height = int(np.clip(plot_w * span_y / span_x + margins, *heights))
    plot_h = height - margins
    per_px = max(span_x / plot_w, span_y / plot_h)
    middle_x, middle_y = (float(v.min() + v.max()) / 2 for v in (xs, ys))
    x = _Scale(
        middle_x - per_px * plot_w / 2,
        middle_x + per_px * plot_w / 2,
        _MARGIN_LEFT,
        width - _MARGIN_RIGHT,
    )
    y = _Scale(
        middle_y - per_px * plot_h / 2,
        middle_y + per_px * plot_h / 2,
        height - _MARGIN_BOTTOM,
        _MARGIN_TOP,
    )
    parts = [_open(width, height), _axes(x, y, x_label, y_label, width, height)]
    for s in series:
        parts.append(_path(s, x, y))
    first = series[0]
    parts.append(
        f'<circle class="start" cx="{x(float(first.x[0])):.1f}" cy="{y(float(first.y[0])):.1f}" '
        'r="4"/>'
    )
    for s in series:
        points = " ".join(
            f"{x(float(a)):.1f},{y(float(b)):.1f}" for a, b in zip(s.x, s.y, strict=True)
        )
        parts.append(
            f'<circle class="dot {s.color}" data-points="{points}" r="5" '
            f'cx="{x(float(s.x[0])):.1f}" cy="{y(float(s.y[0])):.1f}"/>'
        )
    parts.append("</svg>")
    return "".join(parts) + legend(series)


def legend(series: Sequence[Series]) -> str:
    """Return the legend below a plot as HTML."""
    items = "".join(
        f'<span class="key"><svg viewBox="0 0 22 8" class="swatch"><line x1="1" x2="21" y1="4" '
        f'y2="4" class="line {s.color}{" dashed" if s.dashed else ""}"/></svg>'
        f"{html.escape(s.name)}</span>"
        for s in series
    )
    return f'<div class="legend">{items}</div>'


def sliding_rate(times_s: Float64, intervals: int = 10) -> Float64:
    """Return the mean rate over the last intervals between messages.

    Args:
        times_s: (N,) times of arrival, seconds, ascending.
        intervals: Number of intervals in each mean.

    Returns:
        (N,) messages per second, NaN for the first ``intervals`` messages.
    """
    rates = np.full(len(times_s), np.nan)
    spans = times_s[intervals:] - times_s[:-intervals]
    rates[intervals:] = intervals / np.maximum(spans, 1e-9)
    return rates


def _open(width: int, height: int) -> str:
    return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img">'


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str, width: int, height: int) -> str:
    parts = []
    for value in ticks(x.low, x.high, 7):
        px = x(value)
        parts.append(
            f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{y.first_px}" y2="{y.last_px}"/>'
            f'<text x="{px:.1f}" y="{y.first_px + 16}" text-anchor="middle">{value:g}</text>'
        )
    for value in ticks(y.low, y.high, 5):
        px = y(value)
        parts.append(
            f'<line class="grid" x1="{x.first_px}" x2="{x.last_px}" y1="{px:.1f}" y2="{px:.1f}"/>'
            f'<text x="{x.first_px - 7}" y="{px + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    middle_x = (x.first_px + x.last_px) / 2
    middle_y = (y.first_px + y.last_px) / 2
    parts.append(
        f'<text class="label" x="{middle_x:.1f}" y="{height - 6}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
        f'<text class="label" x="13" y="{middle_y:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 13 {middle_y:.1f})">{html.escape(y_label)}</text>'
    )
    return "".join(parts)


def _path(series: Series, x: _Scale, y: _Scale) -> str:
    commands = []
    pen = "M"
    for a, b in zip(series.x.tolist(), series.y.tolist(), strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            pen = "M"
            continue
        commands.append(f"{pen}{x(a):.1f} {y(b):.1f}")
        pen = "L"
    dashed = " dashed" if series.dashed else ""
    return f'<path class="line {series.color}{dashed}" d="{"".join(commands)}"/>'
