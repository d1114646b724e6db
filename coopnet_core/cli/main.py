"""The ``coopnet`` command: data, train, export, evaluate, predict, bench, engine."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from coopnet_core import __version__
from coopnet_core.errors import CoopNetError

COMMANDS = ("data", "train", "export", "evaluate", "predict", "bench", "engine")

EXAMPLES = """examples:
  coopnet data check ~/data
  coopnet train --data ~/data --out runs/first
  coopnet export runs/first/last.pt --out my_bundle --frames photos/
  coopnet evaluate --bundle my_bundle --data ~/data --out scores
  coopnet predict --bundle my_bundle photos/ --out pictures
  coopnet bench --bundle my_bundle --frames photos/
  coopnet engine --bundle my_bundle --frames photos/
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="coopnet",
        description="Depth, optical flow, odometry and a motion mask from one camera.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"coopnet {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"coopnet_core.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process when not given.

    Returns:
        0, or 1 after an error that says what to do, or 130 after an interrupt.
    """
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except CoopNetError as error:
        print(f"coopnet {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; go on with --resume" if args.command == "train" else ""
        print(f"coopnet {args.command}: interrupted{hint}", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
