"""The report of a benchmark: what it holds, as JSON and as a table."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from coopnet_core import __version__
from coopnet_core.benchmarking.statistics import Latency, Ratio, Record, summarise
from coopnet_core.benchmarking.subjects import PipelineCall
from coopnet_core.benchmarking.timing import Measurement, Parts, Subject
from coopnet_core.errors import DataError
from coopnet_core.inference.pipeline import STAGES
from coopnet_core.inference.runtime_onnxruntime import usable_cores


class Environment(Record):
    """Where the numbers come from. Versions of packages that the run did not load are None."""

    coopnet: str
    python: str
    numpy: str | None
    opencv: str | None
    onnxruntime: str | None
    torch: str | None
    system: str
    cpu: str
    cores: int | None
    usable_cores: int
    load_average: float | None = Field(description="over a minute, before the run")


class Settings(Record):
    """What was asked for."""

    threads: int
    seconds: float
    warm_up: int
    baseline: str | None
    bundles: list[str]
    frames: str
    frame_width: int
    frame_height: int


class PipelineResult(Record):
    """Inside the pipeline.

    ``networks`` is the time inside the runtime. ``around_share`` is everything else over it, the
    median over frames.
    """

    stages: dict[str, Latency]
    networks: Latency
    around_share: float
    tracked_share: float


class SubjectResult(Record):
    """One row of the table."""

    name: str
    width: int
    height: int
    runtime: str
    precision: str
    note: str
    latency: Latency
    pipeline: PipelineResult | None = None


class Comparison(Record):
    """A subject beside its baseline."""

    subject: str
    baseline: str
    ratio: Ratio


class Memory(Record):
    """Resident memory of the process in MB (10^6 bytes) around loading; None outside Linux."""

    what: str
    before_mb: float | None
    loaded_mb: float | None
    warm_mb: float | None


class Report(Record):
    """Everything that a run found."""

    schema_version: Literal[1] = 1
    environment: Environment
    settings: Settings
    subjects: list[SubjectResult]
    comparisons: list[Comparison]
    memory: list[Memory]


def describe_environment(load_average: float | None) -> Environment:
    """Describe the machine and the packages that this process has loaded."""
    return Environment(
        coopnet=__version__,
        python=platform.python_version(),
        numpy=_loaded_version("numpy"),
        opencv=_loaded_version("cv2"),
        onnxruntime=_loaded_version("onnxruntime"),
        torch=_loaded_version("torch"),
        system=platform.platform(),
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        usable_cores=usable_cores(),
        load_average=load_average,
    )


def current_load() -> float | None:
    """Return the load average over a minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def subject_result(subject: Subject, measurement: Measurement) -> SubjectResult:
    """Summarise what was timed of a subject."""
    pipeline = None
    if isinstance(subject.call, PipelineCall):
        pipeline = pipeline_result(measurement.parts, subject.call.tracked_share)
    return SubjectResult(
        name=subject.name,
        width=subject.width,
        height=subject.height,
        runtime=subject.runtime,
        precision=subject.precision,
        note=subject.note,
        latency=summarise(measurement.latencies_s),
        pipeline=pipeline,
    )


def pipeline_result(parts: Sequence[Parts], tracked_share: float) -> PipelineResult:
    """Summarise the stages of the pipeline.

    Args:
        parts: Of each timed frame: milliseconds per stage that it went through, ``networks`` and
            ``total``.
        tracked_share: Share of frames whose motion was found.

    Returns:
        The summary. A stage that some frames skip (the mask, when tracking is lost) is summed up
        over the frames that have it.
    """
    stages = {
        stage: summarise([frame[stage] / 1e3 for frame in parts if stage in frame])
        for stage in STAGES
        if any(stage in frame for frame in parts)
    }
    shares = [
        (frame["total"] - frame["networks"]) / max(frame["networks"], 1e-6) for frame in parts
    ]
    return PipelineResult(
        stages=stages,
        networks=summarise([frame["networks"] / 1e3 for frame in parts]),
        around_share=float(np.median(shares)),
        tracked_share=tracked_share,
    )


def check_writable(path: Path) -> None:
    """Find out before the run whether its report can be written; makes the folder.

    Raises:
        DataError: It cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_json(path: Path, report: Report) -> None:
    """Write a report beside its place, then rename it: the file is whole or the old one.

    Raises:
        DataError: The disk refuses.
    """
    partial = _partial(path)
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(report.model_dump_json(indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def text_report(report: Report) -> str:
    """Return the report as tables for a terminal."""
    environment, settings = report.environment, report.settings
    load = environment.load_average
    lines = [
        f"{environment.cpu}, {environment.usable_cores} cores, {settings.threads} threads per "
        f"network, load average {'unknown' if load is None else f'{load:.2f}'} before the run",
        f"frames: {settings.frame_width}x{settings.frame_height}, {settings.frames}",
        "",
        *_latency_lines(report.subjects),
    ]
    for subject in report.subjects:
        if subject.pipeline is not None:
            lines += ["", *_pipeline_lines(subject.name, subject.pipeline)]
    if report.comparisons:
        lines += ["", "Time over the baseline's, per round; below 1 is faster:"]
        lines += _aligned(_comparison_rows(report.comparisons))
    lines += ["", "Resident memory of the process, MB:", *_aligned(_memory_rows(report.memory))]
    return "\n".join(lines)


def _latency_lines(subjects: Sequence[SubjectResult]) -> list[str]:
    """Lay out one row per subject; what is long and mostly the same stands once below them."""
    texts = [
        "; ".join(filter(None, (subject.runtime, subject.precision, subject.note)))
        for subject in subjects
    ]
    places = {text: str(place) for place, text in enumerate(dict.fromkeys(texts), start=1)}
    rows = [["", "input", *_LATENCY_HEAD, "how"]]
    for subject, text in zip(subjects, texts, strict=True):
        size = f"{subject.width}x{subject.height}"
        rows.append([subject.name, size, *_latency_cells(subject.latency), places[text]])
    return [*_aligned(rows), *(f"how {place}: {text}" for text, place in places.items())]


def _pipeline_lines(name: str, pipeline: PipelineResult) -> list[str]:
    rows = [[f"stages of {name}", *_LATENCY_HEAD]]
    rows += [[stage, *_latency_cells(latency)] for stage, latency in pipeline.stages.items()]
    rows.append(["inside the networks", *_latency_cells(pipeline.networks)])
    return [
        *_aligned(rows),
        f"around the networks: {pipeline.around_share:.0%} of their time (median over frames); "
        f"{pipeline.tracked_share:.0%} of the frames tracked",
    ]


def _comparison_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    rows = [["", "ratio", "95 % interval", "rounds", "baseline"]]
    for comparison in comparisons:
        ratio = comparison.ratio
        interval = "too few rounds"
        if ratio.low is not None and ratio.high is not None:
            interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        cells = [f"{ratio.median:.3f}", interval, str(ratio.rounds)]
        rows.append([comparison.subject, *cells, comparison.baseline])
    return rows


def _memory_rows(memory: Sequence[Memory]) -> list[list[str]]:
    rows = [["", "before", "loaded", "warm"]]
    for item in memory:
        values = (item.before_mb, item.loaded_mb, item.warm_mb)
        rows.append([item.what, *("" if value is None else f"{value:.0f}" for value in values)])
    return rows


_LATENCY_HEAD = ("p50 ms", "p95 ms", "p99 ms", "mean ms", "per s", "calls")


def _latency_cells(latency: Latency) -> list[str]:
    values = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.mean_ms)
    cells = [f"{value:.2f}" for value in values]
    return [*cells, f"{latency.per_second:.1f}", str(latency.calls)]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Pad cells to columns: numbers to the right, first column and last words to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    is_number = [
        all(cell[:1].isdigit() or not cell for cell in column[1:])
        for column in zip(*rows, strict=True)
    ]
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, is_number, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path}: {error.strerror or error}; give --json a file in a folder that "
        "you may write to"
    )


def _loaded_version(module: str) -> str | None:
    version = getattr(sys.modules.get(module), "__version__", None)
    return None if version is None else str(version)


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
