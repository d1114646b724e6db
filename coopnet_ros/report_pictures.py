"""The pictures of the report: four panels per frame, and one still image of all four."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.inference.rendering import render_depth, render_flow, render_mask, to_bgr
from coopnet_ros.report_data import Frame, Run

Picture = npt.NDArray[np.uint8]

_JPEG_QUALITY = 82
_STILL_GAP_PX = 8


@dataclass(frozen=True)
class Panels:
    """The four pictures of one frame, BGR, of one size; None where there is none."""

    image: Picture
    depth: Picture | None
    flow: Picture | None
    motion: Picture | None

    def named(self) -> list[tuple[str, Picture]]:
        """Return the pictures that are there, with the names that people read."""
        panels = (
            ("camera image", self.image),
            ("depth", self.depth),
            ("optical flow", self.flow),
            ("motion mask", self.motion),
        )
        return [(name, picture) for name, picture in panels if picture is not None]


def draw_panels(frame: Frame, run: Run) -> Panels:
    """Draw a frame, with one colour scale for the whole run.

    Args:
        frame: The frame.
        run: The run that it is part of.

    Returns:
        The panels; depth and flow keep the size that the node gave them.
    """
    image = to_bgr(frame.image)
    return Panels(
        image=image,
        depth=(
            None
            if frame.depth is None
            else render_depth(frame.depth, run.depth_near, run.depth_far)
        ),
        flow=None if frame.flow is None else render_flow(frame.flow, run.flow_full_px),
        motion=None if frame.mask is None else render_mask(_dimmed(image), frame.mask),
    )


def jpeg_url(picture: Picture) -> str:
    """Return a picture as a ``data:`` URL."""
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def png_url(picture: Picture) -> str:
    """Return a picture as a ``data:`` URL without loss."""
    encoded = cv2.imencode(".png", picture)[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def flow_wheel(size: int = 96) -> Picture:
    """Return the legend of flow colours, (size, size, 4) BGRA, transparent around the disc."""
    axis = np.linspace(-1, 1, size * 2, dtype=np.float32)
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    length = np.linalg.norm(flow, axis=-1)
    wheel = render_flow(np.asarray(flow, np.float32), 1.0)
    alpha = np.where(length <= 1, 255, 0).astype(np.uint8)
    disc = np.dstack([wheel, alpha])
    return np.asarray(cv2.resize(disc, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def depth_bar(near: float, far: float, width: int = 160, height: int = 10) -> Picture:
    """Return the legend of depth colours, near on the left, linear in inverse depth."""
    inverse = np.linspace(1 / near, 1 / far, width, dtype=np.float32)
    row = np.tile(1 / inverse, (height, 1)).astype(np.float32)
    return render_depth(row, near, far)


def still(panels: Panels, width: int = 1280) -> Picture:
    """Put the four panels into one picture, two by two, with their names.

    Args:
        panels: The panels of a frame.
        width: Width of the picture in pixels.

    Returns:
        (H, width, 4) BGRA; the gap between the panels is transparent, so that it stands on light
        and dark pages alike.
    """
    named = panels.named()
    columns = 2 if len(named) > 1 else 1
    cell_w = (width - (columns - 1) * _STILL_GAP_PX) // columns
    cell_h = round(cell_w * panels.image.shape[0] / panels.image.shape[1])
    rows = -(-len(named) // columns)
    canvas = np.zeros((rows * cell_h + (rows - 1) * _STILL_GAP_PX, width, 4), np.uint8)
    for index, (name, picture) in enumerate(named):
        grown = picture.shape[1] < cell_w
        filter_kind = cv2.INTER_CUBIC if grown else cv2.INTER_AREA
        cell = cv2.resize(picture, (cell_w, cell_h), interpolation=filter_kind).astype(np.uint8)
        _write_name(cell, name)
        y = index // columns * (cell_h + _STILL_GAP_PX)
        x = index % columns * (cell_w + _STILL_GAP_PX)
        canvas[y : y + cell_h, x : x + cell_w, :3] = cell
        canvas[y : y + cell_h, x : x + cell_w, 3] = 255
    return canvas


def _write_name(cell: Picture, name: str) -> None:
    font, scale, thickness, pad = cv2.FONT_HERSHEY_DUPLEX, 0.52, 1, 8
    (text_w, text_h), _ = cv2.getTextSize(name, font, scale, thickness)
    box = cell[: text_h + 2 * pad + 2, : text_w + 2 * pad]
    box[:] = (box * 0.35).astype(np.uint8)
    origin = (pad, pad + text_h)
    cv2.putText(cell, name, origin, font, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def _dimmed(image: Picture) -> Picture:
    """Darken the picture under the mask, so that the mask stands out."""
    return (image * 0.6).astype(np.uint8)
