"""Size of an image file from its first bytes, so that thousands of files need not be decoded."""

from __future__ import annotations

from pathlib import Path

from coopnet_core.data.images import decode_image, encoded_size, is_truncated
from coopnet_core.errors import DataError

# Enough for all but JPEG files with a preview before their size; these are read whole.
_HEAD_BYTES = 4096
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"


def read_size(path: Path) -> tuple[int, int]:
    """Read the size of an image file.

    Args:
        path: Image file. PNG and JPEG are not decoded, other formats are. Whether all of the file
            is there, :func:`check_file` tells.

    Returns:
        (width, height) in pixels.

    Raises:
        DataError: The file is missing, empty, or not an image.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            size = encoded_size(head)
            if size is not None:
                return size
            data = head + stream.read()
    except OSError as error:
        raise DataError(
            f"cannot read image {path}: {error.strerror}; check the data folder"
        ) from error
    size = encoded_size(data)
    if size is not None:
        return size
    height, width = decode_image(data, str(path)).shape[:2]
    return width, height


def check_file(path: Path) -> tuple[int, int]:
    """Read the size of an image file and check that its end is there, without decoding it.

    Args:
        path: Image file.

    Returns:
        (width, height) in pixels.

    Raises:
        DataError: The file is missing, empty, not an image, or a PNG or JPEG that was cut off.
    """
    size = read_size(path)
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(_PNG_END)))
        end = stream.read()
    # Some cameras write on behind the end; then only the whole file tells.
    if end != _PNG_END and not end.endswith(_JPEG_END) and is_truncated(path.read_bytes()):
        raise DataError(f"image {path} is truncated: its end marker is missing; copy it again")
    return size
