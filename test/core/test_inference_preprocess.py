"""Images as the networks take them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from tiny_bundle import textured_image

from coopnet_core.errors import InputError
from coopnet_core.inference.preprocess import prepare_image, to_gray


def test_gray_bundles_see_luminance_in_all_channels() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[...] = (100, 200, 50)
    network_input, gray, _ = prepare_image(image, 6, 4, "gray")
    luminance = round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)
    assert np.all(gray == luminance)
    np.testing.assert_allclose(network_input, luminance / 255, rtol=1e-6)
    assert network_input.shape == (1, 3, 4, 6)
    assert network_input.dtype == np.float32


def test_rgb_bundles_see_the_channels_in_order() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[...] = (255, 0, 51)
    network_input = prepare_image(image, 6, 4, "rgb").network_input
    np.testing.assert_allclose(network_input[0, :, 0, 0], [1.0, 0.0, 0.2], rtol=1e-6)


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_mono_is_repeated(color: Any) -> None:
    image = textured_image(64, 32)[..., 0].copy()
    network_input, gray, _ = prepare_image(image, 64, 32, color)
    np.testing.assert_array_equal(gray, image)
    for channel in network_input[0]:
        np.testing.assert_allclose(channel, image / 255, atol=1e-6)


def test_shrinking_averages_areas() -> None:
    image = np.kron([[0, 200], [100, 40]], np.ones((2, 2))).astype(np.uint8)
    image[0, 0] = 80
    gray = prepare_image(image, 2, 2, "gray").gray
    assert gray.tolist() == [[20, 200], [100, 40]]


def test_the_callers_image_is_not_changed_or_kept() -> None:
    image = textured_image(64, 32)[..., 0].copy()
    prepared = prepare_image(image, 64, 32, "gray")
    before = [array.copy() for array in prepared]
    image[:] = 0
    for array, expected in zip(prepared, before, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("size", "expected"), [((60, 30), (60, 30)), ((100, 50), (100, 50)), ((310, 97), (128, 64))]
)
def test_the_sharp_image_is_the_cameras_own_or_twice_the_networks(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = textured_image(*size)
    sharp = prepare_image(image, 64, 32, "gray").sharp
    assert sharp.shape == expected[::-1]


def test_large_images_are_averaged_once_or_in_two_steps_alike() -> None:
    image = textured_image(310, 97)
    at_once = cv2.resize(to_gray(image), (64, 32), interpolation=cv2.INTER_AREA)
    gray = prepare_image(image, 64, 32, "gray").gray
    # Rounding to whole gray levels happens twice.
    np.testing.assert_allclose(gray.astype(int), at_once.astype(int), atol=1)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros(4, np.uint8),
        np.zeros((0, 6), np.uint8),
    ],
)
def test_other_arrays_are_refused(image: Any) -> None:
    with pytest.raises(InputError, match="image"):
        prepare_image(image, 64, 32, "gray")
