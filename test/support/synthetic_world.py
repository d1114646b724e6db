"""A small world with exact depth, flow and motion, drawn by casting one ray per pixel.

A street canyon: ground, two walls, an end wall, two parked boxes, and one box that may move by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid

Float64 = npt.NDArray[np.float64]

# Boxes as (lower corner, upper corner); optical axes: x right, y down, z forward. Metres.
_ROOM = ((-7.0, -5.0, -20.0), (9.0, 1.6, 45.0))
_PARKED = (((-6.0, -0.6, 9.0), (-3.2, 1.6, 14.0)), ((4.5, 0.0, 15.0), (7.0, 1.6, 19.0)))
_MOVER = ((0.2, -0.2, 8.0), (2.4, 1.6, 10.5))
MOVER_ID = 3


@dataclass(frozen=True)
class View:
    """What a camera sees: depth (H, W), object number (H, W), image (H, W) uint8."""

    depth: npt.NDArray[np.float32]
    object_id: npt.NDArray[np.intp]
    image: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """Two views with the exact flow between them and the exact motion of the camera."""

    cur: View
    prev: View
    flow_cur_prev: npt.NDArray[np.float32]
    flow_prev_cur: npt.NDArray[np.float32]
    T_prev_cur: Float64
    intrinsics: Intrinsics


def camera(width: int = 416, height: int = 128, focal: float = 0.58) -> Intrinsics:
    """Return a camera like KITTI's at this size; ``focal`` is relative to the width."""
    return Intrinsics(width, height, focal * width, focal * width, 0.49 * width, 0.48 * height)


def motion(
    forward: float = 0.0,
    right: float = 0.0,
    down: float = 0.0,
    yaw: float = 0.0,
    pitch: float = 0.0,
) -> Float64:
    """Return ``T_prev_cur`` of a step in metres and radians."""
    return rigid.exp(np.array([right, down, forward, pitch, yaw, 0.0]))


def render_pair(
    T_prev_cur: Float64,
    mover_step: tuple[float, float, float] | None = (0.0, 0.0, 0.0),
    intrinsics: Intrinsics | None = None,
) -> Pair:
    """Draw two frames; ``mover_step`` moves the third box between them, None removes it."""
    T_prev_cur = np.asarray(T_prev_cur, np.float64)
    return _render_pair(T_prev_cur.tobytes(), mover_step, intrinsics or camera())


@lru_cache(maxsize=64)
def _render_pair(
    motion_bytes: bytes, mover_step: tuple[float, float, float] | None, intrinsics: Intrinsics
) -> Pair:
    T_prev_cur = np.frombuffer(motion_bytes).reshape(4, 4)
    prev = _render(np.eye(4), (0.0, 0.0, 0.0) if mover_step is not None else None, intrinsics)
    cur = _render(T_prev_cur, mover_step, intrinsics)
    step = np.zeros(3) if mover_step is None else np.asarray(mover_step)
    T_cur_prev = rigid.invert(T_prev_cur)
    return Pair(
        cur=cur,
        prev=prev,
        flow_cur_prev=_flow(cur, T_prev_cur, -step, T_prev_cur[:3, :3].T, intrinsics),
        flow_prev_cur=_flow(prev, T_cur_prev, step, np.eye(3), intrinsics),
        T_prev_cur=T_prev_cur,
        intrinsics=intrinsics,
    )


def plane_pair(T_prev_cur: Float64, normal: tuple[float, float, float], distance: float) -> Pair:
    """Draw two frames of one plane, ``normal . X = distance`` in the previous camera."""
    intrinsics, n = camera(), np.asarray(normal) / np.linalg.norm(normal)

    def view(T_world_cam: Float64) -> View:
        directions = _rays(intrinsics) @ T_world_cam[:3, :3].T
        origin = T_world_cam[:3, 3]
        with np.errstate(divide="ignore"):
            depth = (distance - origin @ n) / (directions @ n)
        # Above the horizon there is a sky, far off.
        depth = np.where((depth > 0) & (depth < 200), depth, 200)
        object_id = np.zeros(depth.shape, np.intp)
        points = origin + directions * depth[..., None]
        return View(depth.astype(np.float32), object_id, _texture(points, object_id))

    cur, prev = view(T_prev_cur), view(np.eye(4))
    still = np.zeros(3)
    return Pair(
        cur,
        prev,
        _flow(cur, T_prev_cur, still, np.eye(3), intrinsics),
        _flow(prev, rigid.invert(T_prev_cur), still, np.eye(3), intrinsics),
        T_prev_cur,
        intrinsics,
    )


def with_moving_part(pair: Pair, T_prev_cur_part: Float64, fraction: float) -> Pair:
    """Let the left ``fraction`` of the picture move as one body, as if the camera moved so.

    Args:
        pair: Drawn by ``render_pair`` without its own mover.
        T_prev_cur_part: (4, 4), motion of the camera that the part suggests.
        fraction: Of the picture's width.
    """
    part = render_pair(T_prev_cur_part, None, pair.intrinsics)
    columns = slice(0, round(fraction * pair.intrinsics.width))

    def mixed(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
        result = a.copy()
        result[:, columns] = b[:, columns]
        return result

    def mixed_view(a: View, b: View) -> View:
        return View(
            mixed(a.depth, b.depth), mixed(a.object_id, b.object_id), mixed(a.image, b.image)
        )

    return replace(
        pair,
        cur=mixed_view(pair.cur, part.cur),
        prev=mixed_view(pair.prev, part.prev),
        flow_cur_prev=mixed(pair.flow_cur_prev, part.flow_cur_prev),
        flow_prev_cur=mixed(pair.flow_prev_cur, part.flow_prev_cur),
    )


def _rays(intrinsics: Intrinsics) -> Float64:
    u, v = np.meshgrid(np.arange(intrinsics.width), np.arange(intrinsics.height))
    x = (u - intrinsics.cx) / intrinsics.fx
    y = (v - intrinsics.cy) / intrinsics.fy
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def _render(
    T_world_cam: Float64, mover: tuple[float, float, float] | None, intrinsics: Intrinsics
) -> View:
    directions = _rays(intrinsics) @ T_world_cam[:3, :3].T
    origin = T_world_cam[:3, 3]
    boxes = [_ROOM, *_PARKED] + ([_MOVER] if mover is not None else [])
    offsets = [np.zeros(3)] * 3 + ([np.asarray(mover)] if mover is not None else [])
    depth = np.full(directions.shape[:2], np.inf)
    object_id = np.zeros(depth.shape, np.intp)
    for number, ((lower, upper), offset) in enumerate(zip(boxes, offsets, strict=True)):
        with np.errstate(divide="ignore"):
            a = (np.asarray(lower) + offset - origin) / directions
            b = (np.asarray(upper) + offset - origin) / directions
        enters = np.minimum(a, b).max(axis=-1)
        leaves = np.maximum(a, b).min(axis=-1)
        # The camera is inside the room and outside of everything else.
        hit = leaves if number == 0 else np.where((enters < leaves) & (enters > 0), enters, np.inf)
        object_id[hit < depth] = number
        depth = np.minimum(depth, hit)
    points = origin + directions * depth[..., None]
    points -= np.stack(offsets)[object_id]
    return View(depth.astype(np.float32), object_id, _texture(points, object_id))


def _texture(points: Float64, object_id: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    waves = np.random.default_rng(7).normal(size=(12, 3)) * np.geomspace(0.5, 6.0, 12)[:, None]
    value = sum(np.sin(points @ wave + number) for number, wave in enumerate(waves))
    return np.clip(128 + 22 * value + 12 * (object_id - 1), 0, 255).astype(np.uint8)


def _flow(
    view: View,
    T_other_view: Float64,
    mover_step: Float64,
    R_view_world: Float64,
    intrinsics: Intrinsics,
) -> npt.NDArray[np.float32]:
    rays = _rays(intrinsics)
    points = rays * view.depth.astype(np.float64)[..., None]
    points[view.object_id == MOVER_ID] += R_view_world @ mover_step
    points = points @ T_other_view[:3, :3].T + T_other_view[:3, 3]
    u = intrinsics.fx * points[..., 0] / points[..., 2] + intrinsics.cx
    v = intrinsics.fy * points[..., 1] / points[..., 2] + intrinsics.cy
    grid_v, grid_u = np.mgrid[: intrinsics.height, : intrinsics.width]
    return np.stack([u - grid_u, v - grid_v], axis=-1).astype(np.float32)
