"""Image pairs to learn from: neighbours in time, and stereo partners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import DataError
from coopnet_core.geometry.intrinsics import Intrinsics

# Mean absolute difference of two thumbnails, in [0, 1], below which a camera that moves at all is
# not to be seen.
DEFAULT_MIN_MOTION = 0.01
_THUMBNAIL_WIDTH = 104


@dataclass(frozen=True)
class PairRecord:
    """A target and a source image of cameras with the same intrinsics.

    Attributes:
        path_tgt: Target image.
        path_src: Source image.
        intrinsics: Camera of both at their native size.
        T_src_tgt: Known metric pose, 16 numbers row by row (``p_src = T_src_tgt @ p_tgt``), as
            between stereo partners; None for a pair in time, whose motion is unknown.
        sequence: Name of the sequence.
        index_tgt: Frame number of the target.
        index_src: Frame number of the source.
        crop_bottom: Rows at the bottom of the files that are not part of the images.
        motion_tgt: Picture of what moves by itself in the target, or None.
    """

    path_tgt: Path
    path_src: Path
    intrinsics: Intrinsics
    T_src_tgt: tuple[float, ...] | None
    sequence: str
    index_tgt: int
    index_src: int
    crop_bottom: int = 0
    motion_tgt: Path | None = None


def temporal_pairs(
    sequence: Sequence,
    gaps: Iterable[int] = (1,),
    min_motion: float = DEFAULT_MIN_MOTION,
) -> list[PairRecord]:
    """Pair each frame with an earlier one.

    A pair in which the picture does not change teaches nothing about depth and is left out: its
    mean absolute difference, on gray thumbnails with values in [0, 1], is below ``min_motion``.

    Args:
        sequence: The sequence.
        gaps: Distances in frames (frame numbers, so that holes are not bridged), each >= 1.
        min_motion: Threshold in [0, 1]; 0 keeps every pair and reads no image.

    Returns:
        Pairs with target = the later frame and unknown pose.

    Raises:
        DataError: A gap is not positive or an image cannot be read.
    """
    position = {index: place for place, index in enumerate(sequence.indices)}
    motion = sequence.motion_paths
    thumbnails: dict[int, npt.NDArray[np.float32]] = {}

    def thumbnail(place: int) -> npt.NDArray[np.float32]:
        if place not in thumbnails:
            image = read_image(sequence.paths[place])
            thumbnails[place] = thumbnail_of(image[: image.shape[0] - sequence.crop_bottom])
        return thumbnails[place]

    records = []
    for gap in gaps:
        if gap < 1:
            raise DataError(f"the gap of a temporal pair must be 1 or more, got {gap}")
        for place_tgt, index_tgt in enumerate(sequence.indices):
            place_src = position.get(index_tgt - gap)
            if place_src is None or not _is_target(sequence, index_tgt):
                continue
            if min_motion > 0 and (
                change_between(thumbnail(place_tgt), thumbnail(place_src)) < min_motion
            ):
                continue
            records.append(
                PairRecord(
                    path_tgt=sequence.paths[place_tgt],
                    path_src=sequence.paths[place_src],
                    intrinsics=sequence.intrinsics,
                    T_src_tgt=None,
                    sequence=sequence.name,
                    index_tgt=index_tgt,
                    index_src=index_tgt - gap,
                    crop_bottom=sequence.crop_bottom,
                    motion_tgt=None if motion is None else motion[place_tgt],
                )
            )
    return records


def stereo_pairs(sequence: Sequence) -> list[PairRecord]:
    """Pair each left frame with its right partner, whose pose is known in metres.

    The right camera sits at x = +baseline of the left one, so ``p_right = p_left - (b, 0, 0)``.

    Args:
        sequence: A sequence with a right camera; frames without a right image are left out.

    Returns:
        Pairs with target = left, source = right.

    Raises:
        DataError: The sequence has no right camera.
    """
    if sequence.right_paths is None or sequence.baseline_m is None:
        raise DataError(f"sequence {sequence.name} has no right camera, so no stereo pairs")
    T_src_tgt = np.eye(4)
    T_src_tgt[0, 3] = -sequence.baseline_m
    return [
        PairRecord(
            path_tgt=left,
            path_src=right,
            intrinsics=sequence.intrinsics,
            T_src_tgt=tuple(float(value) for value in T_src_tgt.ravel()),
            sequence=sequence.name,
            index_tgt=index,
            index_src=index,
            crop_bottom=sequence.crop_bottom,
        )
        for left, right, index in zip(
            sequence.paths, sequence.right_paths, sequence.indices, strict=True
        )
        if right is not None and _is_target(sequence, index)
    ]


def thumbnail_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a small gray copy of a picture, (h, w) float32 in [0, 1]."""
    if image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    height = max(1, round(image.shape[0] * _THUMBNAIL_WIDTH / image.shape[1]))
    small = cv2.resize(image, (_THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def change_between(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Return the mean absolute difference of two thumbnails, in [0, 1]."""
    return float(np.abs(a - b).mean())


def _is_target(sequence: Sequence, index: int) -> bool:
    return sequence.targets is None or index in sequence.targets
