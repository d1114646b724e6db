"""Canonical depth: what the depth network predicts, independent of the camera's focal length.

One picture fits a near scene behind a short lens and a far scene behind a long one, so a network
that sees several cameras can learn only the ratio of depth to focal length. It predicts the depth
that a camera with ``fx == width`` would see; the true camera's depth follows by proportion (the
idea of Facil et al., "CAM-Convs", CVPR 2019, and Yin et al., "Metric3D", ICCV 2023).
"""

from __future__ import annotations

from typing import Any


def depth_from_canonical(canonical_depth: Any, fx: Any, width: int) -> Any:
    """Turn canonical depth into the depth of a camera.

    Args:
        canonical_depth: Array or tensor, any shape, as predicted by the depth network.
        fx: Horizontal focal length in pixels of the image given to the network; a number, or
            something that broadcasts against ``canonical_depth``.
        width: Width in pixels of the same image.

    Returns:
        Depth, same kind and shape as ``canonical_depth``.
    """
    return canonical_depth * (fx / width)
