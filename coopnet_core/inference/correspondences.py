"""Points of one frame and their place in the other one, from dense flow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.frame_pair import Gray
from coopnet_core.inference.projection import MIN_DEPTH, Float32, Float64, Mask, is_consistent

_POLISH_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 5, 0.03)


@dataclass(frozen=True)
class Tracks:
    """N points of one frame and where they are in the other one.

    Attributes:
        pixel: (N, 2) int, in the frame.
        flow: (N, 2) pixels, how they get into the other frame.
        is_polished: (N,) bool, ``flow`` was refined on the images.
    """

    pixel: npt.NDArray[np.int64]
    flow: Float64
    is_polished: Mask


@dataclass(frozen=True)
class Matches:
    """What two images and the flow between them say without depth.

    Attributes:
        cur: Points of the current frame, followed into the previous one.
        prev: Points of the previous frame, followed into the current one.
        num_tried: How many points were tried.
        textured_fraction: See :func:`textured_fraction`, of the current image.
    """

    cur: Tracks
    prev: Tracks
    num_tried: int
    textured_fraction: float


@dataclass(frozen=True)
class Points:
    """N points of one frame, with depth.

    Attributes:
        pixel: (N, 2), in the frame.
        depth: (N,), positive.
        flow: (N, 2) pixels, how they get into the other frame.
        is_polished: (N,) bool, ``flow`` was refined on the images.
    """

    pixel: Float64
    depth: Float64
    flow: Float64
    is_polished: Mask

    @property
    def target(self) -> Float64:
        """Pixels in the other frame, (N, 2)."""
        return self.pixel + self.flow


def find_matches(
    flow_cur_prev: Float32,
    flow_prev_cur: Float32,
    gray_cur: Gray,
    sharp_cur: Gray | None,
    sharp_prev: Gray | None,
    config: EgomotionConfig,
) -> Matches:
    """Follow points of a grid from each frame into the other one.

    Args:
        flow_cur_prev: (H, W, 2) pixels.
        flow_prev_cur: The other way.
        gray_cur: (H, W) uint8, the current image.
        sharp_cur: (h, w) uint8, the current image for polishing, see ``FramePair``.
        sharp_prev: The same of the previous image.
        config: Tolerances.

    Returns:
        The points that flow brings there and back, polished where there are sharp images.
    """
    height, width = flow_cur_prev.shape[:2]
    step_px = config.grid_step_px
    rows, columns = np.mgrid[: height // step_px, : width // step_px]
    is_black = (rows + columns) % 2 == 0

    def follow(
        flow: Float32,
        flow_back: Float32,
        chosen: Mask,
        sharp_from: Gray | None,
        sharp_to: Gray | None,
    ) -> Tracks:
        u, v = (step_px // 2 + step_px * places[chosen] for places in (columns, rows))
        vectors = flow[v, u]
        keep = is_consistent(
            u, v, vectors, flow_back, config.consistency_px, config.consistency_relative
        )
        pixel = np.stack([u[keep], v[keep]], axis=1)
        tracks = Tracks(pixel, vectors[keep].astype(np.float64), np.zeros(len(pixel), np.bool_))
        if not config.polish or sharp_from is None or sharp_to is None:
            return tracks
        return polish(
            tracks,
            sharp_from,
            sharp_to,
            width,
            height,
            config.polish_window_px,
            config.polish_change_px,
        )

    # Neighbours say nearly the same: on a checkerboard, white for one frame and black for the
    # other, half the points give the same motion.
    return Matches(
        follow(flow_cur_prev, flow_prev_cur, is_black, sharp_cur, sharp_prev),
        follow(flow_prev_cur, flow_cur_prev, ~is_black, sharp_prev, sharp_cur),
        is_black.size,
        textured_fraction(gray_cur, config.min_gradient),
    )


def with_depth(tracks: Tracks, depth: Float32) -> Points:
    """Return the points that have depth, of an (H, W) map with NaN where invalid."""
    z = depth[tracks.pixel[:, 1], tracks.pixel[:, 0]]
    with np.errstate(invalid="ignore"):
        keep = z > MIN_DEPTH
    return Points(
        tracks.pixel[keep].astype(np.float64),
        z[keep].astype(np.float64),
        tracks.flow[keep],
        tracks.is_polished[keep],
    )


def polish(
    tracks: Tracks,
    sharp_from: Gray,
    sharp_to: Gray,
    width: int,
    height: int,
    window_px: int,
    max_change_px: float,
) -> Tracks:
    """Refine where flow sees points by matching their surroundings (Lucas and Kanade, IJCAI 1981).

    A network's flow is smooth and off by a few tenths of a pixel over whole regions, which adds up
    in odometry; a point with texture is found again to a few hundredths.

    Args:
        tracks: Points at the networks' size.
        sharp_from: (h, w) uint8 image of the frame that the points belong to, of any size.
        sharp_to: Image of the other frame, same size.
        width: Width that the points' pixels refer to.
        height: The height.
        window_px: Side of the compared squares, pixels of the sharp images.
        max_change_px: A point that moves further than this (pixels of the points) was lost.

    Returns:
        The points; those without texture, or lost, as they were.
    """
    if len(tracks.pixel) == 0:
        return tracks
    scale = np.array([sharp_from.shape[1] / width, sharp_from.shape[0] / height])
    target = tracks.pixel + tracks.flow
    start = np.asarray((tracks.pixel + 0.5) * scale - 0.5, np.float32, order="C")
    guess = np.asarray((target + 0.5) * scale - 0.5, np.float32, order="C")
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        sharp_from,
        sharp_to,
        start.reshape(-1, 1, 2),
        guess.reshape(-1, 1, 2),
        winSize=(window_px, window_px),
        maxLevel=0,
        criteria=_POLISH_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    change = (np.asarray(found, np.float64)[:, 0] + 0.5) / scale - 0.5 - target
    is_polished = np.asarray(status).ravel() == 1
    is_polished &= np.hypot(change[:, 0], change[:, 1]) <= max_change_px
    change[~is_polished] = 0
    return Tracks(tracks.pixel, tracks.flow + change, is_polished)


def textured_fraction(gray: Gray, min_gradient: float) -> float:
    """Return the fraction of pixels whose gradient exceeds ``min_gradient`` levels per pixel."""
    # Scharr's kernels sum to 32 on the unit ramp.
    dx = cv2.Scharr(gray, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(gray, cv2.CV_32F, 0, 1, scale=1 / 32)
    is_textured = cv2.magnitude(dx, dy) > min_gradient
    return cv2.countNonZero(is_textured.view(np.uint8)) / gray.size
