"""``coopnet bench``: latency, throughput and memory, beside a baseline in the same run."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coopnet_core.cli.devices import DEVICES, HELP, load_runtime
from coopnet_core.errors import ConfigError
from coopnet_core.inference.bundle import NETWORK_NAMES, PRECISIONS

if TYPE_CHECKING:
    from coopnet_core.benchmarking.report import Memory
    from coopnet_core.benchmarking.subjects import Frames
    from coopnet_core.benchmarking.timing import Subject
    from coopnet_core.inference.bundle import Bundle, Precision

DESCRIPTION = """Time each network of a bundle and the whole pipeline, on the CPU, warm-up excluded:
latency p50, p95, p99 and mean, throughput, memory, and what the pipeline adds to its networks.

Subjects take turns, round by round, so that whatever else runs on the machine slows all of them
alike; ratios to the baseline are taken within a round. How to read it: docs/benchmark.md."""

EXAMPLES = """examples:
  coopnet bench --frames photos/ --json bench.json
  coopnet bench --frames photos/ --baseline torch-monodepth2 --threads 2
  coopnet bench --bundle old_bundle --bundle my_bundle     # my_bundle beside old_bundle
  coopnet bench --bundle my_bundle --precision float32 float16 int8
  coopnet bench --device cpu openvino torch
"""

TORCH_BASELINE = "torch-monodepth2"
NETWORKS_AND_PIPELINE = (*NETWORK_NAMES, "pipeline")


class _Variant(NamedTuple):
    """A bundle as it is run, with the name that its subjects bear."""

    label: str
    bundle: Bundle
    device: str
    precision: Precision


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser(
        "bench",
        help="latency, throughput and memory of networks and pipeline, beside a baseline",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=None,
        help="bundle directory (default: the included one); may be given more than once: the "
        "first is the baseline of the others",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["float32"],
        help="arithmetic of the networks, of those that the bundle holds (default float32); the "
        "first is the baseline of the others",
    )
    parser.add_argument(
        "--device",
        nargs="+",
        choices=DEVICES,
        default=["cpu"],
        help=f"{HELP}; the first is the baseline of the others (default cpu)",
    )
    parser.add_argument(
        "--frames",
        type=Path,
        default=None,
        help="folder of consecutive images (default: a synthetic moving texture)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        default=None,
        help="ROS calibration file (default: FRAMES/calibration.yaml)",
    )
    parser.add_argument(
        "--baseline",
        choices=[TORCH_BASELINE],
        default=None,
        help="also time the ResNet-18 depth network in eager PyTorch, float32, beside each depth",
    )
    parser.add_argument(
        "--threads", type=int, default=None, help="threads per network (default: all cores)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="per subject (default 5)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=5, metavar="N", help="calls that are not timed (default 5)"
    )
    parser.add_argument(
        "--json", type=Path, default=None, metavar="PATH", help="write the report here, too"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0. Errors are raised.

    Raises:
        CoopNetError: An argument, a bundle or the frames cannot be used, a package is missing, or
            the JSON file cannot be written.
    """
    # Here, so that "coopnet --help" does not wait for OpenCV.
    from coopnet_core.benchmarking import report
    from coopnet_core.benchmarking.statistics import paired_ratio
    from coopnet_core.benchmarking.subjects import read_frames, synthetic_frames
    from coopnet_core.benchmarking.timing import measure
    from coopnet_core.inference.bundle import default_bundle_path, load_bundle
    from coopnet_core.inference.runtime_onnxruntime import usable_cores

    load_average = report.current_load()
    _check_arguments(args)
    threads = args.threads if args.threads is not None else usable_cores()
    if args.json is not None:
        report.check_writable(args.json)
    loaded = [load_bundle(path) for path in args.bundle or [default_bundle_path()]]
    names = unique_labels([bundle.info.name for bundle in loaded])
    variants = [
        _Variant(" ".join(filter(None, (name, *marks))), bundle, device, precision)
        for name, bundle in zip(names, loaded, strict=True)
        for device in dict.fromkeys(args.device)
        for precision in dict.fromkeys(args.precision)
        for marks in [
            ("" if device == "cpu" else device, "" if precision == "float32" else precision)
        ]
    ]
    labels, bundles = [v.label for v in variants], [v.bundle for v in variants]
    if args.frames is None:
        frames = synthetic_frames()
    else:
        frames = read_frames(args.frames, args.calibration)

    def progress(line: str) -> None:
        if not args.quiet:
            print(f"bench: {line}", file=sys.stderr, flush=True)

    subjects: list[Subject] = []
    memory: list[Memory] = []
    for variant in variants:
        progress(f"load {variant.label}")
        _load(
            partial(_bundle_subjects, variant, threads, frames),
            f"{variant.label}, all networks",
            args.warm_up,
            subjects,
            memory,
        )
    pairs = [
        (f"{label} {part}", f"{labels[0]} {part}")
        for label in labels[1:]
        for part in NETWORKS_AND_PIPELINE
    ]
    if args.baseline == TORCH_BASELINE:
        pairs += _add_torch(labels, bundles, threads, args.warm_up, subjects, memory, progress)

    measurements = dict(
        zip(
            (subject.name for subject in subjects),
            measure(subjects, args.seconds, progress),
            strict=True,
        )
    )
    result = report.Report(
        environment=report.describe_environment(load_average),
        settings=report.Settings(
            threads=threads,
            seconds=args.seconds,
            warm_up=args.warm_up,
            baseline=args.baseline,
            bundles=[f"{bundle.version} in {bundle.path}" for bundle in loaded],
            frames=frames.description,
            frame_width=frames.intrinsics.width,
            frame_height=frames.intrinsics.height,
        ),
        subjects=[report.subject_result(s, measurements[s.name]) for s in subjects],
        comparisons=[
            report.Comparison(
                subject=subject,
                baseline=baseline,
                ratio=paired_ratio(measurements[subject].rounds, measurements[baseline].rounds),
            )
            for subject, baseline in pairs
        ],
        memory=memory,
    )
    if args.json is not None:
        report.write_json(args.json, result)
    print(report.text_report(result))
    if args.json is not None:
        print(f"written: {args.json}")
    return 0


def unique_labels(names: Sequence[str]) -> list[str]:
    """Number the names that come more than once: ``small``, ``small(2)``."""
    seen: Counter[str] = Counter()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(name if seen[name] == 1 else f"{name}({seen[name]})")
    return labels


def _check_arguments(args: argparse.Namespace) -> None:
    if args.threads is not None and args.threads < 1:
        raise ConfigError(
            f"--threads must be 1 or more, got {args.threads}; leave it out for all cores"
        )
    if not (math.isfinite(args.seconds) and args.seconds > 0):
        raise ConfigError(f"--seconds must be more than 0, got {args.seconds}; 5 is a good start")
    if args.calibration is not None and args.frames is None:
        raise ConfigError(
            f"--calibration {args.calibration} needs --frames: it is the camera of a folder of "
            "images; the synthetic frames have their own"
        )
    if args.warm_up < 0:
        raise ConfigError(f"--warm-up must be 0 or more, got {args.warm_up}; 5 is a good start")


def _bundle_subjects(variant: _Variant, threads: int, frames: Frames) -> list[Subject]:
    from coopnet_core.benchmarking.subjects import bundle_subjects

    runtime = load_runtime(variant.bundle, variant.device, threads, variant.precision)
    return bundle_subjects(variant.label, variant.bundle, runtime, frames, variant.precision)


def _torch_subjects(name: str, width: int, height: int, threads: int) -> list[Subject]:
    from coopnet_core.benchmarking.subjects import torch_depth_subject

    return [torch_depth_subject(name, width, height, threads)]


def _add_torch(
    labels: Sequence[str],
    bundles: Sequence[Bundle],
    threads: int,
    warm_up_calls: int,
    subjects: list[Subject],
    memory: list[Memory],
    progress: Callable[[str], None],
) -> list[tuple[str, str]]:
    """Add the torch baseline at every size of a depth network; return what to compare with it."""
    from coopnet_core.benchmarking.subjects import depth_sizes

    pairs = []
    for label, bundle in zip(labels, bundles, strict=True):
        for width, height in depth_sizes(bundle):
            name = f"{TORCH_BASELINE} {width}x{height}"
            pairs.append((f"{label} depth", name))
            if any(subject.name == name for subject in subjects):
                continue
            progress(f"load {name}")
            _load(
                partial(_torch_subjects, name, width, height, threads),
                name,
                warm_up_calls,
                subjects,
                memory,
            )
    return pairs


def _load(
    make: Callable[[], list[Subject]],
    what: str,
    warm_up_calls: int,
    subjects: list[Subject],
    memory: list[Memory],
) -> None:
    """Make subjects and warm them up, and note the memory before, between and after."""
    from coopnet_core.benchmarking.report import Memory
    from coopnet_core.benchmarking.timing import warm_up
    from coopnet_core.process import resident_mb

    before = resident_mb()
    made = make()
    loaded = resident_mb()
    warm_up(made, warm_up_calls)
    memory.append(Memory(what=what, before_mb=before, loaded_mb=loaded, warm_mb=resident_mb()))
    subjects += made
