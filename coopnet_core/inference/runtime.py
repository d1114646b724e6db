"""What the frame pipeline asks of whatever runs the networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coopnet_core.inference.bundle import NetworkName

FloatArray = npt.NDArray[np.float32]

DEVICES = ("auto", "cpu", "openvino", "cuda", "ort_tensorrt", "tensorrt", "tensorrt_rtx")
"""Where networks can run; see ``runtime_choice.choose_runtime``."""

Features = tuple[FloatArray, ...]
"""What flow is found from: matching features of one image, see ``signature.FEATURE_STRIDES``."""


class Runtime(ABC):
    """Runs the networks of a bundle on single frames.

    Images are float32 arrays of shape (1, 3, H, W) in [0, 1], H and W being the bundle's. ``tgt``
    is the current frame and ``src`` the previous one. Results are the caller's own.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for diagnostics: library, version, device, threads."""

    @abstractmethod
    def run(self, network: NetworkName, *inputs: FloatArray) -> Sequence[FloatArray]:
        """Run one network.

        Args:
            network: Which one.
            *inputs: As ``signature.inputs`` lists them.

        Returns:
            Its outputs as ``signature.outputs`` lists them.

        Raises:
            InputError: An input has another shape or type.
        """

    def depth(self, image: FloatArray) -> FloatArray:
        """Return canonical depth, shape (1, 1, H, W)."""
        return self.run("depth", image)[0]

    def pose(self, image_tgt: FloatArray, image_src: FloatArray) -> FloatArray:
        """Return ``T_src_tgt``, shape (1, 4, 4), translation in the unit of depth."""
        return self.run("pose", image_tgt, image_src)[0]

    def flow_features(self, image: FloatArray) -> Features:
        """Return the features of an image that :meth:`flow` takes, for as often as it is needed."""
        return tuple(self.run("flow_features", image))

    def flow(self, features_tgt: Features, features_src: Features) -> tuple[FloatArray, FloatArray]:
        """Return ``flow_tgt_src`` and ``flow_src_tgt``, each of shape (1, 2, H, W), in pixels."""
        flow_tgt_src, flow_src_tgt = self.run("flow", *features_tgt, *features_src)
        return flow_tgt_src, flow_src_tgt
