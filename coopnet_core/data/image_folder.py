"""Reader of a plain folder of images with a calibration file.

The calibration is the YAML file that ROS calibration tools write (``image_width``,
``image_height``, ``camera_matrix``, ``distortion_coefficients``). Images must be rectified. A
folder ``right`` in it holds the partners of a stereo camera, by the same names, with a calibration
file whose ``projection_matrix`` says where that camera is (its fourth number: minus focal length
times baseline). A folder ``motion`` in it may say what moves by itself: a PNG of the same name per
image, 0 where things stand still.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import yaml

from coopnet_core.data import camera_info
from coopnet_core.data.image_header import read_size
from coopnet_core.data.images import IMAGE_SUFFIXES
from coopnet_core.data.sequence import Sequence, stamps_from_seconds
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics

CALIBRATION_NAME = "calibration.yaml"
TIMES_NAME = "times.txt"
RIGHT_NAME = "right"
MOTION_NAME = "motion"
DEFAULT_RATE_HZ = 10.0


def read_sequence(
    folder: Path | str,
    calibration: Path | str | None = None,
    frames: range | None = None,
    rate_hz: float = DEFAULT_RATE_HZ,
) -> Sequence:
    """Read the images of a folder in natural order (``2.png`` before ``10.png``).

    Args:
        folder: Folder with the images.
        calibration: Calibration file; None takes ``calibration.yaml`` in the folder.
        frames: Places in the sorted list to take; None takes all.
        rate_hz: Frame rate, used when the folder has no ``times.txt`` (seconds, one per image).

    Returns:
        The sequence, without poses; with a right camera where there is ``right/calibration.yaml``.

    Raises:
        DataError: The folder has no images, too few for ``frames``, a file cannot be read, or no
            picture in ``motion`` belongs to a frame.
        CalibrationError: The calibration is missing, impossible, distorted, or for another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist")
    found = image_files(folder)
    if not found:
        raise DataError(f"no images in {folder}; expected files ending in {IMAGE_SUFFIXES}")
    indices = tuple(range(len(found))) if frames is None else tuple(sorted(frames))
    if not indices or indices[0] < 0 or indices[-1] >= len(found):
        raise DataError(f"{folder} has {len(found)} images, but frames {frames} are wanted")
    paths = tuple(found[index] for index in indices)

    calibration = folder / CALIBRATION_NAME if calibration is None else Path(calibration)
    intrinsics = read_calibration(calibration)
    width, height = read_size(paths[0])
    if (width, height) != (intrinsics.width, intrinsics.height):
        raise CalibrationError(
            f"{calibration} is for {intrinsics.width}x{intrinsics.height} images, but {paths[0]} "
            f"is {width}x{height}; use the calibration of this size"
        )
    times = folder / TIMES_NAME
    if times.is_file():
        stamps_ns = stamps_from_seconds(times, indices)
    elif rate_hz > 0:
        stamps_ns = tuple(round(index / rate_hz * 1e9) for index in indices)
    else:
        raise DataError(f"the frame rate must be positive, got {rate_hz}")
    right_paths, baseline_m = _right_camera(folder / RIGHT_NAME, paths, intrinsics)
    return Sequence(
        name=folder.name,
        paths=paths,
        indices=indices,
        intrinsics=intrinsics,
        stamps_ns=stamps_ns,
        right_paths=right_paths,
        baseline_m=baseline_m,
        motion_paths=_motion_paths(folder / MOTION_NAME, paths),
    )


def _motion_paths(folder: Path, paths: tuple[Path, ...]) -> tuple[Path | None, ...] | None:
    if not folder.is_dir():
        return None
    pictures = [folder / f"{path.stem}.png" for path in paths]
    if not any(picture.is_file() for picture in pictures):
        raise DataError(
            f"{folder} has no picture of what moves in any of the frames: expected names like "
            f"{pictures[0].name}"
        )
    return tuple(picture if picture.is_file() else None for picture in pictures)


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order (``2.png`` before ``10.png``)."""
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES),
        key=lambda path: _natural_key(path.name),
    )


def read_calibration(path: Path | str) -> Intrinsics:
    """Read the camera of rectified images from a ROS calibration file.

    Args:
        path: YAML file.

    Returns:
        The camera.

    Raises:
        CalibrationError: A key is missing or malformed, or the lens is distorted.
        DataError: The file cannot be read.
    """
    calibration = camera_info.read_calibration(path)
    if any(calibration.D):
        raise CalibrationError(
            f"{path} describes a distorted lens {list(calibration.D)}: rectify the images "
            "(image_proc, cv2.undistort) and give the rectified calibration with zero distortion"
        )
    K = calibration.K
    return Intrinsics(calibration.width, calibration.height, K[0], K[4], K[2], K[5])


def write_calibration(
    path: Path | str, intrinsics: Intrinsics, camera_name: str, baseline_m: float = 0.0
) -> None:
    """Write a ROS calibration file of a rectified camera, which :func:`read_calibration` reads.

    Args:
        path: File to write.
        intrinsics: The camera.
        camera_name: Name of the camera in the file.
        baseline_m: For the right camera of a stereo rig, its distance from the left one.
    """
    fx, fy, cx, cy = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
    content = {
        "image_width": intrinsics.width,
        "image_height": intrinsics.height,
        "camera_name": camera_name,
        "camera_matrix": {"rows": 3, "cols": 3, "data": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
        "projection_matrix": {
            "rows": 3,
            "cols": 4,
            "data": [fx, 0.0, cx, -fx * baseline_m, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        },
    }
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _right_camera(
    folder: Path, left_paths: tuple[Path, ...], left: Intrinsics
) -> tuple[tuple[Path | None, ...] | None, float | None]:
    path = folder / CALIBRATION_NAME
    if not path.is_file():
        return None, None
    camera = read_calibration(path)
    if not np.allclose(camera.matrix(), left.matrix(), rtol=1e-4) or (
        (camera.width, camera.height) != (left.width, left.height)
    ):
        raise CalibrationError(
            f"{path} must have the size and camera_matrix of the left camera: rectify both images "
            "to one camera, as image_proc does"
        )
    baseline_m = -camera_info.read_calibration(path).P[3] / camera.fx
    if not baseline_m > 0:
        raise CalibrationError(
            f"{path}: the right camera must lie to the right, so the fourth number of "
            f"projection_matrix must be negative, but the baseline is {baseline_m:g} m"
        )
    by_stem = {image.stem: image for image in image_files(folder)}
    return tuple(by_stem.get(image.stem) for image in left_paths), baseline_m


def _natural_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
