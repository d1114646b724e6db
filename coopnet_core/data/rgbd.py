"""Reader of folders with colour and depth images: TUM RGB-D and 7-Scenes.

TUM (https://cvg.cit.tum.de/data/datasets/rgbd-dataset): ``rgb.txt``, ``depth.txt`` (stamp, file)
and ``groundtruth.txt`` (stamp, tx ty tz qx qy qz qw). 7-Scenes
(https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes):
``frame-000000.color.png``, ``.depth.png`` and ``.pose.txt`` (4x4, camera to world). Both:
``camera-intrinsics.txt`` (3x3) or ``calibration.yaml`` in the folder or the one above.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.image_folder import CALIBRATION_NAME
from coopnet_core.data.image_folder import read_calibration as read_rectified
from coopnet_core.data.image_header import read_size
from coopnet_core.data.sequence import Sequence, check_camera_fits, read_numbers, read_text
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics

INTRINSICS_NAME = "camera-intrinsics.txt"
TUM_UNITS_PER_M = 5000.0
SEVEN_SCENES_UNITS_PER_M = 1000.0
# As the association script of the TUM benchmark.
MAX_STAMP_DIFFERENCE_S = 0.02
_SEVEN_SCENES_RATE_HZ = 30.0
_SEVEN_SCENES_NAME = re.compile(r"frame-(\d+)\.color\.(?:png|jpg|jpeg)")


def read_sequence(
    folder: Path | str, calibration: Path | str | None = None, frames: range | None = None
) -> Sequence:
    """Read a folder in either form.

    Args:
        folder: Folder of one recording.
        calibration: ROS calibration file; None looks in the folder and the one above.
        frames: Frame numbers to take (of TUM: places in ``rgb.txt``); None takes all.

    Returns:
        The sequence with depth where there is depth, and poses where every frame has one. TUM
        pairs colour with the depth and pose nearest in time, at most 20 ms away. Times of 7-Scenes
        are nominal (30 Hz).

    Raises:
        DataError: It is neither form, a file or frame is missing or malformed.
        CalibrationError: The calibration is missing, impossible or for another image size.
    """
    folder = Path(folder)
    if (folder / "rgb.txt").is_file():
        return _read_tum(folder, calibration, frames)
    found: dict[int, Path] = {}
    if folder.is_dir():
        matches = ((_SEVEN_SCENES_NAME.fullmatch(p.name), p) for p in sorted(folder.iterdir()))
        found = {int(match[1]): path for match, path in matches if match is not None}
    if not found:
        raise DataError(
            f"{folder} is not an RGB-D folder: it has neither rgb.txt (TUM) nor "
            "frame-000000.color.png (7-Scenes)"
        )
    return _read_seven_scenes(folder, found, calibration, frames)


def _read_tum(folder: Path, calibration: Path | str | None, frames: range | None) -> Sequence:
    colour = _stamped_files(folder / "rgb.txt")
    indices = _wanted(folder, range(len(colour)), frames)
    stamps_s = np.array([colour[index][0] for index in indices])
    if np.any(np.diff(stamps_s) < 0):
        raise DataError(f"{folder / 'rgb.txt'}: times go backwards; sort the lines")
    paths = tuple(folder / colour[index][1] for index in indices)
    depth_paths = None
    if (folder / "depth.txt").is_file():
        depth = _stamped_files(folder / "depth.txt")
        places = _nearest(np.array([stamp_s for stamp_s, _ in depth]), stamps_s)
        depth_paths = tuple(None if p is None else folder / depth[p][1] for p in places)
    poses = None
    truth = folder / "groundtruth.txt"
    if truth.is_file():
        rows = _rows(truth, 8)
        places = _nearest(rows[:, 0], stamps_s)
        if all(place is not None for place in places):
            poses = np.stack([_pose(rows[place]) for place in places if place is not None])
    return Sequence(
        name=f"rgbd/{folder.name}",
        paths=paths,
        indices=indices,
        intrinsics=_intrinsics(folder, calibration, paths[0]),
        stamps_ns=tuple(round(float(stamp_s) * 1e9) for stamp_s in stamps_s),
        poses=poses,
        depth_paths=depth_paths,
        depth_units_per_m=TUM_UNITS_PER_M,
    )


def _read_seven_scenes(
    folder: Path, found: dict[int, Path], calibration: Path | str | None, frames: range | None
) -> Sequence:
    indices = _wanted(folder, found, frames)
    paths = tuple(found[index] for index in indices)
    stems = [path.name.partition(".")[0] for path in paths]
    depths = [folder / f"{stem}.depth.png" for stem in stems]
    pose_files = [folder / f"{stem}.pose.txt" for stem in stems]
    poses = None
    if all(path.is_file() for path in pose_files):
        poses = np.stack([read_numbers(path, 4) for path in pose_files])
        if poses.shape[1:] != (4, 4):
            raise DataError(f"{pose_files[0]} must have four rows of four numbers")
    has_depth = any(path.is_file() for path in depths)
    return Sequence(
        name=f"rgbd/{folder.name}",
        paths=paths,
        indices=indices,
        intrinsics=_intrinsics(folder, calibration, paths[0]),
        stamps_ns=tuple(round(index / _SEVEN_SCENES_RATE_HZ * 1e9) for index in indices),
        poses=poses,
        depth_paths=tuple(p if p.is_file() else None for p in depths) if has_depth else None,
        depth_units_per_m=SEVEN_SCENES_UNITS_PER_M,
    )


def _intrinsics(folder: Path, calibration: Path | str | None, image: Path) -> Intrinsics:
    width, height = read_size(image)
    if calibration is not None:
        path = Path(calibration)
    else:
        places = [
            place / name
            for place in (folder, folder.parent)
            for name in (INTRINSICS_NAME, CALIBRATION_NAME)
        ]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            return _published(folder, width, height, path)
    if path.suffix == ".txt":
        rows = read_numbers(path, 3)
        if rows.shape != (3, 3):
            raise CalibrationError(f"{path} must be a 3x3 matrix, got {len(rows)} rows")
        try:
            camera = Intrinsics(width, height, *(rows[i] for i in ((0, 0), (1, 1), (0, 2), (1, 2))))
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from error
        check_camera_fits(camera, path, image)
        return camera
    camera = read_rectified(path)
    if (camera.width, camera.height) != (width, height):
        raise CalibrationError(
            f"{path} is for {camera.width}x{camera.height} images, but {image} is "
            f"{width}x{height}; use the calibration of this size"
        )
    return camera


def _published(folder: Path, width: int, height: int, wanted: Path) -> Intrinsics:
    """Return what TUM recommends for its recordings; other folders must say it themselves.

    For freiburg1 and 2 that is ROS's default of the Kinect, used without undistortion; the images
    of freiburg3 come rectified, with a calibration of their own.
    """
    if "freiburg" in folder.name and (width, height) == (640, 480):
        if "freiburg3" in folder.name:
            return Intrinsics(width, height, 535.4, 539.2, 320.1, 247.6)
        return Intrinsics(width, height, 525.0, 525.0, 319.5, 239.5)
    raise CalibrationError(
        f"{folder} has no calibration: write the 3x3 camera matrix to {wanted} "
        "(7-Scenes: 585 0 320 / 0 585 240 / 0 0 1), or give a ROS calibration file"
    )


def _wanted(folder: Path, found: range | dict[int, Path], frames: range | None) -> tuple[int, ...]:
    indices = tuple(sorted(found if frames is None else frames))
    missing = [index for index in indices if index not in found]
    if missing or not indices:
        raise DataError(
            f"{folder} has frames {min(found, default=0)} to {max(found, default=0)}, "
            f"but {missing[0] if missing else frames} is wanted"
        )
    return indices


def _stamped_files(path: Path) -> list[tuple[float, str]]:
    files = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            stamp, name = line.split(maxsplit=1)
            files.append((float(stamp), name.strip()))
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: expected a stamp and a file name, got {line!r}"
            ) from error
    if not files:
        raise DataError(f"{path} names no file")
    return files


def _rows(path: Path, columns: int) -> npt.NDArray[np.float64]:
    try:
        rows = np.loadtxt(path, comments="#", ndmin=2)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if rows.size == 0 or rows.shape[1] != columns or not np.all(np.isfinite(rows)):
        raise DataError(f"{path} must have {columns} finite numbers per line")
    return np.asarray(rows, np.float64)


def _nearest(
    candidates_s: npt.NDArray[np.float64], stamps_s: npt.NDArray[np.float64]
) -> list[int | None]:
    """Return for each stamp the place of the nearest candidate; None where it is too far away."""
    order = np.argsort(candidates_s)
    after = np.searchsorted(candidates_s[order], stamps_s).clip(1, max(1, len(order) - 1))
    around = order[np.stack([after - 1, after.clip(max=len(order) - 1)])]
    best = around[np.abs(candidates_s[around] - stamps_s).argmin(axis=0), np.arange(len(stamps_s))]
    is_near = np.abs(candidates_s[best] - stamps_s) <= MAX_STAMP_DIFFERENCE_S
    return [int(place) if near else None for place, near in zip(best, is_near, strict=True)]


def _pose(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    vector, w = row[4:7], row[7]
    length = float(np.linalg.norm(vector))
    angle = 2 * np.arctan2(length, w)
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3] = cv2.Rodrigues(vector * (angle / length if length > 0 else 0.0))[0]
    T_world_cam[:3, 3] = row[1:4]
    return T_world_cam
