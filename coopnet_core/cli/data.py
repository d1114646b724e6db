"""``coopnet data check``: what a recording holds, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coopnet_core.cli.train import positive_int

if TYPE_CHECKING:
    from coopnet_core.data.check import Progress, Report
    from coopnet_core.data.discovery import Found

DESCRIPTION = """Look at data before training on it.

Finds out what PATH is (bag, video, image folder, KITTI odometry, raw or flow, Cityscapes,
Karlsruhe, TUM RGB-D, 7-Scenes, or a folder with several of these), prints frames, size, colour,
camera, times, motion and light, and the lines that make it a training source. Writes a contact
sheet. Lists every problem with the name of its file.

The header and the end of every image file are read, and every message of a bag; of the pictures
40 pairs of neighbours per source are decoded. docs/data.md has the layouts."""

EXAMPLES = """exit status: 0, or 1 where training would stop at something.

examples:
  coopnet data check ~/data
  coopnet data check ~/data/kitti_odometry --out kitti.png
  coopnet data check run1.mcap
  coopnet data check drive.mp4 --calibration camera.yaml
  coopnet data check photos/ --calibration camera.yaml --no-progress
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser("data", help="look at recordings before training on them")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="say what a recording holds, with pictures, and list every problem",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("path", type=Path, metavar="PATH", help="data set, folder, bag or video")
    check.add_argument(
        "--calibration",
        type=Path,
        default=None,
        metavar="YAML",
        help="ROS calibration file for image folders, videos and bags without CameraInfo",
    )
    check.add_argument(
        "--out",
        type=Path,
        default=Path("data_check.png"),
        metavar="PNG",
        help="contact sheet to write (default: data_check.png)",
    )
    check.add_argument(
        "--max-problems",
        type=positive_int,
        default=None,
        metavar="N",
        help="print only the first N problems of each source (default: all)",
    )
    check.add_argument("--no-progress", action="store_true", help="no progress bar")
    check.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0, or 1 where something found cannot be used.

    Raises:
        CoopNetError: There is nothing to read at the path, or the sheet cannot be written.
    """
    # Here, so that "coopnet --help" does not wait for OpenCV.
    from coopnet_core.data.contact_sheet import write_contact_sheet
    from coopnet_core.data.discovery import discover

    reports: list[Report] = []
    with _progress_bar(not args.no_progress) as start:
        for found in discover(args.path.expanduser(), args.calibration):
            for report in _check(found, args.calibration, start(found.name)):
                reports.append(report)
                print("\n".join(_lines(report, args.calibration, args.max_problems)), flush=True)
    write_contact_sheet(reports, args.out)
    num_fatal = sum(problem.is_fatal for report in reports for problem in report.problems)
    num_minor = sum(len(report.problems) for report in reports) - num_fatal
    num_frames = sum(report.num_frames for report in reports)
    print(
        f"{len(reports)} sources, {num_frames} frames; {num_fatal} problems that stop training, "
        f"{num_minor} others\nwritten: {args.out}"
    )
    return 1 if num_fatal else 0


def _check(found: Found, calibration: Path | None, progress: Progress) -> list[Report]:
    from coopnet_core.data.check import check_files
    from coopnet_core.data.check_streams import check_bag, check_video

    if found.kind == "bag":
        return check_bag(found, calibration, progress)
    if found.kind == "video":
        return [check_video(found, calibration, progress)]
    return [check_files(found, progress)]


def _lines(report: Report, calibration: Path | None, max_problems: int | None) -> list[str]:
    found = report.found
    count = f"{report.num_frames} frames"
    if report.num_sequences > 1:
        count += f" in {report.num_sequences} sequences"
    rows = [("frames", count), *report.facts, ("source", _source(report, calibration))]
    lines = [f"{found.kind}  {found.name}", *(f"  {name:13}{text}" for name, text in rows)]
    problems = list(report.problems)
    for problem in problems[:max_problems]:
        lines.append(f"  {'ERROR' if problem.is_fatal else 'note':13}{problem.text}")
    if max_problems is not None and len(problems) > max_problems:
        lines.append(f"  {'':13}and {len(problems) - max_problems} problems more")
    return [*lines, ""]


def _source(report: Report, calibration: Path | None) -> str:
    """The line of a training config that names this source."""
    found = report.found
    if found.kind == "middlebury":
        return "for evaluation only"
    keys: dict[str, str | int] = {"path": str(found.path.resolve()), **found.keys}
    if any(what == "right camera" for what, _ in report.facts):
        keys["stereo"] = True
    if calibration is not None and found.kind in ("image_folder", "video", "bag"):
        keys["calibration"] = str(calibration.resolve())
    return f"- {json.dumps({'kind': found.kind, **keys})}"


@contextmanager
def _progress_bar(is_wanted: bool) -> Iterator[Callable[[str], Progress]]:
    """Give a function that starts the bar of a source."""

    def silent(_name: str) -> Progress:
        return lambda _done, _total: None

    if not (is_wanted and sys.stderr.isatty()):
        yield silent
        return
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:  # part of the extra "train"; a robot may do without
        yield silent
        return
    with Bar(console=Console(stderr=True), transient=True) as bar:

        def start(name: str) -> Progress:
            task = bar.add_task(name)

            def update(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=done < total)

            return update

        yield start
