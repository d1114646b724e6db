"""CameraInfo messages of rectified pictures."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from coopnet_core.geometry.intrinsics import Intrinsics


def camera_info_from_intrinsics(
    intrinsics: Intrinsics, header: Header, tx_baseline_px_m: float = 0.0
) -> CameraInfo:
    """Make the CameraInfo of a rectified picture: no distortion, R identity, P from K.

    Args:
        intrinsics: The pinhole camera.
        header: Becomes the header of the message (not copied).
        tx_baseline_px_m: P[3], ``-fx * baseline`` of the second camera of a stereo pair.

    Returns:
        ``sensor_msgs/CameraInfo``.
    """
    info = CameraInfo(header=header, width=intrinsics.width, height=intrinsics.height)
    info.distortion_model = "plumb_bob"
    info.d = [0.0] * 5
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    K = [float(value) for value in intrinsics.matrix().reshape(-1)]
    info.k = K
    info.p = [*K[0:3], float(tx_baseline_px_m), *K[3:6], 0.0, *K[6:9], 0.0]
    return info
