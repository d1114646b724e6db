"""Reader of Middlebury ``.flo`` optical flow files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import DataError

_MAGIC = 202021.25
_UNKNOWN_PX = 1e9


def read_flow(path: Path | str) -> npt.NDArray[np.float32]:
    """Read a flow field.

    Args:
        path: ``.flo`` file: float32 202021.25, int32 width, int32 height, then (u, v) row by row,
            all little-endian (Baker et al., "A Database and Evaluation Methodology for Optical
            Flow", IJCV 2011).

    Returns:
        (H, W, 2) float32 pixels; NaN where the flow is unknown.

    Raises:
        DataError: The file is missing, truncated, or not a flow file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read flow {path}: {error.strerror}") from error
    if len(data) < 12 or float(np.frombuffer(data, "<f4", 1)[0]) != _MAGIC:
        raise DataError(f"{path} is not a .flo file: it does not begin with {_MAGIC}")
    width, height = (int(value) for value in np.frombuffer(data, "<i4", 2, offset=4))
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise DataError(
            f"{path} says {width}x{height}, which takes {12 + 8 * width * height} bytes, "
            f"but it has {len(data)}; copy it again"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    flow[np.abs(flow).max(axis=2) > _UNKNOWN_PX] = np.nan
    return flow
