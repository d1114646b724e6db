"""What the frame pipeline asks of whatever runs the networks."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Runtime(Protocol):
    """Runs the three networks of a bundle on single frames.

    Images are float32 arrays of shape (1, 3, H, W) in [0, 1], H and W being the bundle's. ``tgt``
    is the current frame and ``src`` the previous one.
    """

    @property
    def description(self) -> str:
        """One line for diagnostics: library, version, device, threads."""
        ...

    def depth(self, image: FloatArray) -> FloatArray:
        """Return canonical depth, shape (1, 1, H, W)."""
        ...

    def pose(self, image_tgt: FloatArray, image_src: FloatArray) -> FloatArray:
        """Return ``T_src_tgt``, shape (1, 4, 4), translation in the unit of depth."""
        ...

    def flow(self, image_tgt: FloatArray, image_src: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ``flow_tgt_src`` and ``flow_src_tgt``, each of shape (1, 2, H, W), in pixels."""
        ...
