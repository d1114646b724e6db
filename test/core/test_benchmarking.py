"""``coopnet bench``: statistics in closed form, timing on a made-up clock, the command itself."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.benchmarking import report as reporting
from coopnet_core.benchmarking import subjects as making
from coopnet_core.benchmarking.report import Report
from coopnet_core.benchmarking.statistics import (
    median_interval,
    paired_ratio,
    summarise,
)
from coopnet_core.benchmarking.timing import Parts, Subject, measure, warm_up
from coopnet_core.cli.bench import TORCH_BASELINE, unique_labels
from coopnet_core.cli.main import main
from coopnet_core.data.image_folder import write_calibration
from coopnet_core.errors import DataError, InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.bundle import NETWORK_NAMES, load_bundle
from coopnet_core.inference.pipeline import STAGES
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.process import resident_mb

CAMERA = Intrinsics(128, 64, 64.0, 64.0, 63.5, 31.5)
ROUNDS_FOR_AN_INTERVAL = 6


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), textured_image(128, 64))
    write_calibration(folder / "calibration.yaml", CAMERA, "camera")
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def bench(*options: str | Path) -> int:
    fast = ["--seconds", "0.02", "--warm-up", "1", "--threads", "1"]
    return main(["bench", *fast, *map(str, options)])


def test_percentiles_interpolate_between_calls() -> None:
    latency = summarise([number / 1e3 for number in range(101)])
    assert latency.p50_ms == pytest.approx(50)
    assert latency.p95_ms == pytest.approx(95)
    assert latency.p99_ms == pytest.approx(99)
    assert latency.mean_ms == pytest.approx(50)
    assert latency.per_second == pytest.approx(20)
    assert latency.calls == 101
    assert summarise([0.01, 0.02]).p50_ms == pytest.approx(15)


def test_a_summary_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="one latency or more, got none"):
        summarise([])


@pytest.mark.parametrize(
    ("count", "rank"),
    # Ranks of the 95 % interval of a median, from tables of the sign test.
    [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18), (100, 40)],
)
def test_the_interval_of_a_median_has_the_ranks_of_the_sign_test(count: int, rank: int) -> None:
    values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1)).tolist()
    assert median_interval(values) == (rank, count + 1 - rank)
    missed = 2 * sum(math.comb(count, k) for k in range(rank)) / 2**count
    wider = missed + 2 * math.comb(count, rank) / 2**count
    assert missed <= 0.05 < wider


def test_too_few_values_have_no_interval() -> None:
    assert median_interval([]) is None
    assert median_interval([1.0] * (ROUNDS_FOR_AN_INTERVAL - 1)) is None
    assert median_interval([1.0] * ROUNDS_FOR_AN_INTERVAL) == (1.0, 1.0)
    assert median_interval([1.0, 2.0], confidence=0.5) == (1.0, 2.0)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        interval = median_interval(rng.exponential(size=20).tolist())
        assert interval is not None
        hits += interval[0] <= math.log(2) <= interval[1]
    assert hits / 2000 == pytest.approx(0.9586, abs=0.015)  # 1 - 2 P(Binomial(20, 1/2) < 6)


def test_what_slows_a_whole_round_cancels_in_the_ratio() -> None:
    noise = np.random.default_rng(1).lognormal(sigma=1.0, size=20)
    baseline = [[0.01 * factor] * 3 for factor in noise]
    subject = [[0.004 * factor, 0.004 * factor, 1.0] for factor in noise]  # one late call each
    ratio = paired_ratio(subject, baseline)
    assert ratio.median == pytest.approx(0.4)
    assert ratio.low == pytest.approx(0.4)
    assert ratio.high == pytest.approx(0.4)
    assert ratio.rounds == 20


def test_a_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(InputError, match="got 1 and 2"):
        paired_ratio([[1.0]], [[1.0], [1.0]])
    with pytest.raises(InputError, match="got 0 and 0"):
        paired_ratio([], [])
    ratio = paired_ratio([[2.0]], [[1.0]])
    assert (ratio.median, ratio.low, ratio.high) == (2.0, None, None)


class MadeUpClock:
    """Time that passes only while a subject works, and a diary of who worked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.diary: list[str] = []

    def __call__(self) -> float:
        return self.now

    def subject(self, name: str, duration_s: float) -> Subject:
        def call() -> Parts:
            self.now += duration_s
            self.diary.append(name)
            return {"part": float(len(self.diary))}

        return Subject(name, 64, 32, "none", "none", call)


def test_subjects_take_turns_and_first_calls_do_not_count() -> None:
    clock = MadeUpClock()
    pair = [clock.subject("a", 0.25), clock.subject("b", 0.5)]
    warm_up(pair, 2)
    assert clock.diary == ["a", "a", "b", "b"]
    clock.diary.clear()
    fast, slow = measure(pair, seconds=3, clock=clock)
    assert clock.diary == ["a", "a", "b", "b"] * 4
    assert fast.rounds == [[0.25]] * 4
    assert slow.rounds == [[0.5]] * 4
    assert [parts["part"] for parts in fast.parts] == [2.0, 6.0, 10.0, 14.0]


def test_a_block_holds_as_many_calls_as_fit() -> None:
    clock = MadeUpClock()
    (measurement,) = measure([clock.subject("a", 1 / 16)], seconds=1000, clock=clock)
    assert measurement.rounds[0] == [1 / 16] * 4
    assert measurement.latencies_s[:5] == [1 / 16] * 5


def test_a_run_has_one_round_at_least_and_says_how_far_it_is() -> None:
    clock = MadeUpClock()
    lines: list[str] = []
    (measurement,) = measure([clock.subject("a", 9.0)], 1e-3, lines.append, clock)
    assert measurement.rounds == [[9.0]]
    assert lines == ["measured 100% of 0 s, 1 rounds"]
    lines.clear()
    measure([clock.subject("a", 1 / 64)], 10.0, lines.append, clock)
    assert len(lines) == 10


def test_frames_go_forth_and_back() -> None:
    places = [making.forth_and_back(number, 4) for number in range(9)]
    assert places == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [making.forth_and_back(number, 2) for number in range(4)] == [0, 1, 0, 1]


def test_synthetic_frames_slide_and_are_always_the_same() -> None:
    frames = making.synthetic_frames(3)
    first, second, _ = frames.images
    assert first.shape == (frames.intrinsics.height, frames.intrinsics.width, 3)
    shift = making.SYNTHETIC_SHIFT_PX
    np.testing.assert_array_equal(first[:, shift:], second[:, :-shift])
    assert first.std() > 20
    np.testing.assert_array_equal(making.synthetic_frames(3).images[2], frames.images[2])
    assert not np.array_equal(making.synthetic_frames(3, seed=1).images[0], first)


def test_the_pipeline_never_starts_over(photos: Path, tiny: Path) -> None:
    bundle = load_bundle(tiny)
    call = making.PipelineCall(bundle, OnnxRuntime(bundle, 1), making.read_frames(photos))
    assert "pose" not in call()
    for _ in range(7):
        parts = call()
        assert parts["networks"] <= sum(parts[network] for network in NETWORK_NAMES)
        assert parts["total"] >= parts["networks"]
    assert call.tracked_share == 1


def test_stages_that_some_frames_skip_are_summed_up_over_the_others() -> None:
    frames = [
        {"preprocess": 1.0, "networks": 10.0, "total": 15.0},
        {"preprocess": 1.0, "motion_mask": 4.0, "networks": 10.0, "total": 12.0},
        {"preprocess": 1.0, "motion_mask": 2.0, "networks": 10.0, "total": 13.0},
    ]
    result = reporting.pipeline_result(frames, 0.5)
    assert list(result.stages) == ["preprocess", "motion_mask"]
    assert result.stages["motion_mask"].p50_ms == pytest.approx(3.0)
    assert result.stages["motion_mask"].calls == 2
    assert result.networks.mean_ms == pytest.approx(10.0)
    assert result.around_share == pytest.approx(0.3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_memory_sees_an_allocation() -> None:
    before = resident_mb()
    block = np.ones(30_000_000, np.uint8)
    after = resident_mb()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(block.nbytes / 1e6, abs=10)


def test_bench_prints_and_writes_what_it_found(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "bench.json"
    assert bench("--bundle", tiny, "--frames", photos, "--json", path) == 0
    printed = capsys.readouterr()
    report = Report.model_validate_json(path.read_text())
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert list(path.parent.iterdir()) == [path]

    parts = [*NETWORK_NAMES, "pipeline"]
    assert [subject.name for subject in report.subjects] == [f"tiny {part}" for part in parts]
    for subject in report.subjects:
        latency = subject.latency
        assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms
        assert latency.per_second == pytest.approx(1e3 / latency.mean_ms)
        assert (subject.width, subject.height) == (64, 32)
        assert "onnxruntime" in subject.runtime
        assert subject.name in printed.out
    pipeline = report.subjects[-1].pipeline
    assert pipeline is not None
    assert set(pipeline.stages) == set(STAGES)
    assert pipeline.tracked_share == 1
    assert f"around the networks: {pipeline.around_share:.0%}" in printed.out
    assert report.comparisons == []
    assert report.environment.onnxruntime is not None
    assert report.environment.cpu
    assert report.settings.threads == 1
    assert report.settings.frames == f"{photos}, 3 of 3 images"
    assert "bench: load tiny" in printed.err
    assert f"written: {path}" in printed.out
    assert printed.out.count("how 1: onnxruntime") == 1  # the same for all: said once
    assert "how 2" not in printed.out


def test_bench_without_frames_says_that_they_are_synthetic(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--bundle", tiny, "--quiet") == 0
    printed = capsys.readouterr()
    assert "1242x375, synthetic moving texture (seed 0)" in printed.out
    assert printed.err == ""


def test_a_bundle_beside_itself_takes_the_same_time(
    photos: Path, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    options = ("--bundle", tiny, "--bundle", tiny, "--frames", photos, "--json", path)
    assert bench(*options, "--seconds", "0.2") == 0
    report = Report.model_validate_json(path.read_text())
    pairs = [(entry.subject, entry.baseline) for entry in report.comparisons]
    assert pairs == [(f"tiny(2) {part}", f"tiny {part}") for part in (*NETWORK_NAMES, "pipeline")]
    for entry in report.comparisons:
        assert 0.1 < entry.ratio.median < 10
        assert entry.ratio.rounds >= 1
    assert [entry.what for entry in report.memory] == [
        "tiny, all networks",
        "tiny(2), all networks",
    ]


def test_names_of_bundles_are_told_apart() -> None:
    assert unique_labels(["a", "b", "a", "a"]) == ["a", "b", "a(2)", "a(3)"]


def test_the_torch_baseline_stands_beside_depth(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "bench.json"
    options = ("--bundle", tiny, "--frames", photos, "--baseline", TORCH_BASELINE, "--json", path)
    assert bench(*options) == 0
    report = Report.model_validate_json(path.read_text())
    assert [(entry.subject, entry.baseline) for entry in report.comparisons] == [
        ("tiny depth", "torch-monodepth2 64x32")
    ]
    baseline = report.subjects[-1]
    assert (baseline.width, baseline.height, baseline.precision) == (64, 32, "float32")
    assert baseline.runtime == f"torch {torch.__version__}, CPU, eager, 1 threads"
    assert report.environment.torch == torch.__version__
    assert "below 1 is faster" in capsys.readouterr().out


def test_a_missing_torch_is_named(
    photos: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    options = ("--bundle", tiny, "--frames", photos, "--baseline", TORCH_BASELINE)
    assert bench(*options, "--quiet") == 1
    message = capsys.readouterr().err
    assert "the baseline torch-monodepth2 needs the package torch" in message
    assert "pip install torch" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threads", "0"), "--threads must be 1 or more, got 0"),
        (("--threads", "-2"), "--threads must be 1 or more, got -2"),
        (("--seconds", "0"), "--seconds must be more than 0, got 0.0"),
        (("--seconds", "nan"), "--seconds must be more than 0, got nan"),
        (("--warm-up", "-1"), "--warm-up must be 0 or more, got -1"),
        (("--calibration", "camera.yaml"), "--calibration camera.yaml needs --frames"),
        (("--bundle", "no_bundle"), "no bundle at no_bundle"),
        (("--frames", "no_frames"), "image folder no_frames does not exist"),
    ],
)
def test_bench_explains_bad_arguments(
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, str],
    message: str,
) -> None:
    assert bench("--bundle", tiny, *options) == 1
    assert message in capsys.readouterr().err


def test_one_frame_is_too_few(photos: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.png", "2.png"):
        (photos / name).unlink()
    assert bench("--bundle", tiny, "--frames", photos) == 1
    assert "need two or more consecutive ones" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_refused_before_the_run(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (photos / "0.png" / "bench.json", tmp_path):
        assert bench("--bundle", tiny, "--frames", photos, "--json", path) == 1
        printed = capsys.readouterr()
        assert f"cannot write {path}" in printed.err
        assert "load" not in printed.err


def test_a_failed_write_leaves_the_old_report(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bench.json"
    assert bench("--bundle", tiny, "--frames", photos, "--json", path) == 0
    before = path.read_text()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        reporting.write_json(path, Report.model_validate_json(before))
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []


def test_depth_networks_of_another_size_inside_are_compared_at_both(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "bundle", width=128, height=64)
    bundle = load_bundle(path)
    assert making.depth_sizes(bundle) == [(128, 64)]
    depth = bundle.info.depth.model_copy(update={"network_width": 96, "network_height": 32})
    info = bundle.info.model_copy(update={"depth": depth})
    other = type(bundle)(bundle.path, info)
    assert making.depth_sizes(other) == [(128, 64), (96, 32)]
    runtime = OnnxRuntime(bundle, 1)
    subjects = making.bundle_subjects("x", other, runtime, making.synthetic_frames(2))
    assert [subject.note for subject in subjects] == ["inside at 96x32", "", "", "", ""]
