"""Find out what kind of data lies at a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from coopnet_core.data import (
    cityscapes,
    image_folder,
    karlsruhe,
    kitti_flow,
    kitti_odometry,
    kitti_raw,
    rgbd,
)
from coopnet_core.data.bag_reader import BAG_SUFFIXES
from coopnet_core.data.images import IMAGE_SUFFIXES
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts")
_MAX_DEPTH = 4
_DATE = re.compile(r"\d{4}_\d{2}_\d{2}")
_DRIVE = re.compile(r"(\d{4}_\d{2}_\d{2})_drive_(\d+)_sync")


@dataclass(frozen=True)
class Found:
    """Something to learn from or to measure with.

    Attributes:
        kind: Kind of source as in a config, or ``middlebury``, which is for evaluation only.
        path: What a source's ``path`` names.
        keys: Further keys of the source, such as its sequence.
        images: Its image files in order, right cameras included; none for bags and videos.
        load: Reads its sequences; None for bags, videos and Middlebury.
    """

    kind: str
    path: Path
    keys: dict[str, str | int] = field(default_factory=dict)
    images: tuple[Path, ...] = ()
    load: Callable[[], list[Sequence]] | None = None

    @property
    def name(self) -> str:
        """Path and keys in short."""
        return ", ".join([self.path.name, *(f"{key} {value}" for key, value in self.keys.items())])


def discover(path: Path, calibration: Path | None = None) -> list[Found]:
    """List everything at a path that a reader knows.

    Args:
        path: Bag, video, folder of a data set, folder of images, or a folder with several of them
            up to four levels down.
        calibration: ROS calibration file for image folders.

    Returns:
        What was found, in the order of its names.

    Raises:
        DataError: There is nothing there that a reader knows.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    found = list(_search(path, calibration, _MAX_DEPTH))
    if not found:
        raise DataError(
            f"nothing to read at {path}: expected a bag, a video, a folder of images, or KITTI, "
            "Cityscapes, Karlsruhe, RGB-D data; docs/data.md shows the layouts"
        )
    return found


def _search(path: Path, calibration: Path | None, depth: int) -> Iterator[Found]:
    if path.is_file():
        if path.suffix in BAG_SUFFIXES:
            yield Found("bag", path)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield Found("video", path)
        return
    recognised = next((found for rule in _RULES if (found := rule(path))), None)
    if recognised is not None:
        yield from recognised
        return
    children = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    images = image_folder.image_files(path)
    if images:
        right = path / image_folder.RIGHT_NAME
        images += image_folder.image_files(right) if right.is_dir() else []
        read = partial(_one, image_folder.read_sequence, path, calibration)
        yield Found("image_folder", path, {}, tuple(images), read)
    for child in children:
        # What was extracted from a bag or video lies beside it.
        if child.is_file() or (depth > 0 and child.suffix != ".frames" and not images):
            yield from _search(child, calibration, depth - 1)


def _bag(path: Path) -> list[Found]:
    return [Found("bag", path)] if (path / "metadata.yaml").is_file() else []


def _kitti_odometry(path: Path) -> list[Found]:
    if (path / "sequences").is_dir():
        root, folders = path, sorted(p for p in (path / "sequences").iterdir() if p.is_dir())
    elif path.parent.name == "sequences":
        root, folders = path.parents[1], [path]
    else:
        return []
    found = []
    for folder in folders:
        for camera in (0, 2):
            if (folder / f"image_{camera}").is_dir():
                read = partial(
                    _one, kitti_odometry.read_sequence, root, folder.name, None, f"image_{camera}"
                )
                keys: dict[str, str | int] = {"sequence": folder.name, "camera": camera}
                images = _images(folder / f"image_{camera}", folder / f"image_{camera + 1}")
                found.append(Found("kitti_odometry", root, keys, images, read))
    return found


def _kitti_raw(path: Path) -> list[Found]:
    if _DRIVE.fullmatch(path.name):
        drives = [path]
    elif _DATE.fullmatch(path.name):
        drives = sorted(path.iterdir())
    else:
        dates = sorted(child for child in path.iterdir() if _DATE.fullmatch(child.name))
        drives = [drive for date in dates if date.is_dir() for drive in sorted(date.iterdir())]
    found = []
    for drive in drives:
        match = _DRIVE.fullmatch(drive.name)
        if match is None:
            continue
        for camera in (0, 2):
            folder = drive / f"image_{camera:02d}" / "data"
            if folder.is_dir():
                root = drive.parents[1]
                read = partial(
                    _one, kitti_raw.read_sequence, root, match[1], match[2], None, camera
                )
                keys: dict[str, str | int] = {
                    "sequence": f"{match[1]}/{match[2]}",
                    "camera": camera,
                }
                images = _images(folder, drive / f"image_{camera + 1:02d}" / "data")
                found.append(Found("kitti_raw", root, keys, images, read))
    return found


def _kitti_flow(path: Path) -> list[Found]:
    found = []
    for part in ("training", "testing"):
        for left, right, *_ in kitti_flow.LAYOUTS:
            if (path / part / left).is_dir():
                images = _images(path / part / left, path / part / right)
                read = partial(kitti_flow.read_sequences, path, part)
                found.append(Found("kitti_flow", path, {"sequence": part}, images, read))
                break
    return found


def _karlsruhe(path: Path) -> list[Found]:
    if not ((path / "left").is_dir() and (path / "calib.txt").is_file()):
        return []
    images = _images(path / "left", path / "right")
    read = partial(_one, karlsruhe.read_sequence, path.parent, path.name)
    return [Found("karlsruhe", path.parent, {"sequence": path.name}, images, read)]


def _cityscapes(path: Path) -> list[Found]:
    folder = path / "leftImg8bit_sequence"
    if not folder.is_dir():
        return []
    found = []
    for part in sorted(child for child in folder.iterdir() if child.is_dir()):
        right = path / "rightImg8bit_sequence" / part.name
        images = sorted(part.glob("*/*_leftImg8bit.png"))
        images += sorted(right.glob("*/*_rightImg8bit.png"))
        read = partial(cityscapes.read_sequences, path, part.name)
        found.append(Found("cityscapes", path, {"sequence": part.name}, tuple(images), read))
    return found


def _rgbd(path: Path) -> list[Found]:
    images: tuple[Path, ...] = ()
    if (path / "rgb.txt").is_file():
        images = _images(path / "rgb")
    else:
        images = tuple(sorted(path.glob("frame-*.color.*")))
    if not images:
        return []
    return [Found("rgbd", path, {}, images, partial(_one, rgbd.read_sequence, path))]


def _middlebury(path: Path) -> list[Found]:
    if not any(child.suffix == ".flo" for child in path.iterdir()):
        return []
    return [Found("middlebury", path, {}, _images(path))]


_RULES = (
    _bag,
    _kitti_odometry,
    _kitti_raw,
    _cityscapes,
    _kitti_flow,
    _karlsruhe,
    _rgbd,
    _middlebury,
)


def _one(read: Callable[..., Sequence], *arguments: object) -> list[Sequence]:
    return [read(*arguments)]


def _images(*folders: Path) -> tuple[Path, ...]:
    return tuple(
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
