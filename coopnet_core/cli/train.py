"""``coopnet train``: co-train the three networks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coopnet_core.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DESCRIPTION = """Train depth, pose and flow networks together, without labels.

A config (YAML) names the frames, the stages and the loss; its keys are explained in
docs/training.md. Checkpoints go to OUT/last.pt, curves and pictures to OUT/tensorboard, and at
the end a picture of the curves to OUT/report.png. A run that was stopped goes on with --resume
and ends with the same weights. torchrun starts it in several processes, one per GPU."""

EXAMPLES = """examples:
  coopnet train --data ~/data --out runs/first
  coopnet train --config my_config.yaml --data ~/data --out runs/second
  coopnet train --data ~/data --out runs/first --resume
  torchrun --nproc-per-node gpu -m coopnet_core.cli.main train --data ~/data --out runs/third
  tensorboard --logdir runs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser(
        "train",
        help="train the networks on your own frames",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=None,
        help="YAML file (default: the included recipe, coopnet_small)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that the config's paths start from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument(
        "--start-from",
        type=Path,
        default=None,
        metavar="CHECKPOINT",
        help="start a new run with the weights of another one",
    )
    parser.add_argument(
        "--checkpoint-every", type=positive_int, default=200, metavar="STEPS", help="default: 200"
    )
    parser.add_argument(
        "--pictures-every", type=positive_int, default=200, metavar="STEPS", help="default: 200"
    )
    parser.add_argument(
        "--threads", type=positive_int, default=None, help="CPU threads (default: all cores)"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=None,
        metavar="N",
        help="threads that prepare batches, per process (default: by cores, up to 8)",
    )
    parser.add_argument("--no-progress", action="store_true", help="plain lines instead of a bar")
    parser.set_defaults(run=run)


def positive_int(text: str) -> int:
    """Read a number of at least 1 from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0. Errors are raised.

    Raises:
        CoopNetError: The config or data cannot be used, or training cannot go on.
    """
    try:
        import torch

        from coopnet_core.training.processes import default_fabric, together
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"training needs {error.name}, which is not installed: "
            "run scripts/setup.sh dev, or pip install '.[train]' in a checkout"
        ) from error
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    fabric = default_fabric()
    with together(fabric):
        _train(args, fabric)
    return 0


def _train(args: argparse.Namespace, fabric: Fabric) -> None:
    from coopnet_core.config import TrainingConfig, load_config
    from coopnet_core.config.loading import default_recipe_path
    from coopnet_core.training.logging import RunLogger
    from coopnet_core.training.loop import train
    from coopnet_core.training.report import write_report

    config_path = args.config if args.config is not None else default_recipe_path()
    config = load_config(config_path, TrainingConfig)
    # Only the first process calls it, so that the others draw no bar and write nothing.
    has_bar = fabric.is_global_zero and not args.no_progress
    with RunLogger(args.out, config, pictures_every=args.pictures_every, has_bar=has_bar) as logger:
        checkpoint = train(
            config,
            args.data,
            args.out,
            resume=args.resume,
            start_from=args.start_from,
            checkpoint_every=args.checkpoint_every,
            report=logger,
            fabric=fabric,
            num_workers=args.workers,
        )
    if fabric.is_global_zero:
        print(
            f"written: {checkpoint} and {write_report(args.out)}\n"
            f"{logger.share_waiting:.1%} of the time went by waiting for data\n"
            f"next: coopnet export {checkpoint} --out BUNDLE --frames DIR"
        )
