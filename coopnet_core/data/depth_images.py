"""Depth as 16-bit PNG, the form in which KITTI, TUM RGB-D and 7-Scenes publish it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image16
from coopnet_core.errors import DataError

# What the Kinect driver of 7-Scenes writes where it measured nothing; 0 means the same elsewhere.
_NO_VALUE = 65535


def read_depth(path: Path, units_per_m: float) -> npt.NDArray[np.float32]:
    """Read a depth image.

    Args:
        path: 16-bit PNG with one channel; 0 and 65535 say that nothing was measured.
        units_per_m: Value that means one metre: 256 for KITTI, 5000 for TUM, 1000 for 7-Scenes.

    Returns:
        (H, W) float32 metres, 0 where nothing was measured.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """
    values = read_image16(path)
    if values.ndim != 2:
        raise DataError(f"depth image {path} must have one channel, got {values.shape[2]}")
    depth_m = values.astype(np.float32) / np.float32(units_per_m)
    depth_m[values == _NO_VALUE] = 0
    return depth_m
