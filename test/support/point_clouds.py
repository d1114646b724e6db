"""Reads PointCloud2 messages as RViz and PCL do."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField


def arrays_from_cloud(msg: PointCloud2) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return the points (H, W, 3) and their colours (H, W, 3), RGB, of a cloud with x, y, z, rgb.

    The fields are found by name, and the colour is taken out of the bits of a float.
    """
    assert msg.is_bigendian == (sys.byteorder == "big")
    assert msg.row_step == msg.point_step * msg.width
    assert len(msg.data) == msg.row_step * msg.height
    fields = {field.name: field for field in msg.fields}
    assert all(f.datatype == PointField.FLOAT32 and f.count == 1 for f in fields.values())
    names = ["x", "y", "z", "rgb"]
    layout = np.dtype(
        {
            "names": names,
            "formats": ["f4", "f4", "f4", "u4"],
            "offsets": [fields[name].offset for name in names],
            "itemsize": msg.point_step,
        }
    )
    points = np.frombuffer(bytes(msg.data), layout).reshape(msg.height, msg.width)
    rgb = points["rgb"]
    colors = [(rgb >> shift) & 0xFF for shift in (16, 8, 0)]
    xyz = np.stack([points[name] for name in "xyz"], axis=-1)
    return xyz, np.stack(colors, axis=-1).astype(np.uint8)
