"""Build ROS messages as ``rosbags`` objects, to serialise them without ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.typesys.store import Typestore

from coopnet_core.geometry.intrinsics import Intrinsics


def header(store: Typestore, stamp_ns: int, frame_id: str) -> Any:
    """Return a ``std_msgs/Header``.

    Args:
        store: Message types.
        stamp_ns: Time, nanoseconds.
        frame_id: Coordinate frame.
    """
    stamp = store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return store.types["std_msgs/msg/Header"](stamp, frame_id)


def stamp_ns(message: Any) -> int:
    """Return the header stamp of a message, nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def camera_info(store: Typestore, head: Any, camera: Intrinsics) -> Any:
    """Return the ``sensor_msgs/CameraInfo`` of a rectified pinhole camera.

    Args:
        store: Message types.
        head: Header of the message.
        camera: The camera at the size of the image.
    """
    K = camera.matrix()
    return store.types["sensor_msgs/msg/CameraInfo"](
        header=head,
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=K.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([K, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )


def compressed_image(store: Typestore, head: Any, image_format: str, encoded: bytes) -> Any:
    """Return a ``sensor_msgs/CompressedImage`` of encoded bytes (``jpeg`` or ``png``)."""
    data = np.frombuffer(encoded, np.uint8)
    return store.types["sensor_msgs/msg/CompressedImage"](head, image_format, data)


def image(store: Typestore, head: Any, pixels: npt.NDArray[Any], encoding: str) -> Any:
    """Return a ``sensor_msgs/Image``.

    Args:
        store: Message types.
        head: Header of the message.
        pixels: (H, W) or (H, W, C), of the type that the encoding names.
        encoding: Such as ``mono8``, ``rgb8``, ``32FC1``.
    """
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    height, width = little.shape[:2]
    return store.types["sensor_msgs/msg/Image"](
        header=head,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=little.nbytes // height,
        data=little.reshape(-1).view(np.uint8),
    )
