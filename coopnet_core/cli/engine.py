"""``coopnet engine``: build engines for NVIDIA GPUs from a bundle's ONNX files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coopnet_core.errors import EngineError, RuntimeUnavailableError

if TYPE_CHECKING:
    from coopnet_core.inference.engines.cache import CachedEngine
    from coopnet_core.inference.engines.library import EngineLibrary

DESCRIPTION = """Build engines for an NVIDIA GPU from the ONNX files of a bundle.

TensorRT builds for the GPU that is here, and takes minutes on a Jetson. TensorRT-RTX builds for any
GPU from Turing to Blackwell, also on a machine without one: name its compute capability.

Engines go to a cache where the node finds them, by bundle, library, GPU and precision. Where the
GPU is here, each one is compared with its ONNX file on the CPU, and refused if it disagrees; after
--compute-capability that happens when it is first loaded. See docs/deployment.md."""

EXAMPLES = """examples:
  coopnet engine                                               # included bundle, GPU that is here
  coopnet engine --bundle my_bundle --frames photos/           # verify on own frames
  coopnet engine --library tensorrt_rtx --compute-capability 8.6 8.9 12.0 --out engines/
  coopnet engine --precision int8 --dla-core 0                 # Jetson Orin
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``coopnet``."""
    parser = subparsers.add_parser(
        "engine",
        help="build TensorRT engines for NVIDIA GPUs",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bundle", type=Path, default=None, help="bundle directory (default: the included one)"
    )
    parser.add_argument(
        "--library",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="auto: tensorrt where it and a GPU are here, else tensorrt_rtx",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="which ONNX files of the bundle (default float32)",
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        default=None,
        metavar="X.Y",
        help="tensorrt_rtx: GPUs to build for, such as 8.6 8.9 12.0 (default: the one here)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="folder of the engines (default: COOPNET_CACHE_DIR, or ~/.cache/coopnet/engines)",
    )
    parser.add_argument(
        "--dla-core",
        type=int,
        default=None,
        metavar="N",
        help="deep learning accelerator of a Jetson; what it cannot do runs on the GPU",
    )
    parser.add_argument(
        "--workspace-mib",
        type=int,
        default=1024,
        metavar="N",
        help="largest scratch memory of a layer, MiB (default 1024)",
    )
    parser.add_argument(
        "--frames",
        type=Path,
        default=None,
        help="folder of consecutive images to verify on (default: a synthetic texture)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; see :func:`add_parser` for its arguments.

    Returns:
        0. Errors are raised.

    Raises:
        CoopNetError: The bundle or the frames cannot be used, a package is missing, or an engine
            cannot be built or disagrees with its ONNX file.
    """
    # Here, so that "coopnet --help" does not wait for OpenCV.
    from coopnet_core.cli.export import read_frame_pairs
    from coopnet_core.inference.bundle import NETWORK_NAMES, default_bundle_path, load_bundle
    from coopnet_core.inference.engines.builder import BuildOptions
    from coopnet_core.inference.engines.cache import default_cache_dir
    from coopnet_core.inference.engines.cuda import CudaPython, find_driver
    from coopnet_core.inference.engines.prepare import find_or_build
    from coopnet_core.inference.preprocess import prepare_pairs
    from coopnet_core.inference.runtime_tensorrt import TensorRtRuntime

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.workspace_mib < 1:
        raise EngineError(f"--workspace-mib must be 1 or more, got {args.workspace_mib}")
    bundle = load_bundle(args.bundle if args.bundle is not None else default_bundle_path())
    pairs = (
        None
        if args.frames is None
        else prepare_pairs(bundle.info.input, read_frame_pairs(args.frames))
    )
    is_for_others = args.compute_capability is not None
    has_gpu = not is_for_others and not find_driver()
    library = choose_library(args.library, has_gpu)
    cuda = CudaPython() if has_gpu else None
    device = None if cuda is None else cuda.device
    folder = args.out if args.out is not None else default_cache_dir()
    engines: list[tuple[CachedEngine, bool]] = []
    for capability in args.compute_capability or [None]:
        options = BuildOptions(args.precision, args.workspace_mib, args.dla_core, capability)
        made = {
            name: find_or_build(folder, bundle, name, library, device, options)
            for name in NETWORK_NAMES
        }
        if cuda is not None:
            runtime = TensorRtRuntime(bundle, library, cuda, options, cache_dir=folder, pairs=pairs)
            made = {name: (runtime.engines[name], made[name][1]) for name in NETWORK_NAMES}
        engines += made.values()
    print(table(engines))
    print(f"engines of {bundle.version} with {library.label}: {folder}")
    return 0


def choose_library(name: str, has_gpu: bool) -> EngineLibrary:
    """Import the library that was asked for.

    Args:
        name: ``tensorrt``, ``tensorrt_rtx``, or ``auto`` for the first of them that is installed;
            without a GPU only the second can build.
        has_gpu: Whether to build for a GPU that is here.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    from coopnet_core.inference.engines.library import LIBRARY_NAMES, load_library

    allowed = LIBRARY_NAMES if has_gpu else LIBRARY_NAMES[1:]
    names = allowed if name == "auto" else [n for n in LIBRARY_NAMES if n == name]
    problems = []
    for candidate in names:
        try:
            return load_library(candidate)
        except RuntimeUnavailableError as error:
            problems.append(str(error))
    raise RuntimeUnavailableError("; or ".join(problems))


def table(engines: Sequence[tuple[CachedEngine, bool]]) -> str:
    """Show engines, one per line.

    Args:
        engines: Each with whether it was built just now.
    """
    rows = [("network", "for", "MB", "built", "verified", "inputs -> outputs")]
    for engine, is_new in engines:
        side = engine.side
        inputs, outputs = (_in_words(tensors) for tensors in (side.inputs, side.outputs))
        verified = "when first loaded"
        if side.verification is not None:
            check = side.verification
            verified = f"off by {check.median_error:.2g} of {check.median_limit:g} {check.unit}"
        rows.append(
            (
                side.network,
                f"{side.key.gpu} {side.key.compute_capability}",
                f"{side.engine_bytes / 1e6:.1f}",
                f"in {side.build_s:.1f} s" if is_new else "before",
                verified,
                f"{inputs} -> {outputs}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _in_words(tensors: dict[str, str]) -> str:
    """List names by shape and type: those of equal shape share it."""
    names: dict[str, list[str]] = {}
    for name, kind in tensors.items():
        names.setdefault(kind, []).append(name)
    return ", ".join(f"{', '.join(group)} {kind}" for kind, group in names.items())
