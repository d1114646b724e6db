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
        help="score a bundle by the field's protocols, beside baselines and published results",
        description=(
            "Run a bundle over validation data and write results.json, results.md and index.html, "
            "a page with pictures: depth against LiDAR, stereo and depth cameras, odometry, flow "
            "and motion mask, by the protocols of docs/evaluation.md. Parts of the data that are "
            "not there are left out and named."
        ),
    )
    parser.add_argument(
        "--bundle", type=Path, default=None, help="bundle directory (default: the included one)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of data sets: kitti_raw, kitti_depth, kitti_odometry, kitti_flow_2012, "
        "kitti_flow_2015, cityscapes, rgbd, karlsruhe, flow/middlebury_rubberwhale",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks, or how their names begin, such as 'depth flow_kitti' (default: all)",
    )
    parser.add_argument(
        "--sequences",
        nargs="+",
        default=["09", "10"],
        metavar="NN",
        help="sequences of KITTI odometry that are scored whole (default: 09 10)",
    )
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
    from coopnet_core.evaluation.benchmark import run_benchmark, select_tasks
    from coopnet_core.evaluation.page import write_page
    from coopnet_core.evaluation.pictures import write_pictures, write_trajectories
    from coopnet_core.evaluation.precision_table import precision_table
    from coopnet_core.evaluation.report import MARKDOWN_NAME, markdown, write_report

    wanted = select_tasks(args.tasks)
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
        results = run_benchmark(bundle, runtime, args.data, progress, wanted, args.sequences)
        tasks[precision] = results.tasks
        details = {**header, "precision": precision, "runtime": runtime.description}
        pictures = write_pictures(results, out)
        write_trajectories(results, out)
        write_report(out, details, results.tasks, results.skipped, pictures)
        page = write_page(out, details, results.tasks, results.skipped, pictures)
        progress(f"pictures: {page}")
        print(markdown(details, results.tasks, results.skipped, {}))
    if len(precisions) > 1:
        table = precision_table(tasks)
        details = {**header, "precision": ", ".join(precisions)}
        write_report(args.out, details, [table], {}, {})
        print(markdown(details, [table], {}, {}))
    print(f"written: {args.out / MARKDOWN_NAME}")
    return 0
