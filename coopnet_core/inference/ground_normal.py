"""Which way is down for a camera on wheels: from its mounting, refined by the way it travels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import ConfigError

Float64 = npt.NDArray[np.float64]

LEVEL: Float64 = np.array([0.0, 1.0, 0.0])
"""Down in the axes of a level camera (optical: x right, y down, z forward)."""

_MOUNTING_SIGMA_RAD = math.radians(2.0)
_UNKNOWN_PITCH_SIGMA_RAD = math.radians(10.0)
_TRAVEL_SIGMA_RAD = math.radians(1.0)
"""A car nods, and the road is uneven: that much a step leaves the plane of the ground."""
_REMEMBERED_STEPS = 150.0


class GroundNormal:
    """The ground's normal in the camera.

    A degree of pitch changes the height that the camera measures by a tenth, and hardly any
    mounting is known that well. What drives on the ground moves along it, so each step is at right
    angles to the normal. Least squares of the mounting (2 degrees) and of the last steps (1 degree
    each): driving straight on settles pitch and leaves roll to the mounting.

    Args:
        R_base_cam: (3, 3) from the camera's optical axes to a base with z up; None for a camera
            that is level: to 2 degrees in roll, to 10 in pitch.

    Raises:
        ConfigError: ``R_base_cam`` is no rotation.
    """

    def __init__(self, R_base_cam: npt.ArrayLike | None = None) -> None:
        self._mounted = LEVEL
        sigmas = np.array([_MOUNTING_SIGMA_RAD, *[_UNKNOWN_PITCH_SIGMA_RAD] * 2])
        if R_base_cam is not None:
            R = np.asarray(R_base_cam, np.float64)
            if R.shape != (3, 3) or not np.allclose(R @ R.T, np.eye(3), atol=1e-3):
                raise ConfigError(f"the camera's mounting must be a rotation (3, 3), got {R}")
            self._mounted = -R[2] / np.linalg.norm(R[2])
            sigmas = np.full(3, _MOUNTING_SIGMA_RAD)
        self._prior = np.diag(1 / sigmas**2)
        self._travel = np.zeros((3, 3))
        self.down: Float64 = self._mounted
        """Unit vector (3,) in optical axes."""

    def update(self, T_prev_cur: Float64, covariance: Float64) -> None:
        """Take a step.

        Args:
            T_prev_cur: (4, 4), pose of the camera in the previous one.
            covariance: (6, 6) of the step in the camera's frame, translation first. A step whose
                direction it leaves open says little.
        """
        step = T_prev_cur[:3, 3]
        length = float(np.linalg.norm(step))
        if length == 0:
            return
        direction = step / length + T_prev_cur[:3, :3].T @ step / length
        direction /= np.linalg.norm(direction)
        variance = float(self.down @ covariance[:3, :3] @ self.down) / length**2
        variance += _TRAVEL_SIGMA_RAD**2
        # Cauchy's weight: a step that went wrong, or a bump, must not turn the ground.
        off = float(direction @ self.down)
        weight = 1 / (variance + off * off / 4)
        self._travel *= 1 - 1 / _REMEMBERED_STEPS
        self._travel += weight * np.outer(direction, direction)
        down = np.linalg.solve(self._prior + self._travel, self._prior @ self._mounted)
        self.down = down / np.linalg.norm(down)
