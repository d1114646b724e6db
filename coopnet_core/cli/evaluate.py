"""``coopnet evaluate``: score a bundle on public data beside baselines."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coopnet_core import __version__
from coopnet_core.cli.devices import add_device, load_runtime
from coopnet_core.inference.bundle import PRECISIONS, default_bundle_path, load_bundle

if TYPE_CHECKING:
    from coopnet_core.evaluation.tasks import Task


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a bundle on KITTI, Karlsruhe and Middlebury data beside baselines",
        description=(
            "Run a bundle over validation data and write results.json, results.md and pictures: "
            "depth against LiDAR and stereo, odometry, flow and motion mask, each beside a method "
            "that does without the networks. Parts of the data that are not there are left out."
        ),
    )
    parser.add_argument(
        "--bundle", type=Path, default=None, help="bundle directory (default: the included one)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with kitti_odometry, karlsruhe, kitti_raw, flow/middlebury_rubberwhale",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--threads", type=int, default=0, help="threads per network (default 0: all cores)"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["float32"],
        help="arithmetic of the networks, of those that the bundle holds (default float32); "
        "several write a report each into OUT/PRECISION, and OUT/results.md says what each costs",
    )
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0. Errors are raised.

    Raises:
        CoopNetError: The bundle or the data cannot be used.
    """
    # Here, so that "coopnet --help" does not wait for OpenCV and matplotlib.
    from coopnet_core.evaluation.benchmark import run_benchmark
    from coopnet_core.evaluation.pictures import write_pictures
    from coopnet_core.evaluation.precision_table import precision_table
    from coopnet_core.evaluation.report import MARKDOWN_NAME, markdown, write_report

    bundle = load_bundle(args.bundle if args.bundle is not None else default_bundle_path())
    precisions = list(dict.fromkeys(args.precision))
    # All of them at once, so that a missing one is known before an hour has gone by.
    runtimes = {name: load_runtime(bundle, args.device, args.threads, name) for name in precisions}

    def progress(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)

    header = {
        "bundle": bundle.version,
        "networks": f"{bundle.info.variant}, input {bundle.width}x{bundle.height} {bundle.color}",
        "coopnet": __version__,
        "python": platform.python_version(),
    }
    tasks: dict[str, list[Task]] = {}
    for precision, runtime in runtimes.items():
        out = args.out if len(precisions) == 1 else args.out / precision
        results = run_benchmark(bundle, runtime, args.data, progress)
        tasks[precision] = results.tasks
        details = {**header, "precision": precision, "runtime": runtime.description}
        pictures = write_pictures(results, out)
        write_report(out, details, results.tasks, results.skipped, pictures)
        print(markdown(details, results.tasks, results.skipped, {}))
    if len(precisions) > 1:
        table = precision_table(tasks)
        details = {**header, "precision": ", ".join(precisions)}
        write_report(args.out, details, [table], {}, {})
        print(markdown(details, [table], {}, {}))
    print(f"written: {args.out / MARKDOWN_NAME}")
    return 0
