"""Colours that people read."""

from __future__ import annotations

import numpy as np
import pytest

from coopnet_core.inference.rendering import (
    INVALID_BGR,
    MASK_BGR,
    depth_range,
    render_depth,
    render_flow,
    render_mask,
    to_bgr,
)


def test_near_is_brighter_than_far_and_invalid_is_gray() -> None:
    depth = np.array([[2.0, 5.0, 20.0, 80.0, np.nan, -1.0, np.inf]], np.float32)
    image = render_depth(depth, near=2.0, far=80.0)
    assert image.dtype == np.uint8
    assert image.shape == (1, 7, 3)
    brightness = image[0, :4].astype(int).sum(axis=-1)
    assert np.all(np.diff(brightness) < 0)
    for pixel in image[0, 4:]:
        assert tuple(pixel) == INVALID_BGR


def test_a_depth_has_the_same_colour_in_every_frame() -> None:
    first = render_depth(np.array([[10.0, 3.0]], np.float32), 3, 60)
    second = render_depth(np.array([[10.0, 50.0]], np.float32), 3, 60)
    np.testing.assert_array_equal(first[0, 0], second[0, 0])


def test_the_range_ignores_stray_values() -> None:
    depth = np.linspace(5, 50, 10_000).astype(np.float32)
    depth[:50] = 0.01
    depth[50:60] = np.nan
    near, far = depth_range(depth[None])
    assert 5 < near < 8
    assert 45 < far < 50
    assert depth_range(np.full((2, 2), np.nan, np.float32)) == (1.0, 2.0)
    near, far = depth_range(np.full((2, 2), 7.0, np.float32))
    assert near < far


@pytest.mark.parametrize(
    ("u", "v", "bgr"),
    [
        (1.0, 0.0, (0, 0, 255)),  # right: red
        (0.0, 0.0, (255, 255, 255)),  # rest: white
        (0.5, 0.0, (128, 128, 255)),  # slow right: pale red
        (9.0, 0.0, (0, 0, 191)),  # beyond the range: dark
        (np.nan, 0.0, INVALID_BGR),
    ],
)
def test_flow_colours(u: float, v: float, bgr: tuple[int, int, int]) -> None:
    image = render_flow(np.array([[[u, v]]], np.float32), max_length_px=1.0)
    np.testing.assert_allclose(image[0, 0].astype(int), bgr, atol=1)


def test_flow_hues_follow_the_middlebury_wheel() -> None:
    flow = np.array([[[-1, 0], [0, 1], [0, -1]]], np.float32)
    left, down, up = render_flow(flow, 1.0)[0].astype(int)
    blue, green, red = 0, 1, 2
    assert left[red] < 60
    assert min(left[blue], left[green]) > 100  # cyan
    assert min(down[red], down[green]) > 180  # yellow
    assert down[blue] == 0
    assert up[blue] == 255  # violet
    assert up[green] < 60


def test_the_wheel_has_no_seam() -> None:
    angles = np.linspace(-np.pi, np.pi, 721)
    flow = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None].astype(np.float32)
    colors = render_flow(flow * np.float32(0.999), 1.0)[0].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() < 20


def test_pictures_turn_to_bgr() -> None:
    rgb = np.array([[[1, 2, 3]]], np.uint8)
    assert to_bgr(rgb).tolist() == [[[3, 2, 1]]]
    assert to_bgr(rgb[..., 0]).tolist() == [[[1, 1, 1]]]


def test_the_mask_is_laid_over_the_image() -> None:
    image = np.full((40, 60), 100, np.uint8)
    mask = np.zeros((20, 30), np.bool_)
    mask[5:15, 10:20] = True
    overlay = render_mask(image, mask)
    assert overlay.shape == (40, 60, 3)
    assert tuple(overlay[0, 0]) == (100, 100, 100)
    inside = overlay[20, 30].astype(int)
    assert inside[2] > inside[0]
    assert tuple(overlay[10, 20]) == MASK_BGR
    assert np.all(image == 100)


def test_no_mask_leaves_the_image() -> None:
    image = np.full((4, 6, 3), 7, np.uint8)
    overlay = render_mask(image, None)
    np.testing.assert_array_equal(overlay, image)
    assert overlay is not image
