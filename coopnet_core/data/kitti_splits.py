"""Splits of KITTI raw: lists of frame names, included ones and files of the user's own.

``config/splits/kitti_eigen_zhou.txt`` says by which rule the included lists were made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from coopnet_core.data.sequence import read_text
from coopnet_core.errors import DataError
from coopnet_core.installed import package_file

EIGEN_ZHOU_FILE = "config/splits/kitti_eigen_zhou.txt"
SPLITS = ("eigen_zhou_train", "eigen_zhou_val", "eigen_test", "eigen_test_improved")
_CAMERA_OF = {"l": 2, "r": 3}


class RawFrame(NamedTuple):
    """A frame of KITTI raw.

    Attributes:
        date: Such as "2011_09_26".
        drive: Such as "0002".
        camera: 2 (left colour) or 3 (right colour).
        number: Frame number.
    """

    date: str
    drive: str
    camera: int
    number: int


def read_split(name: str) -> list[RawFrame]:
    """Return the frames of an included split.

    Args:
        name: ``eigen_zhou_train`` (39,810 frames), ``eigen_zhou_val`` (4,424), ``eigen_test`` (697)
            or ``eigen_test_improved`` (the 652 of them that have improved ground truth).

    Returns:
        Frames in the order of their names.

    Raises:
        DataError: There is no such split, or its file is not installed.
    """
    if name not in SPLITS:
        raise DataError(f"unknown split {name!r}: choose {', '.join(SPLITS)}, or give a file")
    path = package_file(EIGEN_ZHOU_FILE)
    if path is None:
        raise DataError(f"{EIGEN_ZHOU_FILE} is not installed: install the package again")
    sets: dict[str, set[RawFrame]] = defaultdict(set)
    for line in read_text(path).splitlines():
        kind, *words = line.split()
        if kind == "#":
            continue
        date, _, drive = words[0].partition("_drive_")
        cameras, words = ((2, 3) if kind == "pool" else (2,)), words[1:]
        if kind == "val":
            cameras, words = (int(words[0]),), words[1:]
        numbers = _numbers(words)
        sets[kind] |= {RawFrame(date, drive, camera, n) for n in numbers for camera in cameras}
    return sorted(
        {
            "eigen_zhou_train": sets["pool"] - sets["val"],
            "eigen_zhou_val": sets["val"],
            "eigen_test": sets["test"],
            "eigen_test_improved": sets["test"] - sets["unimproved"],
        }[name]
    )


def read_split_file(path: Path) -> list[RawFrame]:
    """Read a list of frames in the form that public depth code uses.

    Args:
        path: Lines such as ``2011_09_26/2011_09_26_drive_0022_sync 473 r``; ``l`` is camera 2 and
            ``r`` camera 3.

    Returns:
        Frames in the order of the file.

    Raises:
        DataError: The file is missing or empty, or a line has another form.
    """
    frames = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            folder, index, side = line.split()
            date, _, name = folder.partition("/")
            drive = name.removeprefix(f"{date}_drive_").removesuffix("_sync")
            if name != f"{date}_drive_{drive}_sync":
                raise ValueError(f"{folder} is not DATE/DATE_drive_NUMBER_sync")
            frames.append(RawFrame(date, drive, _CAMERA_OF[side], int(index)))
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{path}, line {number}: expected 'DATE/DATE_drive_NUMBER_sync FRAME l' or 'r', "
                f"got {line!r} ({error})"
            ) from error
    if not frames:
        raise DataError(f"split file {path} names no frame")
    return frames


def by_drive(frames: Iterable[RawFrame]) -> dict[tuple[str, str, int], frozenset[int]]:
    """Group frames: (date, drive, camera) to frame numbers."""
    groups: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for frame in frames:
        groups[frame.date, frame.drive, frame.camera].add(frame.number)
    return {key: frozenset(numbers) for key, numbers in groups.items()}


def _numbers(words: list[str]) -> set[int]:
    numbers: set[int] = set()
    for word in words:
        first, _, last = word.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers
