"""Reader of a plain folder of images with a calibration file.

The calibration is the YAML file that ROS calibration tools write (``image_width``,
``image_height``, ``camera_matrix``, ``distortion_coefficients``). Images must be rectified.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from coopnet_core.data.images import IMAGE_SUFFIXES, read_image
from coopnet_core.data.sequence import Sequence, read_text, stamps_from_seconds
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics

CALIBRATION_NAME = "calibration.yaml"
TIMES_NAME = "times.txt"
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
        The sequence, without poses and without a right camera.

    Raises:
        DataError: The folder has no images, too few for ``frames``, or a file cannot be read.
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
    height, width = read_image(paths[0]).shape[:2]
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
    return Sequence(
        name=folder.name, paths=paths, indices=indices, intrinsics=intrinsics, stamps_ns=stamps_ns
    )


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
    path = Path(path)
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise CalibrationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise CalibrationError(
            f"{path} must be a mapping with image_width, image_height and camera_matrix"
        )
    try:
        width, height = int(content["image_width"]), int(content["image_height"])
        matrix = [float(value) for value in content["camera_matrix"]["data"]]
        distortion = content.get("distortion_coefficients") or {"data": []}
        coefficients = [float(value) for value in distortion["data"]]
    except KeyError as error:
        raise CalibrationError(
            f"{path} lacks the key {error}; it must be a ROS calibration file, "
            "as the camera_calibration package writes it"
        ) from error
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{path} is not a ROS calibration file: {error}") from error
    if len(matrix) != 9:
        raise CalibrationError(f"{path}: camera_matrix must have 9 numbers, got {len(matrix)}")
    if any(value != 0 for value in coefficients):
        raise CalibrationError(
            f"{path} describes a distorted lens {coefficients}: rectify the images (image_proc, "
            "cv2.undistort) and give the rectified calibration with zero distortion"
        )
    try:
        return Intrinsics(width, height, matrix[0], matrix[4], matrix[2], matrix[5])
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error


def write_calibration(path: Path | str, intrinsics: Intrinsics, camera_name: str) -> None:
    """Write a ROS calibration file of a rectified camera, which :func:`read_calibration` reads.

    Args:
        path: File to write.
        intrinsics: The camera.
        camera_name: Name of the camera in the file.
    """
    fx, fy, cx, cy = intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy
    content = {
        "image_width": intrinsics.width,
        "image_height": intrinsics.height,
        "camera_name": camera_name,
        "camera_matrix": {"rows": 3, "cols": 3, "data": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
    }
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _natural_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
