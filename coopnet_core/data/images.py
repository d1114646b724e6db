"""Decoding of images, and reading them from files with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
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
    if is_truncated(data):
        raise DataError(
            f"image {name} is truncated: its end marker is missing after {len(data)} bytes; "
            "copy it again"
        )
    try:
        return decode_pixels(data)
    except DataError as error:
        raise DataError(f"cannot decode image {name} ({len(data)} bytes): {error}") from error


def decode_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode an encoded image; OpenCV takes a cut-off one too, so ask :func:`is_truncated` first.

    Args:
        data: Encoded image in any format that OpenCV reads.

    Returns:
        uint8, (H, W) gray or (H, W, 3) RGB, as stored.

    Raises:
        DataError: It cannot be decoded. The message says why; the caller knows which image it was.
    """
    # A calibration is for the pixels as they are stored: no turning by what EXIF says.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # cv2.error is OpenCV's own exception for a damaged stream; None is its other way of saying so.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(str(error)) from error
    if image is None:
        raise DataError("it is damaged or not an image")
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image, dtype=np.uint8)


def image_kind(data: bytes) -> str | None:
    """Return ``JPEG`` or ``PNG`` after the first bytes of an encoded image; None for the rest."""
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    return "PNG" if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def is_truncated(data: bytes) -> bool:
    """Tell whether an encoded JPEG or PNG lacks its end; of other formats this cannot be told.

    OpenCV fills the missing part of a cut-off JPEG with gray and reports success.
    """
    kind = image_kind(data)
    if kind == "JPEG":
        return not _jpeg_has_end(data)
    # The last chunk of a PNG is empty, so its checksum is always the same.
    return kind == "PNG" and b"IEND\xaeB`\x82" not in data


def read_image16(path: Path) -> npt.NDArray[np.uint16]:
    """Read a 16-bit PNG that holds measurements (depth, disparity, flow).

    Args:
        path: PNG file.

    Returns:
        uint16, (H, W), or (H, W, 3) with the channels in the order of the file.

    Raises:
        DataError: The file is missing, truncated, no image, or does not have 16 bits.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not data or is_truncated(data):
        raise DataError(f"{path} is truncated after {len(data)} bytes; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"cannot decode {path}: {error}") from error
    if image is None or image.dtype != np.uint16:
        raise DataError(f"{path} must be a 16-bit PNG, but it is damaged or of another kind")
    if image.ndim == 3:
        image = image[:, :, ::-1]
    return np.ascontiguousarray(image, dtype=np.uint16)


def read_image_sized(
    path: Path, width: int, height: int, crop_bottom: int = 0
) -> npt.NDArray[np.uint8]:
    """Read an image that must have a certain size, that of its camera calibration.

    Args:
        path: Image file.
        width: Expected width in pixels.
        height: Expected height in pixels, without the rows to cut off.
        crop_bottom: Rows at the bottom of the file to cut off.

    Returns:
        uint8, (height, width) or (height, width, 3) RGB.

    Raises:
        DataError: The file cannot be read, or its size differs.
    """
    image = read_image(path)
    if image.shape[:2] != (height + crop_bottom, width):
        raise DataError(
            f"image {path} is {image.shape[1]}x{image.shape[0]}, but its camera calibration is for "
            f"{width}x{height + crop_bottom}: all images of a sequence must have the calibrated "
            "size"
        )
    return image[:height]


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) after the header of a JPEG or PNG; None where it cannot be told.

    A header that is damaged may name a size that takes seconds and gigabytes to decode, so ask
    before.
    """
    kind = image_kind(data)
    if kind == "PNG" and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    for marker, position in _jpeg_segments(data) if kind == "JPEG" else ():
        # Start of frame, of any coding; among their numbers are three other markers.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(data) < position + 9:
                return None
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
    return None


def _jpeg_has_end(data: bytes) -> bool:
    """Look for the end marker behind the start of scan (an embedded thumbnail has its own).

    Behind it 0xff is always stuffed, so that the end marker cannot be part of the picture.
    """
    for marker, position in _jpeg_segments(data):
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) > 0
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker and the position of each segment up to the start of scan."""
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if data[position] != 0xFF:
            return
        yield marker, position
        if marker == 0xDA:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
