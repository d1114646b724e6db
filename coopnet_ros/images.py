"""Image messages to arrays and back, without copies where the encoding allows it.

The common encodings are viewed in place (row step and byte order respected). Everything else goes
to ``cv_bridge`` where it is installed. Outgoing pixels are copied once, through
``array.frombytes``: assigning a list or bytes to ``msg.data`` converts element by element and takes
hundreds of times as long.
"""

from __future__ import annotations

import array
import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from coopnet_core.errors import InputError

Array = npt.NDArray[Any]

# encoding -> (NumPy type, channels)
ENCODINGS: dict[str, tuple[str, int]] = {
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "8UC3": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    "32FC2": ("f4", 2),
}

_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
}


def array_from_image(msg: Image) -> Array:
    """View the pixels of an Image message as an array, without copying.

    Args:
        msg: A ``sensor_msgs/Image`` in one of ``ENCODINGS``.

    Returns:
        Array of shape (H, W) or (H, W, C). It shares memory with ``msg``, has the row step of the
        message as stride and its byte order as dtype.

    Raises:
        InputError: The encoding has no view, the size is zero, the row step is shorter than a row,
            or there are fewer bytes than height x row step asks for.
    """
    if msg.encoding not in ENCODINGS:
        raise InputError(
            f"image encoding '{msg.encoding}' cannot be viewed as an array, "
            f"expected one of {', '.join(ENCODINGS)}"
        )
    code, channels = ENCODINGS[msg.encoding]
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height == 0 or width == 0:
        raise InputError(
            f"image is empty ({width}x{height} pixels, {msg.encoding}): check the camera driver"
        )
    dtype = np.dtype(code).newbyteorder(">" if msg.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    if step < row:
        raise InputError(
            f"image row step is {step} bytes, but {width} pixels of {msg.encoding} need {row}"
        )
    # The last row may come without its padding.
    needed = (height - 1) * step + row
    if len(msg.data) < needed:
        raise InputError(
            f"image data is cut short: {width}x{height} {msg.encoding} with row step {step} needs "
            f"{needed} bytes, got {len(msg.data)}"
        )
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, channels * dtype.itemsize)
    if channels > 1:
        shape, strides = (*shape, channels), (*strides, dtype.itemsize)
    return np.ndarray(shape, dtype, buffer=memoryview(msg.data), strides=strides)


def rgb_from_image(msg: Image) -> npt.NDArray[np.uint8]:
    """Return a camera picture as 8-bit RGB or grey.

    mono8 and rgb8 stay views of the message; the other listed encodings cost one conversion; Bayer,
    YUV and the rest go through ``cv_bridge``.

    Args:
        msg: A ``sensor_msgs/Image`` that holds a picture.

    Returns:
        uint8 array, (H, W, 3) in RGB order or (H, W) grey. mono16 keeps its upper eight bits.

    Raises:
        InputError: The message is damaged, is a float or depth image, or has an encoding that needs
            ``cv_bridge`` where that is not installed or does not know it either.
    """
    encoding = msg.encoding
    if encoding in ("32FC1", "32FC2", "16UC1"):
        raise InputError(
            f"image encoding '{encoding}' holds measurements, not a picture: expected colour or "
            "grey (rgb8, bgr8, mono8, ...); check the image topic"
        )
    if encoding not in ENCODINGS:
        return _rgb_through_cv_bridge(msg)
    pixels = array_from_image(msg)
    if encoding in _TO_RGB:
        return np.asarray(cv2.cvtColor(pixels, _TO_RGB[encoding]), np.uint8)
    if encoding == "mono16":
        return (pixels >> 8).astype(np.uint8)
    return pixels


def rgb_from_compressed(msg: CompressedImage) -> npt.NDArray[np.uint8]:
    """Decode a JPEG or PNG CompressedImage into 8-bit RGB or grey.

    OpenCV fills the missing part of a truncated JPEG with grey and reports success, so the end
    marker is looked for first.

    Args:
        msg: A ``sensor_msgs/CompressedImage`` of a picture.

    Returns:
        uint8 array, (H, W, 3) in RGB order or (H, W) grey.

    Raises:
        InputError: Not JPEG or PNG, cut short, or not decodable.
    """
    data = memoryview(msg.data)
    _check_complete(data, msg.format)
    # cv2.error is OpenCV's own exception for a damaged stream; None is its other way of saying so.
    try:
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"compressed image ({msg.format}) cannot be decoded: {error}") from error
    if pixels is None:
        raise InputError(
            f"compressed image (format '{msg.format}', {len(data)} bytes) cannot be decoded: "
            "the data is damaged"
        )
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return np.asarray(pixels, np.uint8)


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
    # Published through a byte array: see the note at the top.
    data = array.array("B")
    data.frombytes(native.data.cast("B"))
    msg.data = data
    return msg


def compressed_from_bytes(
    encoded: bytes | memoryview, image_format: str, header: Header
) -> CompressedImage:
    """Make a CompressedImage from encoded bytes.

    Args:
        encoded: A whole JPEG or PNG file.
        image_format: What the ``format`` field shall say, such as ``jpeg`` or ``png``.
        header: Becomes the header of the message (not copied).

    Returns:
        ``sensor_msgs/CompressedImage``.
    """
    msg = CompressedImage(header=header, format=image_format)
    data = array.array("B")
    data.frombytes(encoded)
    msg.data = data
    return msg


def _check_complete(data: memoryview, image_format: str) -> None:
    if "compressedDepth" in image_format:
        raise InputError(
            f"compressed image format '{image_format}' is a depth image, expected a JPEG or PNG "
            "picture; check the image topic"
        )
    raw = bytes(data)
    if raw[:2] == b"\xff\xd8":
        is_complete, kind = _jpeg_is_complete(raw), "JPEG"
    elif raw[:8] == b"\x89PNG\r\n\x1a\n":
        is_complete, kind = raw.rfind(b"IEND") > 0, "PNG"
    else:
        raise InputError(
            f"compressed image (format '{image_format}', {len(raw)} bytes) is neither JPEG nor "
            "PNG: its first bytes are " + (raw[:8].hex(" ") or "missing")
        )
    if not is_complete:
        raise InputError(
            f"compressed image is a truncated {kind}: {len(raw)} bytes and no end marker"
        )


def _jpeg_is_complete(raw: bytes) -> bool:
    """Look for the end marker behind the start of scan (an embedded thumbnail has its own)."""
    position = 2
    while position + 4 <= len(raw):
        marker = raw[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if raw[position] != 0xFF:
            return False
        if marker == 0xDA:
            return raw.find(b"\xff\xd9", position) > 0
        position += 2 + int.from_bytes(raw[position + 2 : position + 4], "big")
    return False


def _rgb_through_cv_bridge(msg: Image) -> npt.NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise InputError(
            f"image encoding '{msg.encoding}' is not built in ({', '.join(ENCODINGS)}) and needs "
            "cv_bridge: install ros-$ROS_DISTRO-cv-bridge, or let the driver publish rgb8 or mono8"
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(msg, "rgb8"), np.uint8)
    except CvBridgeError as error:
        raise InputError(
            f"image encoding '{msg.encoding}' cannot be turned into rgb8 by cv_bridge: {error}"
        ) from error
