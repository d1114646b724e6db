"""A picture of pictures: sampled frames of every source of a check, with their names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.check import NUM_PICTURES, Report
from coopnet_core.errors import DataError

Picture = npt.NDArray[np.uint8]

_TILE_WIDTH = 320
# What OpenCV can still write.
_MAX_ROWS = 200
_MARGIN = 8
_LINE = 22
_TEXT_RGB = (230, 230, 230)
_BAD_RGB = (255, 140, 120)
_GROUND = 32


def write_contact_sheet(reports: list[Report], path: Path) -> None:
    """Write the sheet: a heading and a row of frames per source.

    Args:
        reports: Of a check; the first 200 are drawn.
        path: PNG file to write.

    Raises:
        DataError: It cannot be written.
    """
    sheet = np.concatenate([_row(report) for report in reports[:_MAX_ROWS]])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_written = cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    except (OSError, cv2.error) as error:
        raise DataError(f"cannot write {path}: {error}") from error
    if not is_written:
        raise DataError(f"cannot write {path}: is the disk full, or the folder read-only?")


def _row(report: Report) -> Picture:
    width = NUM_PICTURES * (_TILE_WIDTH + _MARGIN) + _MARGIN
    heading = np.full((_LINE + 2 * _MARGIN, width, 3), _GROUND + 20, np.uint8)
    text = f"{report.found.kind}  {report.found.name}:  {report.num_frames} frames"
    colour = _TEXT_RGB
    if report.problems:
        text += f",  {len(report.problems)} problems"
        colour = _BAD_RGB
    _write(heading, text, (_MARGIN, _LINE), 0.6, colour)
    if not report.pictures:
        return heading
    height = max(picture.shape[0] for _, picture in report.pictures)
    body = np.full((height + _LINE + 2 * _MARGIN, width, 3), _GROUND, np.uint8)
    for place, (caption, picture) in enumerate(report.pictures):
        left = _MARGIN + place * (_TILE_WIDTH + _MARGIN)
        body[_MARGIN : _MARGIN + picture.shape[0], left : left + picture.shape[1]] = picture
        _write(body, caption, (left, height + _MARGIN + _LINE - 6), 0.42, _TEXT_RGB)
    return np.concatenate([heading, body])


def _write(
    image: Picture, text: str, corner: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> None:
    # OpenCV's font has ASCII alone.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(image, plain, corner, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
