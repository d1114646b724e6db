"""Scores of a motion mask where only rough boxes around moving things are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import ShapeError

Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MotionScore:
    """Score of one mask.

    Attributes:
        false_alarm_fraction: Flagged fraction of the pixels that lie outside every box.
        box_fractions: Flagged fraction of each moving box. A box holds background as well, so even
            a perfect mask stays well below 1.
    """

    false_alarm_fraction: float
    box_fractions: tuple[float, ...]


def motion_score(
    mask: Mask,
    moving: Sequence[Box],
    ignored: Sequence[Box],
    image_size: tuple[int, int],
    margin_px: float = 0.0,
) -> MotionScore:
    """Score a motion mask against hand-drawn boxes.

    Args:
        mask: (H, W) bool, at any size.
        moving: Boxes (left, top, right, bottom) around what moves, in pixels of the image.
        ignored: Boxes of which nobody knows whether they move; scored neither way.
        image_size: Width and height of the image that the boxes belong to.
        margin_px: Boxes are grown by this much (image pixels) before counting false alarms, since
            a mask from a coarser grid spills over their edges.

    Returns:
        The score.

    Raises:
        ShapeError: The mask is not two-dimensional.
    """
    if mask.ndim != 2:
        raise ShapeError(f"a motion mask must be (H, W), got {mask.shape}")
    is_scored = np.ones(mask.shape, dtype=bool)
    for box in (*moving, *ignored):
        is_scored[_slices(box, mask.shape, image_size, margin_px)] = False
    fractions = []
    for box in moving:
        inside = mask[_slices(box, mask.shape, image_size, 0.0)]
        fractions.append(float(inside.mean()) if inside.size else 0.0)
    outside = mask[is_scored]
    return MotionScore(float(outside.mean()) if outside.size else 0.0, tuple(fractions))


def _slices(
    box: Box, shape: tuple[int, ...], image_size: tuple[int, int], margin_px: float
) -> tuple[slice, slice]:
    sx, sy = shape[1] / image_size[0], shape[0] / image_size[1]
    left, top = (box[0] - margin_px) * sx, (box[1] - margin_px) * sy
    right, bottom = (box[2] + margin_px) * sx, (box[3] + margin_px) * sy
    return (
        slice(max(0, int(np.floor(top))), max(0, int(np.ceil(bottom)))),
        slice(max(0, int(np.floor(left))), max(0, int(np.ceil(right)))),
    )
