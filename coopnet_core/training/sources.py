"""From the sources named in a config to image pairs."""

from __future__ import annotations

from pathlib import Path

from coopnet_core.config import Source
from coopnet_core.data import image_folder, karlsruhe, kitti_odometry, video
from coopnet_core.data.pairs import PairRecord, stereo_pairs, temporal_pairs
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import DataError


def read_source(source: Source, data_root: Path) -> Sequence:
    """Read the sequence that a source names.

    Raises:
        DataError: It is missing or damaged.
        CalibrationError: Its calibration does not fit.
    """
    path = data_root / source.path
    frames = None
    if source.first is not None and source.last is not None:
        frames = range(source.first, source.last + 1)
    if source.kind == "kitti_odometry":
        return kitti_odometry.read_sequence(path, source.sequence, frames)
    if source.kind == "karlsruhe":
        return karlsruhe.read_sequence(path, source.sequence, frames)
    calibration = None if source.calibration is None else data_root / source.calibration
    if source.kind == "image_folder":
        return image_folder.read_sequence(path, calibration, frames)
    if calibration is None:
        raise DataError(f"video {path} needs a calibration file: set calibration in its source")
    return video.read_sequence(path, calibration, path.with_suffix(".frames"), frames=frames)


def collect_pairs(sources: tuple[Source, ...], data_root: Path) -> list[PairRecord]:
    """Read all sources and pair their frames.

    Raises:
        DataError: As ``read_source``.
    """
    records: list[PairRecord] = []
    for source in sources:
        sequence = read_source(source, data_root)
        records += temporal_pairs(sequence, source.gaps, source.min_motion)
        if source.stereo:
            records += stereo_pairs(sequence) * source.repeat
    return records
