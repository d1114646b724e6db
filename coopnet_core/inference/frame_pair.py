"""What geometry works on: two frames with what the networks said about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.geometry.intrinsics import Intrinsics

Float32 = npt.NDArray[np.float32]
Gray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FramePair:
    """What is known about the current frame and the previous one.

    Attributes:
        depth_cur: (H, W) float32, NaN where invalid.
        depth_prev: The same of the previous frame, on the same scale.
        flow_cur_prev: (H, W, 2) float32 pixels, from the current frame into the previous one.
        flow_prev_cur: The other way.
        gray_cur: (H, W) uint8, the current image.
        gray_prev: (H, W) uint8, the previous image.
        intrinsics: Camera of both frames at this size.
        sharp_cur: (h, w) uint8, the current image for polishing points, see
            ``preprocess.PreparedImage``; None leaves them as flow says.
        sharp_prev: The same of the previous image.
    """

    depth_cur: Float32
    depth_prev: Float32
    flow_cur_prev: Float32
    flow_prev_cur: Float32
    gray_cur: Gray
    gray_prev: Gray
    intrinsics: Intrinsics
    sharp_cur: Gray | None = None
    sharp_prev: Gray | None = None
