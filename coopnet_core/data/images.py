"""Reading single images with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: Image file in any format that OpenCV reads.

    Returns:
        uint8, (H, W) for a gray file or (H, W, 3) RGB for a colour file.

    Raises:
        DataError: The file is missing, empty, truncated or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read image {path}: {error.strerror}; check the data folder"
        ) from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode the bytes of an image file; see :func:`read_image`.

    Args:
        data: Encoded image.
        name: What to call the image in an error.

    Returns:
        uint8, (H, W) gray or (H, W, 3) RGB.

    Raises:
        DataError: The bytes are empty, truncated or no image.
    """
    if not data:
        raise DataError(f"image {name} is empty (0 bytes); copy it again")
    if _is_truncated(data):
        raise DataError(
            f"image {name} is truncated: its end marker is missing after {len(data)} bytes; "
            "copy it again"
        )
    # A calibration is for the pixels as they are stored: no turning by what EXIF says.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise DataError(
            f"cannot decode image {name} ({len(data)} bytes): it is damaged or not an image"
        )
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image, dtype=np.uint8)


def read_image_sized(path: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Read an image that must have a certain size, that of its camera calibration.

    Args:
        path: Image file.
        width: Expected width in pixels.
        height: Expected height in pixels.

    Returns:
        uint8, (height, width) or (height, width, 3) RGB.

    Raises:
        DataError: The file cannot be read, or its size differs.
    """
    image = read_image(path)
    if image.shape[:2] != (height, width):
        raise DataError(
            f"image {path} is {image.shape[1]}x{image.shape[0]}, but its camera calibration is for "
            f"{width}x{height}: all images of a sequence must have the calibrated size"
        )
    return image


def _is_truncated(data: bytes) -> bool:
    # OpenCV fills the missing part of a cut-off JPEG with gray and reports success. Inside
    # entropy-coded data 0xff is always stuffed, so an end marker (d9) can follow the last start of
    # scan (da) only when the image is complete.
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda") or b"\xff\xd9" not in data
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return False
