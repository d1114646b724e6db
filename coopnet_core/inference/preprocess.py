"""From a camera image to the array that the networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import InputError
from coopnet_core.inference.bundle import InputInfo
from coopnet_core.inference.runtime import FloatArray

ImageArray = npt.NDArray[np.uint8]
Pair = tuple[FloatArray, FloatArray]
"""Current and previous image, (1, 3, H, W) each."""


_SHARP_FACTOR = 2
"""Points are polished on images of at most this many times the networks' size: more pixels cost
more time and no longer improve the motion."""


class PreparedImage(NamedTuple):
    """A camera image as the networks and as geometry take it.

    Attributes:
        network_input: (1, 3, height, width) float32 in [0, 1].
        gray: (height, width) uint8, the image at the networks' size in shades of gray.
        sharp: (h, w) uint8, in shades of gray, the camera's own size or at most twice the
            networks': points are matched on it.
    """

    network_input: FloatArray
    gray: ImageArray
    sharp: ImageArray


def prepare_image(
    image: ImageArray, width: int, height: int, color: Literal["gray", "rgb"]
) -> PreparedImage:
    """Resize an image and give it the colour that the networks know.

    Args:
        image: (H, W, 3) RGB or (H, W) mono, uint8, at any size.
        width: Width of the networks' input.
        height: Height of the networks' input.
        color: ``gray`` turns RGB into luminance (BT.601); a mono image is repeated either way.

    Returns:
        The image at the sizes that are needed; none of them shares memory with ``image``.

    Raises:
        InputError: The image is not uint8 or has another number of axes or channels.
    """
    is_mono = image.ndim == 2
    if image.dtype != np.uint8 or not (is_mono or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(
            "the image must be uint8 of shape (H, W, 3), RGB, or (H, W), mono; "
            f"got {image.dtype} {image.shape}"
        )
    if image.size == 0:
        raise InputError(f"the image is empty, shape {image.shape}")
    luminance = to_gray(image)
    sharp_size = (
        min(image.shape[1], _SHARP_FACTOR * width),
        min(image.shape[0], _SHARP_FACTOR * height),
    )
    sharp = _resize(luminance, sharp_size)
    network_input = np.empty((1, 3, height, width), np.float32)
    if is_mono or color == "gray":
        # Averages of averages over whole squares are the averages of the image.
        is_whole = sharp.shape == (_SHARP_FACTOR * height, _SHARP_FACTOR * width)
        gray = _resize(sharp if is_whole else luminance, (width, height))
        network_input[0] = gray
    else:
        resized = _resize(image, (width, height))
        gray = to_gray(resized)
        network_input[0] = resized.transpose(2, 0, 1)
    network_input *= np.float32(1 / 255)
    return PreparedImage(network_input, gray, sharp)


def _resize(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Resize to (width, height), with the filter of training: averages when shrinking."""
    if image.shape[1::-1] == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def prepare_pairs(info: InputInfo, frames: Sequence[tuple[ImageArray, ImageArray]]) -> list[Pair]:
    """Turn (current, previous) uint8 images into what a bundle's networks take."""

    def prepare(image: ImageArray) -> FloatArray:
        return prepare_image(image, info.width, info.height, info.color).network_input

    return [(prepare(current), prepare(previous)) for current, previous in frames]


def to_gray(image: ImageArray) -> ImageArray:
    """Return the luminance (BT.601) of an RGB image, (H, W); a mono image as a copy."""
    if image.ndim == 2:
        return image.copy()
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
