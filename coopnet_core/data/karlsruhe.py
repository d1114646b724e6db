"""Reader of the Karlsruhe stereo sequences (https://www.cvlibs.net/datasets/karlsruhe_sequences/).

``root/<sequence>/{left,right}/000000.png``, with ``calib.txt`` (KITTI form: P0, P1), ``times.txt``
in seconds and, optionally, ``poses.txt`` (12 numbers per line, T_world_cam).
"""

from __future__ import annotations

from pathlib import Path

from coopnet_core.data.sequence import (
    Sequence,
    camera_of,
    frames_by_number,
    numbered_frames,
    poses_from_rows,
    projection_of,
    read_projections,
    stamps_from_seconds,
    translation_to_reference,
)
from coopnet_core.errors import DataError


def read_sequence(root: Path | str, sequence: str, frames: range | None = None) -> Sequence:
    """Read the left camera of a sequence, with its right camera.

    Args:
        root: Folder that holds the sequence folders.
        sequence: Sequence name, such as "2010_03_09_drive_0019".
        frames: Frame numbers to take; None takes every frame on disk.

    Returns:
        The sequence.

    Raises:
        DataError: A folder, frame, time or calibration line is missing or malformed.
        CalibrationError: The calibration is impossible or does not fit the images.
    """
    folder = Path(root) / sequence
    if not folder.is_dir():
        raise DataError(
            f"Karlsruhe sequence {folder} does not exist; the root must hold <name>/left"
        )
    numbered = numbered_frames(folder / "left", frames)
    indices = tuple(index for index, _ in numbered)
    paths = tuple(path for _, path in numbered)
    calibration_path = folder / "calib.txt"
    projections = read_projections(calibration_path)
    left = projection_of(projections, "P0", calibration_path)

    right_paths = None
    baseline_m = None
    if (folder / "right").is_dir():
        right = projection_of(projections, "P1", calibration_path)
        baseline_m = float((translation_to_reference(left) - translation_to_reference(right))[0])
        if not baseline_m > 0:
            raise DataError(f"{calibration_path}: the baseline must be positive, got {baseline_m}")
        on_disk = frames_by_number(folder / "right")
        right_paths = tuple(on_disk.get(index) for index in indices)

    poses_path = folder / "poses.txt"
    return Sequence(
        name=f"karlsruhe/{sequence}",
        paths=paths,
        indices=indices,
        intrinsics=camera_of(left, paths[0], calibration_path),
        stamps_ns=stamps_from_seconds(folder / "times.txt", indices),
        poses=poses_from_rows(poses_path, indices) if poses_path.is_file() else None,
        right_paths=right_paths,
        baseline_m=baseline_m,
    )
