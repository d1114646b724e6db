"""``coopnet predict``: run a bundle over an image folder or a video."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from coopnet_core.cli.devices import add_device, load_runtime
from coopnet_core.errors import DataError
from coopnet_core.inference.bundle import PRECISIONS

if TYPE_CHECKING:
    import numpy.typing as npt

    from coopnet_core.data.sequence import Sequence
    from coopnet_core.inference.pipeline import FrameResult

DESCRIPTION = """Run a bundle over an image folder or a video, without ROS, and write

  preview/    image, depth, flow and motion mask side by side, JPEG
  depth/      16-bit PNG, 256 per metre (or per unit, for a bundle without metric scale), 0 invalid
  flow/       16-bit PNG as in KITTI: red 64 u + 32768, green 64 v + 32768, blue 1; motion since the
              previous frame
  mask/       8-bit PNG, 255 where something moves by itself
  trajectory.txt   time x y z qx qy qz qw of the camera in the first frame, optical axes (as TUM)
  frames.csv       per frame: tracking state, how the step was found, milliseconds per stage
  calibration.yaml camera of the maps, which have the size of the networks' input

INPUT needs the calibration of the rectified camera: calibration.yaml in the folder, or
--calibration."""

EXAMPLES = """examples:
  coopnet predict photos/ --out pictures
  coopnet predict drive.mp4 --calibration camera.yaml --out pictures --bundle my_bundle
"""

DEPTH_FACTOR = 256.0
FLOW_FACTOR = 64.0
FLOW_OFFSET = 32768.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser(
        "predict",
        help="depth, flow, motion mask and trajectory of an image folder or a video",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, help="image folder or video file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--bundle", type=Path, default=None, help="bundle directory (default: the included one)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        default=None,
        help="ROS calibration file (default: INPUT/calibration.yaml)",
    )
    parser.add_argument(
        "--rate", type=float, default=10.0, metavar="HZ", help="of a folder without times.txt"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every n-th frame")
    parser.add_argument(
        "--flow-range",
        type=float,
        default=None,
        metavar="PX",
        help="flow length with full colour (default: 4 %% of the width)",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="threads per network (default 0: all cores)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="arithmetic of the networks, of those that the bundle holds (default float32)",
    )
    add_device(parser)
    parser.add_argument(
        "--no-progress", action="store_true", help="no progress bar, and no lines in its place"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0. Errors are raised.

    Raises:
        CoopNetError: The bundle or the input cannot be used.
    """
    # Here, so that "coopnet --help" does not wait for OpenCV.
    from coopnet_core.data.image_folder import write_calibration
    from coopnet_core.data.images import read_image
    from coopnet_core.inference.bundle import default_bundle_path, load_bundle
    from coopnet_core.inference.pipeline import FramePipeline, Tracking
    from coopnet_core.inference.rendering import depth_range

    bundle = load_bundle(args.bundle if args.bundle is not None else default_bundle_path())
    sequence = _read_input(args)
    pipeline = FramePipeline(
        bundle, load_runtime(bundle, args.device, args.threads, args.precision)
    )
    flow_range = args.flow_range or 0.04 * bundle.width
    for name in ("preview", "depth", "flow", "mask"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    write_calibration(
        args.out / "calibration.yaml",
        sequence.intrinsics.resized(bundle.width, bundle.height),
        bundle.info.name,
    )
    places = range(0, len(sequence), args.every)
    near_far: tuple[float, float] | None = None
    num_lost, total_ms = 0, []
    with ExitStack() as files:
        trajectory = files.enter_context((args.out / "trajectory.txt").open("w", encoding="utf-8"))
        table = _open_table(files, args.out / "frames.csv")
        for place in _with_progress(places, not args.no_progress):
            image = read_image(sequence.paths[place])
            result = pipeline.step(image, sequence.stamps_ns[place], sequence.intrinsics)
            if near_far is None:
                near_far = depth_range(result.depth)
            name = f"{sequence.indices[place]:06d}"
            _write_maps(args.out, name, result)
            _write_image(
                args.out / "preview" / f"{name}.jpg", _preview(image, result, near_far, flow_range)
            )
            _write_pose(trajectory, result)
            _write_row(table, sequence.paths[place], result)
            num_lost += result.tracking is Tracking.LOST
            total_ms.append(result.timings_ms["total"])
    median = sorted(total_ms)[len(total_ms) // 2]
    unit = "metres" if bundle.metric else "an arbitrary unit"
    print(
        f"written: {args.out}: {len(total_ms)} frames, depth in {unit}, {num_lost} lost, "
        f"median {median:.1f} ms per frame"
    )
    return 0


def _read_input(args: argparse.Namespace) -> Sequence:
    from coopnet_core.data import image_folder, video

    if args.every < 1:
        raise DataError(f"--every must be 1 or more, got {args.every}")
    if args.input.is_dir():
        return image_folder.read_sequence(args.input, args.calibration, rate_hz=args.rate)
    if not args.input.is_file():
        raise DataError(f"{args.input} does not exist; give an image folder or a video file")
    if args.calibration is None:
        raise DataError(
            f"video {args.input} needs --calibration: a ROS calibration file of the rectified "
            "camera (image_width, image_height, camera_matrix)"
        )
    return video.read_sequence(args.input, args.calibration, args.out / "frames")


def _with_progress(places: range, has_bar: bool) -> Iterable[int]:
    if not has_bar:
        return places
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        # The bar comes with the training packages; a robot does without.
        return _with_lines(places)
    return track(places, "frames", console=Console(stderr=True))


def _with_lines(places: range) -> Iterator[int]:
    for number, place in enumerate(places):
        if number % 50 == 0:
            print(f"frame {number + 1} of {len(places)}", file=sys.stderr, flush=True)
        yield place


def _write_maps(out: Path, name: str, result: FrameResult) -> None:
    import numpy as np

    depth = np.nan_to_num(result.depth * DEPTH_FACTOR, nan=0.0)
    _write_image(out / "depth" / f"{name}.png", _to_uint16(depth))
    if result.flow is not None:
        u, v = (result.flow[..., axis] * FLOW_FACTOR + FLOW_OFFSET for axis in (0, 1))
        _write_image(
            out / "flow" / f"{name}.png", _to_uint16(np.stack([np.ones_like(u), v, u], axis=-1))
        )
    if result.motion_mask is not None:
        _write_image(out / "mask" / f"{name}.png", result.motion_mask.astype(np.uint8) * 255)


def _to_uint16(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    result: npt.NDArray[Any] = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
    return result


def _preview(
    image: npt.NDArray[Any],
    result: FrameResult,
    near_far: tuple[float, float],
    flow_range: float,
) -> npt.NDArray[Any]:
    """Return image and depth over flow and mask, BGR, each with the width of the network's grid."""
    import cv2
    import numpy as np

    from coopnet_core.inference.rendering import render_depth, render_flow, render_mask, to_bgr

    height, width = result.depth.shape
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    frame = to_bgr(np.asarray(small, np.uint8))
    flow = np.zeros((height, width, 2), np.float32) if result.flow is None else result.flow
    left = np.vstack([frame, render_flow(flow, flow_range)])
    right = np.vstack(
        [render_depth(result.depth, *near_far), render_mask(frame, result.motion_mask)]
    )
    return np.hstack([left, right])


def _write_image(path: Path, image: npt.NDArray[Any]) -> None:
    import cv2

    if not cv2.imwrite(str(path), image):
        raise DataError(f"cannot write {path}; is the disk full?")


def _write_pose(trajectory: TextIO, result: FrameResult) -> None:
    from coopnet_core.inference.rigid import quaternion_from_rotation

    T_odom_cam = result.T_odom_cam
    numbers = [*T_odom_cam[:3, 3], *quaternion_from_rotation(T_odom_cam[:3, :3])]
    text = " ".join(f"{value:.9g}" for value in numbers)
    trajectory.write(f"{result.stamp_ns / 1e9:.9f} {text}\n")


def _open_table(files: ExitStack, path: Path) -> csv.DictWriter[str]:
    from coopnet_core.inference.pipeline import STAGES

    columns = ["file", "time_s", "tracking", "source", "inlier_fraction", "note"]
    stream = files.enter_context(path.open("w", encoding="utf-8", newline=""))
    table = csv.DictWriter(stream, columns + [f"{stage}_ms" for stage in (*STAGES, "total")])
    table.writeheader()
    return table


def _write_row(table: csv.DictWriter[str], path: Path, result: FrameResult) -> None:
    row = {
        "file": path.name,
        "time_s": f"{result.stamp_ns / 1e9:.9f}",
        "tracking": result.tracking.value,
        "note": result.reset_reason or "",
    }
    if result.egomotion is not None:
        row["source"] = result.egomotion.source
        row["inlier_fraction"] = f"{result.egomotion.inlier_fraction:.3f}"
        row["note"] = result.egomotion.reason
    row |= {f"{stage}_ms": f"{ms:.2f}" for stage, ms in result.timings_ms.items()}
    table.writerow(row)
