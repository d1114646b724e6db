"""Size of an image file from its first bytes, so that thousands of files need not be decoded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from coopnet_core.data.images import decode_image, image_kind, is_truncated
from coopnet_core.errors import DataError

# Start-of-frame markers of a JPEG: all of 0xc0 to 0xcf but tables (c4), reserved (c8) and
# arithmetic conditioning (cc).
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Enough for all but JPEG files with a preview before their size; these are read whole.
_HEAD_BYTES = 4096
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
# PNG colour type -> channels; a palette is decoded to colour.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class ImageHeader(NamedTuple):
    """What the header of an image file says."""

    width: int
    height: int
    channels: int


def read_header(path: Path) -> ImageHeader:
    """Read the size of an image file.

    Args:
        path: Image file. PNG and JPEG are not decoded, other formats are. Whether all of the file
            is there, :func:`check_file` tells.

    Returns:
        Size in pixels and number of channels.

    Raises:
        DataError: The file is missing, empty, or not an image.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(
            f"cannot read image {path}: {error.strerror}; check the data folder"
        ) from error
    header = header_of(head)
    if header is not None:
        return header
    data = path.read_bytes()
    header = header_of(data)
    if header is not None:
        return header
    image = decode_image(data, str(path))
    return ImageHeader(image.shape[1], image.shape[0], 1 if image.ndim == 2 else image.shape[2])


def check_file(path: Path) -> ImageHeader:
    """Read the size of an image file and check that its end is there, without decoding it.

    Args:
        path: Image file.

    Returns:
        What its header says.

    Raises:
        DataError: The file is missing, empty, not an image, or a PNG or JPEG that was cut off.
    """
    header = read_header(path)
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(_PNG_END)))
        end = stream.read()
    # Some cameras write on behind the end; then only the whole file tells.
    if end != _PNG_END and not end.endswith(_JPEG_END) and is_truncated(path.read_bytes()):
        raise DataError(f"image {path} is truncated: its end marker is missing; copy it again")
    return header


def header_of(head: bytes) -> ImageHeader | None:
    """Return what the first bytes of a PNG or JPEG say; None where they do not say it."""
    kind = image_kind(head)
    if kind == "PNG" and len(head) >= 26 and head[25] in _PNG_CHANNELS:
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        return ImageHeader(width, height, _PNG_CHANNELS[head[25]])
    position = 2
    while kind == "JPEG" and position + 10 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if marker in _START_OF_FRAME:
            height = int.from_bytes(head[position + 5 : position + 7], "big")
            width = int.from_bytes(head[position + 7 : position + 9], "big")
            return ImageHeader(width, height, head[position + 9])
        # A marker may be preceded by fill bytes.
        step = 1 if marker == 0xFF else 2 + int.from_bytes(head[position + 2 : position + 4], "big")
        position += step
    return None
