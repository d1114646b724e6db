"""From a camera image to the array that the networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.errors import InputError
from coopnet_core.inference.bundle import InputInfo
from coopnet_core.inference.runtime import FloatArray

ImageArray = npt.NDArray[np.uint8]
Pair = tuple[FloatArray, FloatArray]
"""Current and previous image, (1, 3, H, W) each."""


def prepare_image(
    image: ImageArray, width: int, height: int, color: Literal["gray", "rgb"]
) -> tuple[FloatArray, ImageArray]:
    """Resize an image and give it the colour that the networks know.

    Args:
        image: (H, W, 3) RGB or (H, W) mono, uint8, at any size.
        width: Width of the networks' input.
        height: Height of the networks' input.
        color: ``gray`` turns RGB into luminance (BT.601); a mono image is repeated either way.

    Returns:
        The network input, (1, 3, height, width) float32 in [0, 1], and the resized image in
        shades of gray, (height, width) uint8.

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
    if not is_mono and color == "gray":
        image = to_gray(image)
        is_mono = True
    if image.shape[:2] != (height, width):
        # The same filter as in training: averaging when shrinking, linear when growing.
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        image = np.asarray(resized, np.uint8)
    gray = image if is_mono else to_gray(image)
    network_input = np.empty((1, 3, height, width), np.float32)
    if is_mono:
        network_input[0] = image
    else:
        network_input[0] = image.transpose(2, 0, 1)
    network_input *= np.float32(1 / 255)
    return network_input, gray


def prepare_pairs(info: InputInfo, frames: Sequence[tuple[ImageArray, ImageArray]]) -> list[Pair]:
    """Turn (current, previous) uint8 images into what a bundle's networks take."""

    def prepare(image: ImageArray) -> FloatArray:
        return prepare_image(image, info.width, info.height, info.color)[0]

    return [(prepare(current), prepare(previous)) for current, previous in frames]


def to_gray(image: ImageArray) -> ImageArray:
    """Return the luminance (BT.601) of an RGB image, (H, W); a mono image as a copy."""
    if image.ndim == 2:
        return image.copy()
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
