"""Depth and a picture to an organised, coloured PointCloud2."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from coopnet_core.errors import InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.image_messages import message_bytes

# What RViz and PCL read as colour: a float32 field called rgb whose bytes are blue, green, red, 0.
_FIELDS = [
    PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
    for name, offset in (("x", 0), ("y", 4), ("z", 8), ("rgb", 12))
]
_POINT = np.dtype([("xyz", "<f4", 3), ("bgr", "u1", 3), ("padding", "u1")])


class PointCloud:
    """Fills one buffer over and over: what depends on the camera alone is computed once."""

    def __init__(self) -> None:
        self._intrinsics: Intrinsics | None = None

    def message(
        self,
        depth: npt.NDArray[np.float32],
        picture: npt.NDArray[np.uint8],
        intrinsics: Intrinsics,
        header: Header,
    ) -> PointCloud2:
        """Make the cloud of a depth map, one point per pixel in the order of the pixels.

        Args:
            depth: (H, W), along z; what is not finite or not positive is invalid.
            picture: (H, W, 3) RGB or (H, W), uint8: the colours.
            intrinsics: Camera of both.
            header: Becomes the header of the message (not copied); its frame is optical.

        Returns:
            ``sensor_msgs/PointCloud2`` with x, y, z, rgb in 16 bytes; x, y, z NaN where invalid.

        Raises:
            InputError: Depth, picture and camera differ in size.
        """
        shape = (intrinsics.height, intrinsics.width)
        if depth.shape != shape or picture.shape[:2] != shape:
            raise InputError(
                f"a point cloud of {shape[1]}x{shape[0]} pixels cannot come from depth of shape "
                f"{depth.shape} and a picture of shape {picture.shape}: bring them to one size"
            )
        if intrinsics != self._intrinsics:
            self._prepare(intrinsics)
        xyz, bgr = self._points["xyz"], self._points["bgr"]
        is_valid = np.isfinite(depth) & (depth > 0)
        xyz[..., 2] = np.where(is_valid, depth, np.float32(np.nan))
        np.multiply(xyz[..., 2], self._x_per_z, out=xyz[..., 0])
        np.multiply(xyz[..., 2], self._y_per_z, out=xyz[..., 1])
        bgr[:] = picture[..., None] if picture.ndim == 2 else picture[..., ::-1]
        return PointCloud2(
            header=header,
            height=shape[0],
            width=shape[1],
            fields=_FIELDS,
            is_bigendian=False,
            point_step=_POINT.itemsize,
            row_step=_POINT.itemsize * shape[1],
            is_dense=False,
            data=message_bytes(self._points.view(np.uint8)),
        )

    def _prepare(self, intrinsics: Intrinsics) -> None:
        self._intrinsics = intrinsics
        columns, rows = np.arange(intrinsics.width), np.arange(intrinsics.height)[:, None]
        self._x_per_z = ((columns - intrinsics.cx) / intrinsics.fx).astype(np.float32)
        self._y_per_z = ((rows - intrinsics.cy) / intrinsics.fy).astype(np.float32)
        self._points = np.zeros((intrinsics.height, intrinsics.width), _POINT)
