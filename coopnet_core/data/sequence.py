"""A recorded sequence: image files in time order with one camera, and what helps to read one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data.image_header import read_size
from coopnet_core.data.images import IMAGE_SUFFIXES
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics


@dataclass(frozen=True, eq=False)
class Sequence:
    """Images of one rectified camera in time order.

    Attributes:
        name: Name of the sequence for logs and tables.
        paths: Image files, N of them.
        indices: Frame number of each image in the recording.
        intrinsics: Camera of all images at their native size.
        stamps_ns: Time of each image in nanoseconds, not decreasing.
        poses: (N, 4, 4) float64 T_world_cam in metres (optical axes), or None when unknown.
        right_paths: Image of the right stereo camera for each frame (None where it is missing),
            or None when there is no right camera. It has the same intrinsics.
        baseline_m: Distance of the right camera along +x of the left one, or None.
        depth_paths: 16-bit depth image of each frame on the image's grid (None where it is
            missing), or None when there is no depth; see ``data.depth_images``.
        depth_units_per_m: Value of a depth image that means one metre.
        crop_bottom: Rows at the bottom of the files that are not part of the images.
        targets: Frame numbers that may be the target of a training pair (those of a split), or
            None for all.
        motion_paths: Picture of what moves by itself for each frame (0 static, anything else
            moving; None where it is missing), or None when there are none.
    """

    name: str
    paths: tuple[Path, ...]
    indices: tuple[int, ...]
    intrinsics: Intrinsics
    stamps_ns: tuple[int, ...]
    poses: npt.NDArray[np.float64] | None = None
    right_paths: tuple[Path | None, ...] | None = None
    baseline_m: float | None = None
    depth_paths: tuple[Path | None, ...] | None = None
    depth_units_per_m: float = 1000.0
    crop_bottom: int = 0
    targets: frozenset[int] | None = None
    motion_paths: tuple[Path | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)


def without_bottom(sequence: Sequence, fraction: float) -> Sequence:
    """Cut rows off the bottom of all images of a sequence, such as the bonnet of a car.

    Args:
        sequence: A sequence.
        fraction: Share of the image's height to cut off, 0 <= fraction < 1.

    Returns:
        The sequence with the camera of the upper part. Files stay as they are.

    Raises:
        DataError: The fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"the share of the height to cut off must be in [0, 1), got {fraction}")
    camera = sequence.intrinsics
    rows = round(fraction * camera.height)
    return replace(
        sequence,
        intrinsics=camera.cropped(0, 0, camera.width, camera.height - rows),
        crop_bottom=sequence.crop_bottom + rows,
    )


def numbered_frames(folder: Path, frames: range | None) -> list[tuple[int, Path]]:
    """List images named by their frame number, without holes.

    Args:
        folder: Folder with files such as ``000012.png``.
        frames: Frame numbers to take, or None for all that are there.

    Returns:
        (frame number, path) in ascending order.

    Raises:
        DataError: The folder or a frame is missing.
    """
    found = frames_by_number(folder)
    if not found:
        raise DataError(f"no numbered images (000000.png or .jpg) in {folder}")
    wanted = range(min(found), max(found) + 1) if frames is None else frames
    missing = [index for index in wanted if index not in found]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(wanted)} frames are missing, the first is "
            f"{missing[0]:06d}; the folder has {min(found):06d} to {max(found):06d}"
        )
    if len(wanted) == 0:
        raise DataError(f"{folder}: the wanted frame range {frames} is empty")
    return [(index, found[index]) for index in sorted(wanted)]


def frames_by_number(folder: Path) -> dict[int, Path]:
    """Map frame number to image path for the numbered images of a folder.

    Raises:
        DataError: The folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist; check the data set root")
    return {
        int(path.stem): path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdigit()
    }


def read_numbers(path: Path, columns: int) -> npt.NDArray[np.float64]:
    """Read a text file of numbers.

    Args:
        path: Text file, one row per line, separated by blanks.
        columns: Numbers that every line must have.

    Returns:
        (N, columns) float64.

    Raises:
        DataError: The file is missing, empty, or a line is not ``columns`` finite numbers.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if len(row) != columns or not np.all(np.isfinite(row)):
            raise DataError(
                f"{path}, line {number}: expected {columns} finite numbers, got {line.strip()!r}"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} has no numbers in it")
    return np.asarray(rows, dtype=np.float64)


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        DataError: The file is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error}") from error


def read_projections(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Read the ``P0: ...`` lines of a KITTI ``calib.txt``.

    Args:
        path: The file.

    Returns:
        Name ("P0", ...) to projection matrix (3, 4), float64, pixels and pixels times metres.

    Raises:
        DataError: The file is missing or a line is not 12 numbers.
    """
    projections = {}
    for line in read_text(path).splitlines():
        name, _, values = line.partition(":")
        name = name.strip()
        if not (len(name) == 2 and name[0] == "P" and name[1].isdigit()):
            continue
        try:
            numbers = np.array([float(word) for word in values.split()], dtype=np.float64)
        except ValueError as error:
            raise DataError(f"{path}, {name}: {error}") from error
        if numbers.size != 12:
            raise DataError(f"{path}, {name}: expected 12 numbers, got {numbers.size}")
        projections[name] = numbers.reshape(3, 4)
    return projections


def projection_of(
    projections: dict[str, npt.NDArray[np.float64]], name: str, path: Path
) -> npt.NDArray[np.float64]:
    """Pick a projection matrix (3, 4).

    Raises:
        DataError: It is not there; the message lists what is.
    """
    if name not in projections:
        raise DataError(
            f"{path} has no line {name}: (the camera's projection); it has {sorted(projections)}"
        )
    return projections[name]


def camera_of(
    projection: npt.NDArray[np.float64], image_path: Path, calibration_path: Path
) -> Intrinsics:
    """Make the camera of a projection matrix and check that it fits the images.

    Args:
        projection: (3, 4) projection of a rectified camera.
        image_path: One image of this camera; gives the size.
        calibration_path: Named in errors.

    Returns:
        The camera at the native image size.

    Raises:
        CalibrationError: Impossible values, or a principal point far from the image centre, which
            is what a calibration of another image size looks like.
        DataError: The image cannot be read.
    """
    width, height = read_size(image_path)
    try:
        camera = Intrinsics(
            width,
            height,
            float(projection[0, 0]),
            float(projection[1, 1]),
            float(projection[0, 2]),
            float(projection[1, 2]),
        )
    except CalibrationError as error:
        raise CalibrationError(f"{calibration_path}: {error}") from error
    check_camera_fits(camera, calibration_path, image_path)
    return camera


def check_camera_fits(camera: Intrinsics, calibration_path: Path, image_path: Path) -> None:
    """Refuse a calibration whose principal point is not in the middle half of the image.

    Raises:
        CalibrationError: It is not; both files are named.
    """
    for axis, centre, size in (
        ("cx", camera.cx, camera.width),
        ("cy", camera.cy, camera.height),
    ):
        if not 0.25 * size <= centre + 0.5 <= 0.75 * size:
            raise CalibrationError(
                f"{calibration_path}: {axis}={centre:.1f} does not fit {image_path}, which is "
                f"{camera.width}x{camera.height}: the calibration belongs to another image size; "
                "resize the images or the calibration"
            )


def translation_to_reference(projection: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return t (3,) in metres with ``p_cam = p_reference + t`` for a projection K [I | t]."""
    return np.asarray(np.linalg.solve(projection[:, :3], projection[:, 3]), np.float64)


def stamps_from_seconds(path: Path, indices: tuple[int, ...]) -> tuple[int, ...]:
    """Read ``times.txt`` (seconds, one line per frame) and pick frames.

    Raises:
        DataError: Missing file, fewer lines than frames, or times that go backwards.
    """
    seconds = read_numbers(path, 1)[:, 0]
    if max(indices) >= len(seconds):
        raise DataError(f"{path} has {len(seconds)} times, but frame {max(indices)} is wanted")
    for earlier, later in pairwise(indices):
        if seconds[later] < seconds[earlier]:
            raise DataError(
                f"{path}: times go backwards, from {seconds[earlier]:.6f} s of frame {earlier} to "
                f"{seconds[later]:.6f} s of frame {later}; they must be in recording order"
            )
    return tuple(round(float(seconds[index]) * 1e9) for index in indices)


def poses_from_rows(path: Path, indices: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Read KITTI poses (12 numbers per line, T_world_cam row by row) and pick frames.

    Returns:
        (N, 4, 4) float64.

    Raises:
        DataError: Missing file, malformed line, or fewer lines than frames.
    """
    rows = read_numbers(path, 12)
    if max(indices) >= len(rows):
        raise DataError(f"{path} has {len(rows)} poses, but frame {max(indices)} is wanted")
    poses = np.tile(np.eye(4), (len(indices), 1, 1))
    poses[:, :3, :] = rows[list(indices)].reshape(-1, 3, 4)
    return poses
