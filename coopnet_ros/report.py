"""Make the report of a recording: ``python -m coopnet_ros.report RECORDING --out DIR``.

The recording holds the input images and the outputs of the perception node. The report is one HTML
file: pictures that play, trajectory, latency and rate plots, and the numbers in tables.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from coopnet_core import __version__
from coopnet_core.errors import CoopNetError, DataError
from coopnet_core.evaluation.odometry_metrics import path_length
from coopnet_core.evaluation.report import without_nan
from coopnet_ros import report_pictures as pictures
from coopnet_ros.report_data import (
    DEPTH,
    FLOW,
    MASK,
    NODE,
    ODOMETRY,
    OUTPUTS,
    TRUTH_TOPIC,
    Odometry,
    Run,
    frame_stamps,
    read_frames,
    read_run,
)
from coopnet_ros.report_page import Page, Panel, Table, render
from coopnet_ros.report_plots import Series, line_plot, sliding_rate, top_view

MAX_FRAMES = 200

_NAMES = {DEPTH: "depth", FLOW: "optical flow", MASK: "motion mask", ODOMETRY: "odometry"}
_COLORS = {DEPTH: "c1", FLOW: "c2", MASK: "c3", ODOMETRY: "c4"}


def write_report(
    recording: Path | str,
    out: Path | str,
    title: str = "CoopNet run",
    footer: str = "",
    node: str = NODE,
    image_topic: str | None = None,
    truth_topic: str = TRUTH_TOPIC,
    still_second: float | None = None,
) -> Run:
    """Write ``report.html``, ``demo.png`` and ``numbers.json`` of a recording.

    Args:
        recording: Bag with the input images and the node's outputs.
        out: Folder to write to; it is made.
        title: Heading of the report.
        footer: Plain text at its end, such as the terms of the data.
        node: Name of the perception node.
        image_topic: Input images; None takes the only ones.
        truth_topic: Odometry to compare with; it may be missing.
        still_second: Time of the still image, from the first image; None takes a third of the run.

    Returns:
        The measurements.

    Raises:
        DataError: The recording cannot be used, see ``report_data.read_run``, or the folder cannot
            be written.
    """
    run = read_run(recording, node, image_topic, truth_topic)
    stamps = _thinned(frame_stamps(run), MAX_FRAMES)
    seconds = [(stamp - run.start_stamp_ns) / 1e9 for stamp in stamps]
    still_index = _still_index(seconds, still_second)
    urls: dict[str, list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    still = None
    for index, frame in enumerate(read_frames(run, node, frozenset(stamps))):
        panels = pictures.draw_panels(frame, run)
        for name, picture in panels.named():
            urls.setdefault(name, []).append(pictures.jpeg_url(picture))
            sizes[name] = (picture.shape[1], picture.shape[0])
        if index == still_index:
            still = pictures.still(panels)
    page = Page(
        title=title,
        subtitle=_subtitle(run),
        numbers=_headline(run),
        panels=[
            Panel(name, _note(name, run), list_of_urls, _legend(name, run), sizes[name])
            for name, list_of_urls in urls.items()
        ],
        seconds=seconds,
        first_frame=max(0, still_index),
        pose_seconds=[] if run.odometry is None else run.odometry.seconds.tolist(),
        plots=_plots(run),
        tables=_tables(run),
        footer=html.escape(footer),
    )
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(render(page), encoding="utf-8")
        (out / "numbers.json").write_text(json.dumps(numbers(run), indent=2) + "\n", "utf-8")
        if still is not None:
            (out / "demo.png").write_bytes(cv2.imencode(".png", still)[1].tobytes())
    except OSError as error:
        raise DataError(f"cannot write the report to {out}: {error.strerror}") from error
    return run


def numbers(run: Run) -> dict[str, Any]:
    """Return the measurements as plain data; NaN becomes None.

    Args:
        run: The measurements.

    Returns:
        Counts, rates in Hz, latencies in milliseconds, odometry errors and the mask's share.
    """
    result: dict[str, Any] = {
        "input": {
            "topic": run.image.topic,
            "images": len(run.image.times_ns),
            "rate_hz": run.image.rate_hz(),
            "size": list(run.image_size),
        },
        "dropped_images": run.dropped,
        "outputs": {},
        "motion_mask_share": {
            "mean": _mean(run.mask_share[:, 1]),
            "max": float(run.mask_share[:, 1].max()) if len(run.mask_share) else None,
        },
        "node": run.facts,
        "machine": machine(),
    }
    for kind, latency in run.latencies.items():
        result["outputs"][kind] = {
            "messages": len(run.outputs[kind].times_ns),
            "rate_hz": run.outputs[kind].rate_hz(),
            "latency_ms": {
                **{f"p{percent}": latency.percentile(percent) for percent in (50, 95, 99)},
                "max": latency.percentile(100),
            },
            "missing": latency.missing,
        }
    if run.odometry is not None:
        metrics = run.odometry.metrics
        result["odometry"] = {
            "alignment": metrics.alignment,
            "scale": metrics.scale,
            "t_err_percent": metrics.t_err_percent,
            "r_err_deg_per_100m": metrics.r_err_deg_per_100m,
            "segment_lengths_m": list(metrics.lengths_m),
            "num_segments": metrics.num_segments,
            "ate_m": metrics.ate_m,
            "t_err_percent_without_alignment": run.odometry.unaligned.t_err_percent,
            "path_m": path_length(run.odometry.truth),
            "poses": len(run.odometry.seconds),
        }
    plain: dict[str, Any] = without_nan(result)
    return plain


def text_table(run: Run) -> str:
    """Return the numbers as a table for a terminal."""
    lines = [
        f"input    {len(run.image.times_ns)} images of {run.image_size[0]}x{run.image_size[1]} at "
        f"{run.image.rate_hz():.1f} Hz on {run.image.topic}",
        "",
        f"{'output':<14}{'messages':>9}{'rate Hz':>9}{'latency ms p50':>16}{'p95':>7}{'p99':>7}"
        f"{'max':>7}{'missing':>9}",
    ]
    for name, *cells in _output_rows(run):
        messages, rate, p50, p95, p99, high, missing = cells
        lines.append(
            f"{name:<14}{messages:>9}{rate:>9}{p50:>16}{p95:>7}{p99:>7}{high:>7}{missing:>9}"
        )
    lines.append("")
    lines += [f"{name:<32}{value}" for name, value in _odometry_rows(run)]
    if len(run.mask_share):
        shares = run.mask_share[:, 1] * 100
        lines.append(
            f"{'motion mask, share of pixels':<32}{shares.mean():.2f} % on average, "
            f"{shares.max():.2f} % at most"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="report", description="Make the report of a recording of the perception node."
    )
    parser.add_argument("recording", type=Path, help="bag with input images and outputs")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the bag's folder)")
    parser.add_argument("--title", default="CoopNet run")
    parser.add_argument("--node", default=NODE, help=f"name of the node (default: {NODE})")
    parser.add_argument("--image-topic", help="input images, where there are several")
    parser.add_argument("--truth-topic", default=TRUTH_TOPIC, help="odometry to compare with")
    parser.add_argument("--still", type=float, help="time of the still image, seconds")
    arguments = parser.parse_args(argv)
    out = arguments.out or arguments.recording.parent
    try:
        run = write_report(
            arguments.recording,
            out,
            arguments.title,
            node=arguments.node,
            image_topic=arguments.image_topic,
            truth_topic=arguments.truth_topic,
            still_second=arguments.still,
        )
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text_table(run))
    print(f"\nreport   {out / 'report.html'}")
    return 0


def machine() -> str:
    """Return the processor, the cores that this process may use, and how busy they were."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {cores} cores{load}"


def _subtitle(run: Run) -> str:
    duration_s = (int(run.image.stamps_ns.max()) - run.start_stamp_ns) / 1e9
    width, height = run.image_size
    text = (
        f"{len(run.image.times_ns)} images of {width}x{height} pixels, {duration_s:.1f} s, "
        "through ROS 2 into the perception node"
    )
    if run.output_size is not None:
        text += f", which answers at {run.output_size[0]}x{run.output_size[1]}"
    return text + "."


def _headline(run: Run) -> list[tuple[str, str, str]]:
    found = []
    rates = [stream.rate_hz() for stream in run.outputs.values()]
    slowest = min(run.outputs, key=lambda kind: run.outputs[kind].rate_hz())
    found.append((_number(min(rates)), "Hz", f"slowest output ({_NAMES[slowest]})"))
    last = max(run.latencies, key=lambda kind: run.latencies[kind].percentile(50))
    for percent in (50, 95):
        value = run.latencies[last].percentile(percent)
        meaning = f"latency to {_NAMES[last]}, " + ("median" if percent == 50 else f"p{percent}")
        found.append((_number(value), "ms", meaning))
    found.append((str(run.dropped), f"of {len(run.image.times_ns)}", "images dropped"))
    if run.odometry is not None and math.isfinite(run.odometry.metrics.t_err_percent):
        metrics = run.odometry.metrics
        found.append(
            (
                f"{metrics.t_err_percent:.1f}",
                "%",
                f"odometry t_err, {_alignment(metrics.alignment)}",
            )
        )
    if len(run.mask_share):
        share = run.mask_share[:, 1].mean() * 100
        found.append((f"{share:.2f}", "%", "of the pixels in the motion mask"))
    return found


def _plots(run: Run) -> list[tuple[str, str, str]]:
    end_s = (int(run.image.stamps_ns.max()) - run.start_stamp_ns) / 1e9
    # A recording of one image has no extent in time.
    span = (0.0, max(end_s, 0.1))
    found = []
    if run.odometry is not None:
        found.append(_trajectory_plot(run.odometry))
    elif run.trajectory is not None:
        xy = run.trajectory.poses[:, :2, 3]
        plot = top_view([Series("odometry", xy[:, 0], xy[:, 1], "c1")], "forward x", "left y")
        found.append(("Trajectory from above", plot, "No ground truth in the recording."))
    latencies = [
        Series(_NAMES[kind], latency.seconds, latency.values_ms, _COLORS[kind])
        for kind, latency in run.latencies.items()
    ]
    period_ms = 1000 / run.image.rate_hz() if run.image.rate_hz() > 0 else math.nan
    found.append(
        (
            "Latency, topic to topic",
            line_plot(
                latencies,
                "time, s",
                "latency, ms",
                span,
                reference=(period_ms, "time between images"),
            ),
            "From the arrival of the input image at the recorder to the arrival of the output with "
            "the same stamp.",
        )
    )
    named = {_NAMES[kind]: (stream, _COLORS[kind]) for kind, stream in run.outputs.items()}
    rates = [
        Series(
            name,
            (stream.stamps_ns - run.start_stamp_ns) / 1e9,
            sliding_rate(stream.times_ns / 1e9),
            color,
            dashed=stream is run.image,
        )
        for name, (stream, color) in {"input images": (run.image, "c5"), **named}.items()
    ]
    found.append(
        (
            "Rate",
            line_plot(rates, "time, s", "messages per second", span),
            "Mean over the last ten intervals between messages, as they arrived at the recorder.",
        )
    )
    if len(run.mask_share):
        mask = Series("motion mask", run.mask_share[:, 0], run.mask_share[:, 1] * 100, "c3")
        high = max(1.0, float(mask.y.max()) * 1.15)
        found.append(
            (
                "What moves by itself",
                line_plot([mask], "time, s", "share of the pixels, %", span, high),
                "Share of the picture that the motion mask covers.",
            )
        )
    return found


def _trajectory_plot(odometry: Odometry) -> tuple[str, str, str]:
    truth, estimate = odometry.truth[:, :2, 3], odometry.estimate[:, :2, 3]
    metrics = odometry.metrics
    plot = top_view(
        [
            Series("ground truth", truth[:, 0], truth[:, 1], "c5"),
            Series("odometry", estimate[:, 0], estimate[:, 1], "c1"),
        ],
        "forward x, m",
        "left y, m",
    )
    note = (
        "Circle: start, where both are the same pose. "
        f"The true path is {path_length(odometry.truth):.0f} m long. "
    )
    if metrics.alignment == "scale":
        note += f"The odometry is multiplied by {metrics.scale:.3f}, the least-squares scale."
    return "Trajectory from above", plot, note


def _tables(run: Run) -> list[Table]:
    header = (
        "output",
        "messages",
        "rate, Hz",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "max, ms",
        "missing",
    )
    tables = [
        Table(
            "Rate and latency",
            header,
            _output_rows(run),
            "Flow and motion mask compare two images, so the first image has none.",
            wide=True,
        )
    ]
    rows = _odometry_rows(run)
    if len(run.mask_share):
        shares = run.mask_share[:, 1] * 100
        rows.append(("motion mask, mean share of pixels", f"{shares.mean():.2f} %"))
        rows.append(("motion mask, largest share", f"{shares.max():.2f} %"))
    if rows:
        tables.append(Table("Odometry and motion mask", (), rows))
    facts = [
        ("input", f"{run.image.topic}, {run.image.rate_hz():.2f} Hz"),
        *((key, value) for key, value in run.facts.items() if key != "path"),
        ("machine", machine()),
        ("coopnet", __version__),
    ]
    tables.append(Table("This run", (), facts))
    return tables


def _output_rows(run: Run) -> list[tuple[str, ...]]:
    rows = []
    for kind in OUTPUTS:
        if kind not in run.latencies:
            continue
        latency, stream = run.latencies[kind], run.outputs[kind]
        percentiles = [_number(latency.percentile(p)) for p in (50, 95, 99, 100)]
        rows.append(
            (
                _NAMES[kind],
                str(len(stream.times_ns)),
                f"{stream.rate_hz():.2f}",
                *percentiles,
                str(latency.missing),
            )
        )
    return rows


def _odometry_rows(run: Run) -> list[tuple[str, str]]:
    if run.odometry is None:
        return []
    metrics, unaligned = run.odometry.metrics, run.odometry.unaligned
    rows = [
        ("odometry, alignment", _alignment(metrics.alignment)),
        ("odometry, scale", f"{metrics.scale:.3f}"),
    ]
    if metrics.num_segments:
        lengths = ", ".join(f"{length:g}" for length in metrics.lengths_m)
        rows += [
            (
                "odometry, t_err",
                f"{metrics.t_err_percent:.2f} % over {metrics.num_segments} segments of "
                f"{lengths} m ({unaligned.t_err_percent:.2f} % without alignment)",
            ),
            ("odometry, r_err", f"{metrics.r_err_deg_per_100m:.2f} degrees per 100 m"),
        ]
    path = path_length(run.odometry.truth)
    rows.append(("odometry, ATE", f"{metrics.ate_m:.2f} m over {path:.1f} m"))
    if run.trajectory is not None:
        lost, total = int(run.trajectory.lost.sum()), len(run.trajectory.lost)
        rows.append(("odometry, tracking lost", f"{lost} of {total} frames"))
    return rows


def _alignment(name: str) -> str:
    names = {"scale": "scale fitted", "7dof": "7-DoF fitted", "none": "none, it stands still"}
    return names[name]


def _note(name: str, run: Run) -> str:
    is_metric = run.facts.get("metric") == "true"
    return {
        "camera image": "input",
        "depth": "metres" if is_metric else "unscaled",
        "optical flow": "colour is direction",
        "motion mask": "what moves by itself",
    }[name]


def _legend(name: str, run: Run) -> str:
    if name == "depth":
        bar = pictures.png_url(pictures.depth_bar(run.depth_near, run.depth_far))
        near, far = (f"{value:.3g}" for value in (run.depth_near, run.depth_far))
        return (
            f'<span>{near}</span><img src="{bar}" width="120" height="10" alt=""><span>{far}</span>'
        )
    if name == "optical flow":
        wheel = pictures.png_url(pictures.flow_wheel())
        return (
            f"<span>{run.flow_full_px:.0f} px</span>"
            f'<img src="{wheel}" width="26" height="26" alt="colour wheel of directions">'
        )
    if name == "motion mask":
        return '<span class="patch"></span><span>moving</span>'
    return ""


def _still_index(seconds: list[float], wanted: float | None) -> int:
    if not seconds:
        return -1
    if wanted is None:
        wanted = seconds[0] + (seconds[-1] - seconds[0]) / 3
    return int(np.argmin(np.abs(np.array(seconds) - wanted)))


def _thinned(values: list[int], most: int) -> list[int]:
    if len(values) <= most:
        return values
    return [values[round(i)] for i in np.linspace(0, len(values) - 1, most)]


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
