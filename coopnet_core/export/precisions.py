"""Further precisions for the networks of a bundle, from its float32 ONNX files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coopnet_core.errors import ExportError
from coopnet_core.export.check import Predict, check_networks, predictor
from coopnet_core.export.directory import describe_file, new_directory, write_description
from coopnet_core.export.precision import (
    CALIBRATION_PERCENTILE,
    Feed,
    import_onnx,
    to_float16,
    to_int8,
)
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    Bundle,
    BundleInfo,
    NetworkName,
    Precision,
    PrecisionInfo,
    load_bundle,
)
from coopnet_core.inference.preprocess import ImageArray, Pair, prepare_pairs
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_core.inference.signature import inputs, inputs_of_pair

FrameTuple = tuple[ImageArray, ImageArray]


def extend_bundle(
    bundle: Bundle,
    out_dir: Path | str,
    precisions: Sequence[Precision],
    frames: Sequence[FrameTuple],
    calibration: Sequence[FrameTuple] = (),
) -> Bundle:
    """Write a copy of a bundle that has further precisions; needs no torch and no checkpoint.

    Args:
        bundle: Any bundle. Precisions that it has and that are named again are made anew.
        out_dir: Directory of the new bundle, replaced if it is one; it may be ``bundle`` itself.
        precisions: ``float16``, ``int8``; ``float32`` is always there.
        frames: Pairs of real (current, previous) images, RGB or mono uint8, that the new files
            are compared with the float32 files on.
        calibration: Pairs that set the ranges of int8.

    Returns:
        The written bundle, loaded and checked.

    Raises:
        ExportError: ``out_dir`` is something else than a bundle, no precision or no frames are
            given, or a new file disagrees with its float32 file.
        RuntimeUnavailableError: A package that export needs is not installed.
    """
    wanted = [precision for precision in precisions if precision != "float32"]
    if not wanted:
        raise ExportError(
            f"{bundle.path} has float32 already: name what to add, --precisions float16 int8"
        )
    if not frames:
        raise ExportError("an export is checked on real frames: give at least one pair, got none")
    out_dir = Path(out_dir)
    with new_directory(out_dir) as work_dir:
        for name in bundle.info.files:
            shutil.copy2(bundle.path / name, work_dir / name)
        info = add_precisions(
            Bundle(work_dir, bundle.info),
            wanted,
            prepare_pairs(bundle.info.input, frames),
            prepare_pairs(bundle.info.input, calibration),
            predictor(OnnxRuntime(bundle, num_threads=1)),
            "float32 ONNX files",
        )
        write_description(info, work_dir)
    return load_bundle(out_dir)


def add_precisions(
    bundle: Bundle,
    precisions: Sequence[Precision],
    frames: Sequence[Pair],
    calibration: Sequence[Pair],
    expected: Predict,
    reference: str,
) -> BundleInfo:
    """Write the ONNX files of further precisions beside those of float32.

    Args:
        bundle: Where to write, and which files are there.
        precisions: What to add.
        frames: Network inputs (current, previous) to compare on, (1, 3, H, W) in [0, 1].
        calibration: Network inputs that set the ranges of int8.
        expected: What the files are compared with.
        reference: Its name, for the record.

    Returns:
        The bundle's description with the new files and their errors. ``bundle.json`` is not
        written.

    Raises:
        ExportError: A file disagrees with the reference, or int8 has too few frames.
        RuntimeUnavailableError: A package is not installed.
    """
    onnx = import_onnx()
    info = bundle.info
    for precision in precisions:
        if precision == "float32":
            continue
        files = {name: f"{name}_{precision}.onnx" for name in NETWORK_NAMES}
        for name, file in files.items():
            model = onnx.load(str(bundle.onnx_path(name)))
            feeds = _feeds(bundle, name, calibration) if precision == "int8" else []
            onnx.save(_convert(model, precision, name, feeds), str(bundle.path / file))
        note = ""
        if precision == "int8":
            share = f"{CALIBRATION_PERCENTILE:g} %"
            note = f"ranges: {share} of the values over {len(calibration)} frame pairs"
        info = _with_files(info, precision, files, bundle.path, note)
        runtime = OnnxRuntime(Bundle(bundle.path, info), num_threads=1, precision=precision)
        checks = check_networks(precision, expected, predictor(runtime), frames, reference)
        for name, check in checks.items():
            entry = info.networks[name].precisions[precision]
            info = _with_precision(info, name, precision, entry.model_copy(update={"check": check}))
    return info


def _feeds(bundle: Bundle, name: NetworkName, calibration: Sequence[Pair]) -> list[Feed]:
    """Return what the network takes for each pair of images."""
    features = OnnxRuntime(bundle, num_threads=1).flow_features
    names = inputs(name, bundle.height, bundle.width)
    return [
        dict(zip(names, inputs_of_pair(name, *pair, features), strict=True)) for pair in calibration
    ]


def _convert(model: Any, precision: Precision, name: NetworkName, feeds: Sequence[Feed]) -> Any:
    if precision == "float16":
        return to_float16(model)
    try:
        return to_int8(model, feeds)
    except ExportError as error:
        raise ExportError(f"{name} network: {error}") from error


def _with_files(
    info: BundleInfo, precision: Precision, files: dict[NetworkName, str], path: Path, note: str
) -> BundleInfo:
    described = {file: describe_file(path / file) for file in files.values()}
    info = info.model_copy(update={"files": {**info.files, **described}})
    for name, file in files.items():
        info = _with_precision(info, name, precision, PrecisionInfo(onnx=file, note=note))
    return info


def _with_precision(
    info: BundleInfo, name: NetworkName, precision: Precision, entry: PrecisionInfo
) -> BundleInfo:
    network = info.networks[name]
    network = network.model_copy(update={"precisions": {**network.precisions, precision: entry}})
    return info.model_copy(update={"networks": {**info.networks, name: network}})
