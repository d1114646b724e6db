"""How uncertain a pose is after many steps, whose errors are partly the same.

What is random in a step (noise of flow) averages out along the path. What is wrong in every step
alike does not: the scale of depth, the direction that the camera's calibration gives the step, the
size of turns. Such errors are carried as vectors, one for each cause, and add up along the path
with their signs, so that driving back undoes them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coopnet_core.inference import rigid

Float64 = npt.NDArray[np.float64]

NUM_SHARED_ERRORS = 5
SCALE_ERROR = 4
"""Which of them is that of the scale."""


def no_shared_errors() -> Float64:
    """Return the shared errors of a step that has none, (6, 5)."""
    return np.zeros((6, NUM_SHARED_ERRORS))


def shared_errors(T_prev_cur: Float64, direction_sigma: float, turn_sigma: float) -> Float64:
    """Return how errors that successive steps have in common shift a step.

    Args:
        T_prev_cur: (4, 4), the step.
        direction_sigma: Standard deviation of its direction, radians.
        turn_sigma: Standard deviation of its rotation, relative to itself.

    Returns:
        (6, 5), one error of one standard deviation in each column, as a twist seen from the current
        camera: three of direction, one of rotation, and that of the scale, still zero.
    """
    errors = no_shared_errors()
    errors[:3, :3] = direction_sigma * rigid.skew(T_prev_cur[:3, :3].T @ T_prev_cur[:3, 3])
    errors[3:, 3] = turn_sigma * rigid.log(T_prev_cur)[3:]
    return errors


class PoseCovariance:
    """Composes the covariances of steps.

    Args:
        start: (6, 6) of the pose to start from.
    """

    def __init__(self, start: npt.ArrayLike) -> None:
        self._covariance = np.array(start, np.float64)
        self._shared = no_shared_errors()

    @property
    def matrix(self) -> Float64:
        """(6, 6) of the pose, translation first, along the axes of the moving frame."""
        return self._covariance.copy()

    def add_random(self, covariance: Float64) -> None:
        """Add a random error (6, 6) along the axes of the moving frame."""
        self._covariance = self._covariance + covariance

    def add_step(self, T_prev_cur: Float64, covariance: Float64, shared: Float64) -> None:
        """Go on by a step.

        Args:
            T_prev_cur: (4, 4).
            covariance: (6, 6) of the step, seen from the moving frame, with what it shares.
            shared: (6, 5), see :func:`shared_errors`.
        """
        carry = rigid.adjoint(rigid.invert(T_prev_cur))
        carried = carry @ self._shared
        both = carried @ shared.T
        self._covariance = carry @ self._covariance @ carry.T + covariance + both + both.T
        self._shared = carried + shared
