"""Shape checks for public boundaries."""

from __future__ import annotations

from typing import Any

from coopnet_core.errors import ShapeError


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


def check_multiple(name: str, value: int, factor: int) -> None:
    """Check that a size is a positive multiple of ``factor``.

    Raises:
        ShapeError: It is not; the message proposes the nearest size that is.
    """
    if value <= 0 or value % factor:
        nearest = max(factor, round(value / factor) * factor)
        raise ShapeError(f"{name} must be a multiple of {factor}, got {value}: use {nearest}")
