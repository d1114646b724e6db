"""Pictures for people: depth, flow and motion mask as 8-bit BGR images."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.inference.projection import Float32, Mask, vector_length

Image = npt.NDArray[np.uint8]

INVALID_BGR = (64, 64, 64)
MASK_BGR = (40, 40, 255)

_WHEEL_SEGMENTS = (15, 6, 4, 11, 13, 6)
"""Steps from red to yellow, green, cyan, blue, magenta and back (Baker et al., IJCV 2011)."""


def depth_range(depth: Float32, low: float = 0.02, high: float = 0.95) -> tuple[float, float]:
    """Propose the ``near`` and ``far`` of :func:`render_depth` from one depth map.

    Compute it once, or let it follow slowly: a range that is taken anew from every frame makes the
    colours of a video flicker.

    Args:
        depth: (H, W), NaN where invalid.
        low: Quantile that becomes ``near``.
        high: Quantile that becomes ``far``.

    Returns:
        near and far; (1, 2) when no pixel is valid.
    """
    valid = depth[np.isfinite(depth) & (depth > 0)]
    if valid.size == 0:
        return 1.0, 2.0
    near, far = (float(value) for value in np.quantile(valid, (low, high)))
    return near, max(far, near * 1.01)


def to_bgr(image: Image) -> Image:
    """Return an RGB or gray picture, (H, W, 3) or (H, W), as BGR, (H, W, 3)."""
    code = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


def render_depth(depth: Float32, near: float, far: float) -> Image:
    """Colour depth with magma on inverse depth: near is bright, far is dark.

    Args:
        depth: (H, W), NaN where invalid.
        near: Depth of the brightest colour.
        far: Depth of the darkest colour.

    Returns:
        (H, W, 3) BGR; invalid pixels are gray.
    """
    is_valid = np.isfinite(depth) & (depth > 0)
    inverse = 1 / np.where(is_valid, depth, np.float32(far))
    scaled = (inverse - 1 / far) / (1 / near - 1 / far)
    levels = np.clip(scaled * 255, 0, 255).astype(np.uint8)
    image = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_MAGMA), np.uint8)
    image[~is_valid] = INVALID_BGR
    return image


def render_flow(flow: Float32, max_length_px: float) -> Image:
    """Colour flow with the Middlebury wheel: hue is direction, saturation is length.

    Rest is white; right is red, left is cyan, up is blue to violet, down is yellow to green. Longer
    vectors than ``max_length_px`` are darkened.

    Args:
        flow: (H, W, 2), pixels, +u right, +v down; pixels that are not finite become gray.
        max_length_px: Length with full saturation.

    Returns:
        (H, W, 3) BGR.
    """
    is_valid: Mask = np.isfinite(flow[..., 0]) & np.isfinite(flow[..., 1])
    scaled = np.where(is_valid[..., None], flow, np.float32(0)) / np.float32(max_length_px)
    finite: Float32 = scaled.astype(np.float32)
    length = vector_length(finite)
    wheel = _color_wheel()
    # The wheel begins with red, which is motion to the right: angle -pi of (-u, -v).
    turn = np.arctan2(-finite[..., 1], -finite[..., 0]) / (2 * np.pi) + 0.5
    position = turn * len(wheel)
    index = np.floor(position).astype(np.intp) % len(wheel)
    share = (position - np.floor(position))[..., None]
    color = wheel[index] * (1 - share) + wheel[(index + 1) % len(wheel)] * share
    length = length[..., None]
    color = np.where(length <= 1, 1 - length * (1 - color), color * 0.75)
    image = np.asarray(np.rint(color * 255), np.uint8)
    image[~is_valid] = INVALID_BGR
    return image


def render_mask(image: Image, mask: Mask | None, opacity: float = 0.55) -> Image:
    """Lay the motion mask over an image, with an outline.

    Args:
        image: (H, W, 3) BGR or (H, W) gray, of any size.
        mask: (h, w) bool, resized to the image; None leaves the image as it is.
        opacity: Of the mask's colour inside the outline.

    Returns:
        (H, W, 3) BGR.
    """
    canvas = to_bgr(image) if image.ndim == 2 else image.copy()
    if mask is None:
        return canvas
    height, width = canvas.shape[:2]
    size = (width, height)
    inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    is_inside = np.asarray(inside, np.bool_)
    color = np.array(MASK_BGR, np.float32)
    canvas[is_inside] = (canvas[is_inside] * (1 - opacity) + color * opacity).astype(np.uint8)
    outline = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    canvas[np.asarray(outline, np.bool_)] = MASK_BGR
    return canvas


@lru_cache(maxsize=1)
def _color_wheel() -> Float32:
    """Return the wheel as BGR rows in [0, 1], float32 so that pictures are computed in it."""
    corners = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64
    )
    rows = [
        corners[i] + (corners[i + 1] - corners[i]) * step / count
        for i, count in enumerate(_WHEEL_SEGMENTS)
        for step in range(count)
    ]
    return np.ascontiguousarray(np.array(rows, np.float32)[:, ::-1])
