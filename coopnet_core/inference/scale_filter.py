"""One scale out of many observations of it."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

_CORRELATION = 3.0
"""Neighbouring frames share their errors: so many of them count as one observation."""
_MEDIAN_EFFICIENCY = math.pi / 2
"""Variance of the median of normal samples over that of their mean."""


class ScaleFilter:
    """Median of the logarithms of the last observations, with a gate for outliers.

    The logarithm, because half as long and twice as long are equally wrong. A window and not
    everything seen, because the scale of predicted depth changes with the scene.

    Args:
        window: Observations that are kept.
        min_observations: Observations that the first scale needs.
        max_jump: An observation that differs from the scale by more than this fraction is refused.
        patience: After so many refused observations in a row the scale starts anew: it, not they,
            was wrong.
    """

    def __init__(self, window: int, min_observations: int, max_jump: float, patience: int) -> None:
        self._min_observations, self._max_jump = min_observations, max_jump
        self._kept: deque[float] = deque(maxlen=window)
        self._refused: deque[float] = deque(maxlen=patience)

    @property
    def scale(self) -> float | None:
        """The scale, None before the first one."""
        if len(self._kept) < self._min_observations:
            return None
        return math.exp(float(np.median(self._kept)))

    @property
    def relative_sigma(self) -> float:
        """Standard deviation of the scale relative to itself, as the observations scatter."""
        if not self._kept:
            return math.nan
        off = np.abs(np.asarray(self._kept) - np.median(self._kept))
        spread = 1.4826 * float(np.median(off))
        return spread * math.sqrt(_MEDIAN_EFFICIENCY * _CORRELATION / len(self._kept))

    @property
    def num_observations(self) -> int:
        """How many observations the scale rests on."""
        return len(self._kept)

    def add(self, observed: float) -> str:
        """Take an observation of the scale, positive.

        Returns:
            Why it was refused, else empty.
        """
        held, log_observed = self.scale, math.log(observed)
        limit = math.log1p(self._max_jump)
        if held is None or abs(log_observed - math.log(held)) <= limit:
            self._kept.append(log_observed)
            self._refused.clear()
            return ""
        self._refused.append(log_observed)
        if len(self._refused) < (self._refused.maxlen or 0):
            return f"a scale of {observed:.3g} is too far from the {held:.3g} held"
        self._kept.clear()
        self._kept.extend(self._refused)
        self._refused.clear()
        return ""
