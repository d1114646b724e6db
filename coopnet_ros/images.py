"""Camera pictures of any encoding: what coopnet_core does not read goes through ``cv_bridge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coopnet_core.data import ros_images
from coopnet_core.data.ros_images import ENCODINGS
from coopnet_core.errors import InputError

if TYPE_CHECKING:
    from sensor_msgs.msg import Image


def rgb_from_image(msg: Image) -> npt.NDArray[np.uint8]:
    """Return a camera picture as 8-bit RGB or grey.

    Args:
        msg: A ``sensor_msgs/Image`` that holds a picture.

    Returns:
        See ``coopnet_core.data.ros_images.rgb_from_image``, which does the common encodings; Bayer,
        YUV and the rest go through ``cv_bridge``.

    Raises:
        InputError: The message is damaged, is a float or depth image, or has an encoding that needs
            ``cv_bridge`` where that is not installed or does not know it either.
    """
    if msg.encoding not in ENCODINGS:
        return _rgb_through_cv_bridge(msg)
    return ros_images.rgb_from_image(msg)


def _rgb_through_cv_bridge(msg: Image) -> npt.NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise InputError(
            f"image encoding '{msg.encoding}' is not built in ({', '.join(ENCODINGS)}) and needs "
            "cv_bridge: install ros-$ROS_DISTRO-cv-bridge, or let the driver publish rgb8 or mono8"
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(msg, "rgb8"), np.uint8)
    except CvBridgeError as error:
        raise InputError(
            f"image encoding '{msg.encoding}' cannot be turned into rgb8 by cv_bridge: {error}"
        ) from error
