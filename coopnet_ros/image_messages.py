"""Arrays to Image messages.

Pixels are copied once, through ``array.frombytes``: assigning a list or bytes to ``msg.data``
converts element by element and takes hundreds of times as long.
"""

from __future__ import annotations

import array
import sys

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from coopnet_core.data.ros_images import ENCODINGS, Array
from coopnet_core.errors import InputError


def image_from_array(pixels: Array, encoding: str, header: Header) -> Image:
    """Make an Image message from an array.

    Args:
        pixels: (H, W) or (H, W, C), of the type and channels that ``encoding`` names. Any memory
            layout and byte order.
        encoding: One of ``ENCODINGS``.
        header: Becomes the header of the message (not copied).

    Returns:
        ``sensor_msgs/Image`` in this machine's byte order, rows without padding.

    Raises:
        InputError: The encoding is unknown, or the array has another type or shape.
    """
    if encoding not in ENCODINGS:
        raise InputError(
            f"cannot publish encoding '{encoding}', expected one of {', '.join(ENCODINGS)}"
        )
    code, channels = ENCODINGS[encoding]
    expected = np.dtype(code)
    found = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or found != channels or pixels.dtype.newbyteorder("=") != expected:
        raise InputError(
            f"{encoding} needs an array of {expected.name} with {channels} channel(s), "
            f"got {pixels.dtype.name} of shape {pixels.shape}"
        )
    native = np.ascontiguousarray(pixels, dtype=expected)
    msg = Image(header=header)
    msg.height, msg.width = int(native.shape[0]), int(native.shape[1])
    msg.encoding = encoding
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.step = msg.width * channels * expected.itemsize
    msg.data = message_bytes(native)
    return msg


def message_bytes(native: Array) -> array.array[int]:
    """Copy a contiguous array into what messages take as data: see the note at the top."""
    data = array.array("B")
    data.frombytes(native.data.cast("B"))
    return data


def millimetres(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return depth [m] as REP 118 has it in 16UC1: millimetres, 0 where invalid.

    Args:
        depth: (H, W), NaN where invalid.

    Returns:
        (H, W) uint16. What is closer than 0.5 mm or further than 65.535 m has no value in 16 bits
        and is 0 as well: a wall at the end of the range would be an obstacle that is not there.
    """
    scaled = np.rint(depth * np.float32(1000.0))
    is_valid = (scaled >= 1.0) & (scaled <= 65535.0)  # False for NaN
    return np.where(is_valid, scaled, np.float32(0.0)).astype(np.uint16)
