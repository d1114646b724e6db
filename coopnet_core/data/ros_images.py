"""Image messages to arrays, without copies where the encoding allows it (no ROS in here).

The common encodings are viewed in place (row step and byte order respected); the others are known
to ``coopnet_ros.images`` where ``cv_bridge`` is installed. Messages of rclpy and those that
``rosbags`` reads have the same fields, so both will do.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import decode_pixels, encoded_size, image_kind, is_truncated
from coopnet_core.errors import DataError, InputError

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


def array_from_image(msg: Any) -> Array:
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


def rgb_from_image(msg: Any) -> npt.NDArray[np.uint8]:
    """Return a camera picture as 8-bit RGB or grey.

    mono8 and rgb8 stay views of the message; the other listed encodings cost one conversion.

    Args:
        msg: A ``sensor_msgs/Image`` that holds a picture.

    Returns:
        uint8 array, (H, W, 3) in RGB order or (H, W) grey. mono16 keeps its upper eight bits.

    Raises:
        InputError: The message is damaged, is a float or depth image, or its encoding is not one of
            ``ENCODINGS``.
    """
    encoding = msg.encoding
    if encoding in ("32FC1", "32FC2", "16UC1"):
        raise InputError(
            f"image encoding '{encoding}' holds measurements, not a picture: expected colour or "
            "grey (rgb8, bgr8, mono8, ...); check the image topic"
        )
    pixels = array_from_image(msg)
    if encoding in _TO_RGB:
        return np.asarray(cv2.cvtColor(pixels, _TO_RGB[encoding]), np.uint8)
    if encoding == "mono16":
        return (pixels >> 8).astype(np.uint8)
    return pixels


def rgb_from_compressed(msg: Any) -> npt.NDArray[np.uint8]:
    """Decode a JPEG or PNG CompressedImage into 8-bit RGB or grey.

    Args:
        msg: A ``sensor_msgs/CompressedImage`` of a picture.

    Returns:
        uint8 array, (H, W, 3) in RGB order or (H, W) grey.

    Raises:
        InputError: Not JPEG or PNG, cut short, or not decodable.
    """
    data = bytes(msg.data)
    _check_is_picture(data, msg.format)
    try:
        return decode_pixels(data)
    except DataError as error:
        raise InputError(
            f"compressed image (format '{msg.format}', {len(data)} bytes) cannot be decoded: "
            f"{error}"
        ) from error


def picture_size(msg: Any) -> tuple[int, int]:
    """Return (width, height) as the message states it, without decoding; zeros where it does not.

    Args:
        msg: A ``sensor_msgs/Image``, or a ``sensor_msgs/CompressedImage``, whose header is read.
    """
    if hasattr(msg, "encoding"):
        return int(msg.width), int(msg.height)
    return encoded_size(bytes(msg.data)) or (0, 0)


def _check_is_picture(data: bytes, image_format: str) -> None:
    if "compressedDepth" in image_format:
        raise InputError(
            f"compressed image format '{image_format}' is a depth image, expected a JPEG or PNG "
            "picture; check the image topic"
        )
    kind = image_kind(data)
    if kind is None:
        raise InputError(
            f"compressed image (format '{image_format}', {len(data)} bytes) is neither JPEG nor "
            "PNG: its first bytes are " + (data[:8].hex(" ") or "missing")
        )
    if is_truncated(data):
        raise InputError(
            f"compressed image is a truncated {kind}: {len(data)} bytes and no end marker"
        )
