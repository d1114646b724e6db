"""Reader of KITTI raw drives (synced, rectified), of their Velodyne scans and improved depth.

``root/<date>/<date>_drive_<drive>_sync/{image_02/data,velodyne_points/data}`` with the calibration
files of the date (https://www.cvlibs.net/datasets/kitti/raw_data.php). Improved ground truth
("annotated depth", Uhrig et al., 3DV 2017) is a folder of its own with ``train`` and ``val``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data.depth_images import read_depth
from coopnet_core.data.sequence import (
    Sequence,
    camera_of,
    frames_by_number,
    numbered_frames,
    read_text,
    translation_to_reference,
)
from coopnet_core.errors import DataError

Float64 = npt.NDArray[np.float64]

IMPROVED_UNITS_PER_M = 256.0


def read_sequence(
    root: Path | str, date: str, drive: str, frames: range | None = None, camera: int = 2
) -> Sequence:
    """Read the images of a drive.

    Args:
        root: Folder that holds the date folders.
        date: Such as "2011_09_26".
        drive: Such as "0002".
        frames: Frame numbers to take; None takes every frame on disk.
        camera: Rectified camera 0 to 3; 2 is the left colour camera.

    Returns:
        The sequence, without poses. The right camera is filled in for cameras 0 and 2 where it is
        on disk.

    Raises:
        DataError: A folder, frame, time or calibration entry is missing or malformed.
        CalibrationError: The calibration is impossible or does not fit the images.
    """
    if camera not in (0, 1, 2, 3):
        raise DataError(f"KITTI raw has cameras 0 to 3, got {camera}")
    folder = drive_folder(root, date, drive) / f"image_{camera:02d}"
    numbered = numbered_frames(folder / "data", frames)
    indices = tuple(index for index, _ in numbered)
    paths = tuple(path for _, path in numbered)
    calibration_path = Path(root) / date / "calib_cam_to_cam.txt"
    projection = read_entry(calibration_path, f"P_rect_{camera:02d}", (3, 4))
    right_paths = None
    baseline_m = None
    right_folder = folder.parent / f"image_{camera + 1:02d}" / "data"
    if camera in (0, 2) and right_folder.is_dir():
        right = read_entry(calibration_path, f"P_rect_{camera + 1:02d}", (3, 4))
        step_m = translation_to_reference(projection) - translation_to_reference(right)
        baseline_m = float(step_m[0])
        if not baseline_m > 0:
            raise DataError(f"{calibration_path}: the baseline must be positive, got {baseline_m}")
        on_disk = frames_by_number(right_folder)
        right_paths = tuple(on_disk.get(index) for index in indices)
    return Sequence(
        name=f"kitti_raw/{date}_drive_{drive}/image_{camera:02d}",
        paths=paths,
        indices=indices,
        intrinsics=camera_of(projection, paths[0], calibration_path),
        stamps_ns=_stamps(folder / "timestamps.txt", indices),
        right_paths=right_paths,
        baseline_m=baseline_m,
    )


def read_targets(
    root: Path | str, targets: Mapping[tuple[str, str, int], frozenset[int]]
) -> list[Sequence]:
    """Read the drives of a split.

    Args:
        root: Folder that holds the date folders.
        targets: (date, drive, camera) to the frame numbers of the split.

    Returns:
        Whole drives, whose ``targets`` are the frames of the split; their neighbours only serve as
        source views.

    Raises:
        DataError: Drives or frames of the split are not on disk, or something is malformed.
        CalibrationError: A calibration is impossible or does not fit the images.
    """
    missing = sorted(
        f"{date}_drive_{drive}_sync/image_{camera:02d}"
        for date, drive, camera in targets
        if not (
            Path(root) / date / f"{date}_drive_{drive}_sync" / f"image_{camera:02d}" / "data"
        ).is_dir()
    )
    if missing:
        raise DataError(
            f"{root} lacks {len(missing)} of the {len(targets)} image folders of the split: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; download them, or "
            "list what you have in a split file of your own"
        )
    sequences = []
    for (date, drive, camera), numbers in sorted(targets.items()):
        sequence = read_sequence(root, date, drive, camera=camera)
        absent = sorted(numbers - set(sequence.indices))
        if absent:
            raise DataError(
                f"{sequence.name} lacks {len(absent)} frames of the split, the first is "
                f"{absent[0]:010d}; it has {sequence.indices[0]} to {sequence.indices[-1]}"
            )
        sequences.append(replace(sequence, targets=numbers))
    return sequences


def drive_folder(root: Path | str, date: str, drive: str) -> Path:
    """Return the folder of a synced drive.

    Raises:
        DataError: It does not exist.
    """
    folder = Path(root) / date / f"{date}_drive_{drive}_sync"
    if not folder.is_dir():
        raise DataError(f"KITTI raw drive {folder} does not exist; check the data set root")
    return folder


def read_lidar_depth(
    root: Path | str, date: str, drive: str, frame: int, width: int, height: int, camera: int = 2
) -> npt.NDArray[np.float32]:
    """Project a Velodyne scan into a camera, as the Eigen depth protocol does.

    The protocol's conventions are kept so that numbers compare with published ones: depth is the
    forward distance from the scanner (its x), pixel coordinates are rounded and reduced by one
    (KITTI's tools count from 1), and the nearest point wins (Eigen et al., NIPS 2014; the widely
    used reading of it is in Godard et al., ICCV 2019).

    Args:
        root: Folder that holds the date folders.
        date: Such as "2011_09_26".
        drive: Such as "0002".
        frame: Frame number.
        width: Width of the camera's rectified image in pixels.
        height: Height of the camera's rectified image in pixels.
        camera: Rectified camera 0 to 3.

    Returns:
        (height, width) float32 metres, 0 where no point falls.

    Raises:
        DataError: The scan or a calibration entry is missing or malformed.
    """
    path = drive_folder(root, date, drive) / "velodyne_points" / "data" / f"{frame:010d}.bin"
    try:
        values = np.fromfile(path, dtype=np.float32)
    except OSError as error:
        raise DataError(f"cannot read Velodyne scan {path}: {error.strerror}") from error
    if values.size == 0 or values.size % 4 != 0:
        raise DataError(
            f"Velodyne scan {path} must be x, y, z, reflectance per point in float32, "
            f"but holds {values.size} numbers; copy it again"
        )
    return project_scan(
        values.reshape(-1, 4)[:, :3], velodyne_projection(root, date, camera), width, height
    )


def improved_depth_path(
    root: Path | str, date: str, drive: str, frame: int, camera: int = 2
) -> Path | None:
    """Find the improved ground truth of a frame.

    Args:
        root: Folder of the annotated depth maps, with ``train`` and ``val``.
        date: Such as "2011_09_26".
        drive: Such as "0002".
        frame: Frame number.
        camera: 2 or 3.

    Returns:
        The file; None where there is none, as for the first and last five frames of a drive.
    """
    below = f"{date}_drive_{drive}_sync/proj_depth/groundtruth/image_{camera:02d}/{frame:010d}.png"
    places = (Path(root) / part / below for part in ("train", "val", "."))
    return next((place for place in places if place.is_file()), None)


def read_improved_depth(path: Path) -> npt.NDArray[np.float32]:
    """Read improved ground truth: see ``depth_images.read_depth``, with 256 units per metre."""
    return read_depth(path, IMPROVED_UNITS_PER_M)


def velodyne_projection(root: Path | str, date: str, camera: int = 2) -> Float64:
    """Return the (3, 4) projection of Velodyne points in metres to pixels of a camera.

    Raises:
        DataError: A calibration entry is missing or malformed.
    """
    folder = Path(root) / date
    T_cam_velo = np.eye(4)
    T_cam_velo[:3, :3] = read_entry(folder / "calib_velo_to_cam.txt", "R", (3, 3))
    T_cam_velo[:3, 3] = read_entry(folder / "calib_velo_to_cam.txt", "T", (3,))
    R_rect = np.eye(4)
    R_rect[:3, :3] = read_entry(folder / "calib_cam_to_cam.txt", "R_rect_00", (3, 3))
    P_rect = read_entry(folder / "calib_cam_to_cam.txt", f"P_rect_{camera:02d}", (3, 4))
    return np.asarray(P_rect @ R_rect @ T_cam_velo, np.float64)


def project_scan(
    points: npt.NDArray[np.float32], projection: Float64, width: int, height: int
) -> npt.NDArray[np.float32]:
    """Project scanner points to a sparse depth image; see :func:`read_lidar_depth`.

    Args:
        points: (N, 3), x forward, metres.
        projection: (3, 4).
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        (height, width) float32 forward distance, 0 where no point falls.
    """
    points = points[points[:, 0] >= 0]
    projected = np.column_stack([points, np.ones(len(points))]) @ projection.T
    u = np.rint(projected[:, 0] / projected[:, 2]) - 1
    v = np.rint(projected[:, 1] / projected[:, 2]) - 1
    is_inside = (projected[:, 2] > 0) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    columns, rows = u[is_inside].astype(int), v[is_inside].astype(int)
    depth = np.full((height, width), np.inf, dtype=np.float32)
    np.minimum.at(depth, (rows, columns), points[is_inside, 0])
    depth[np.isinf(depth)] = 0
    return depth


def read_entry(path: Path, name: str, shape: tuple[int, ...]) -> Float64:
    """Read one entry (``NAME: numbers``) of a KITTI calibration file.

    Args:
        path: The file.
        name: Name of the entry.
        shape: Shape that its numbers must fill.

    Raises:
        DataError: The file or the entry is missing or malformed.
    """
    for line in read_text(path).splitlines():
        key, _, values = line.partition(":")
        if key.strip() != name:
            continue
        try:
            numbers = np.array([float(word) for word in values.split()], dtype=np.float64)
        except ValueError as error:
            raise DataError(f"{path}, {name}: {error}") from error
        if numbers.size != np.prod(shape):
            raise DataError(
                f"{path}, {name}: expected {np.prod(shape)} numbers, got {numbers.size}"
            )
        return numbers.reshape(shape)
    raise DataError(f"{path} has no entry {name}")


def _stamps(path: Path, indices: tuple[int, ...]) -> tuple[int, ...]:
    lines = read_text(path).split("\n")
    stamps = []
    for index in indices:
        text = lines[index].strip() if index < len(lines) else ""
        # Nanosecond digits, which datetime cannot hold.
        seconds, _, fraction = text.partition(".")
        try:
            whole = datetime.strptime(seconds + " +0000", "%Y-%m-%d %H:%M:%S %z").timestamp()
            stamps.append(int(whole) * 10**9 + int(f"{fraction:0<9}"[:9]))
        except ValueError as error:
            raise DataError(
                f"{path}, line {index + 1}: expected a date and time, got {text!r}"
            ) from error
    return tuple(stamps)
