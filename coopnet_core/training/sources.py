"""From the sources named in a config to image pairs."""

from __future__ import annotations

from pathlib import Path

from coopnet_core.config import Source
from coopnet_core.data import (
    bag_frames,
    cityscapes,
    image_folder,
    karlsruhe,
    kitti_flow,
    kitti_odometry,
    kitti_raw,
    kitti_splits,
    rgbd,
    video,
)
from coopnet_core.data.pairs import PairRecord, stereo_pairs, temporal_pairs
from coopnet_core.data.sequence import Sequence, without_bottom
from coopnet_core.errors import ConfigError, DataError


def read_source(source: Source, data_root: Path) -> list[Sequence]:
    """Read the sequences that a source names.

    Raises:
        DataError: One is missing or damaged.
        CalibrationError: Its calibration does not fit.
        ConfigError: The source names what its kind does not have.
    """
    sequences = _read(source, data_root)
    if source.crop_bottom:
        sequences = [without_bottom(sequence, source.crop_bottom) for sequence in sequences]
    return sequences


def collect_pairs(sources: tuple[Source, ...], data_root: Path) -> list[PairRecord]:
    """Read all sources and pair their frames.

    Raises:
        DataError: As ``read_source``, or stereo partners are wanted where there are none.
    """
    records: list[PairRecord] = []
    for source in sources:
        sequences = read_source(source, data_root)
        for sequence in sequences:
            records += temporal_pairs(sequence, source.gaps, source.min_motion)
        if source.stereo:
            rigs = [sequence for sequence in sequences if sequence.right_paths is not None]
            # None at all: the error of the first names it.
            for sequence in rigs or sequences[:1]:
                records += stereo_pairs(sequence) * source.repeat
    return records


def _read(source: Source, data_root: Path) -> list[Sequence]:
    path = data_root / source.path
    frames = None
    if source.first is not None and source.last is not None:
        frames = range(source.first, source.last + 1)
    calibration = None if source.calibration is None else data_root / source.calibration
    if source.kind == "kitti_odometry":
        camera = f"image_{source.camera or 0}"
        return [kitti_odometry.read_sequence(path, source.sequence, frames, camera)]
    if source.kind == "kitti_raw":
        return _read_kitti_raw(source, path, data_root, frames)
    if source.kind == "kitti_flow":
        return kitti_flow.read_sequences(path, source.sequence)
    if source.kind == "karlsruhe":
        return [karlsruhe.read_sequence(path, source.sequence, frames)]
    if source.kind == "cityscapes":
        return cityscapes.read_sequences(path, source.sequence, crop_bottom=0.0)
    if source.kind == "rgbd":
        return [rgbd.read_sequence(path, calibration, frames)]
    if source.kind == "bag":
        camera_of_bag = bag_frames.BagCamera(source.topic, source.right_topic, calibration)
        return [bag_frames.read_sequence(path, camera_of_bag, frames)]
    if source.kind == "image_folder":
        return [image_folder.read_sequence(path, calibration, frames)]
    if calibration is None:
        raise DataError(f"video {path} needs a calibration file: set calibration in its source")
    return [video.read_sequence(path, calibration, path.with_suffix(".frames"), frames=frames)]


def _read_kitti_raw(
    source: Source, root: Path, data_root: Path, frames: range | None
) -> list[Sequence]:
    if source.split is None:
        date, _, drive = source.sequence.partition("/")
        if not drive:
            raise ConfigError(
                f"kitti_raw: sequence must be DATE/DRIVE such as 2011_09_26/0002, "
                f"got {source.sequence!r}"
            )
        camera = 2 if source.camera is None else source.camera
        return [kitti_raw.read_sequence(root, date, drive, frames, camera)]
    if source.split in kitti_splits.SPLITS:
        names = kitti_splits.read_split(source.split)
    else:
        names = kitti_splits.read_split_file(data_root / source.split)
    return kitti_raw.read_targets(root, kitti_splits.by_drive(names))
