"""Pinhole intrinsics that stay right under resize, crop and flip (no torch in here)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import CalibrationError

# No camera is beyond these, and arithmetic with squares of them still works in float32.
_MIN_FOCAL_PX, _MAX_PX = 1e-3, 1e6


@dataclass(frozen=True)
class Intrinsics:
    """A rectified pinhole camera together with the image size that it belongs to.

    The centre of the top-left pixel is (0, 0), so the image spans [-0.5, width - 0.5].

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        fx: Horizontal focal length in pixels.
        fy: Vertical focal length in pixels.
        cx: Horizontal principal point in pixels.
        cy: Vertical principal point in pixels.

    Raises:
        CalibrationError: A size or focal length is not positive, or a value is not finite or
            beyond every camera.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(
                f"camera size must be positive, got {self.width}x{self.height}: "
                "check width and height of the calibration"
            )
        for name in ("fx", "fy", "cx", "cy"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise CalibrationError(f"{name} must be finite, got {value}: calibrate the camera")
        for name in ("fx", "fy"):
            value = getattr(self, name)
            if value <= 0:
                raise CalibrationError(
                    f"focal length {name} must be positive, got {value}: the camera driver "
                    "publishes an uncalibrated camera_info; calibrate it or pass a calibration file"
                )
            if value < _MIN_FOCAL_PX:
                raise CalibrationError(
                    f"focal length {name} must be at least {_MIN_FOCAL_PX:g} pixels, got "
                    f"{value:g}: calibrate the camera"
                )
        for name in ("fx", "fy", "cx", "cy"):
            value = getattr(self, name)
            if abs(value) > _MAX_PX:
                raise CalibrationError(
                    f"{name} must be at most {_MAX_PX:g} pixels, got {value:g}: calibrate the "
                    "camera"
                )

    def resized(self, width: int, height: int) -> Intrinsics:
        """Return the camera of the image resized to ``width`` x ``height``."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            width,
            height,
            self.fx * sx,
            self.fy * sy,
            (self.cx + 0.5) * sx - 0.5,
            (self.cy + 0.5) * sy - 0.5,
        )

    def cropped(self, x0: int, y0: int, width: int, height: int) -> Intrinsics:
        """Return the camera of the window whose top-left pixel is ``(x0, y0)``."""
        return Intrinsics(width, height, self.fx, self.fy, self.cx - x0, self.cy - y0)

    def flipped(self) -> Intrinsics:
        """Return the camera of the image mirrored left to right."""
        return Intrinsics(
            self.width, self.height, self.fx, self.fy, self.width - 1 - self.cx, self.cy
        )

    def matrix(self) -> npt.NDArray[np.float64]:
        """Return K, shape (3, 3), in pixels."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)
