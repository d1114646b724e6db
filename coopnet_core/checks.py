"""Shape checks for public boundaries."""

from __future__ import annotations

from typing import Any

from coopnet_core.errors import ShapeError

SIZE_MULTIPLE = 32
"""Width and height of what the networks see must be multiples of this, their deepest stride."""


def check_shape(name: str, value: Any, *pattern: int | str) -> dict[str, int]:
    """Check an array or tensor against a pattern such as ``("B", 3, "H", "W")``.

    Args:
        name: Name of the argument, for the message.
        value: Anything with a ``shape``.
        *pattern: One entry per axis: a fixed size, or a letter that stands for any size (the same
            letter must stand for the same size).

    Returns:
        The size of each letter.

    Raises:
        ShapeError: The number of axes or a size differs.
    """
    shape = tuple(int(size) for size in value.shape)
    sizes: dict[str, int] = {}
    fits = len(shape) == len(pattern)
    if fits:
        for size, expected in zip(shape, pattern, strict=True):
            wanted = sizes.setdefault(expected, size) if isinstance(expected, str) else expected
            fits = fits and size == wanted
    if not fits:
        wanted_text = ", ".join(str(entry) for entry in pattern)
        raise ShapeError(f"{name} must have shape ({wanted_text}), got {shape}")
    return sizes


def check_image_size(name: str, image: Any) -> None:
    """Check that the two last axes, height and width, suit the networks.

    Raises:
        ShapeError: One is not a positive multiple of 32; the message proposes the nearest that is.
    """
    for axis, size in zip(("height", "width"), image.shape[-2:], strict=True):
        if size <= 0 or size % SIZE_MULTIPLE:
            nearest = max(SIZE_MULTIPLE, round(int(size) / SIZE_MULTIPLE) * SIZE_MULTIPLE)
            raise ShapeError(
                f"{name}: {axis} must be a multiple of {SIZE_MULTIPLE}, got {size}: use {nearest}"
            )
