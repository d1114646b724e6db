"""Where the camera sits on the base: from TF, or from a parameter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from std_msgs.msg import Header

from coopnet_ros import frames
from coopnet_ros.odometry import transform_message
from coopnet_ros.parameters import Settings
from coopnet_ros.transforms import Send, TransformSource

# How long after the first image camera_mounting 'auto' waits for TF.
_TF_WAIT_S = 2.0
_LOG_PERIOD_S = 5.0


@dataclass(frozen=True)
class Mounting:
    """Where the camera sits on the base.

    Attributes:
        camera_frame: Frame of the images.
        source: Where it is known from, in words.
        T_base_cam: (4, 4), from optical axes to the base.
        is_makeshift: Taken from the parameter because TF is silent; TF replaces it when it speaks.
    """

    camera_frame: str
    source: str
    T_base_cam: npt.NDArray[np.float64]
    is_makeshift: bool = False


class MountingFinder:
    """Looks for the mounting until it is found, and keeps it.

    Args:
        node: Logs.
        settings: Returns the parameters as they are now.
        tf: What has been said on TF.
        send_static: Publishes a static transform.
    """

    def __init__(
        self, node: Node, settings: Callable[[], Settings], tf: TransformSource, send_static: Send
    ) -> None:
        self._logger = node.get_logger()
        self._settings = settings
        self._tf = tf
        self._send_static = send_static
        self._deadline_s: float | None = None
        self._announced: Mounting | None = None
        self.known: Mounting | None = None
        self.problem = ""

    def forget(self) -> None:
        """Look for it again at the next image."""
        self.known, self.problem = None, ""

    def give_tf_time(self) -> None:
        """Let TF have its time again from the next image on."""
        self._deadline_s = None

    def time_went_back(self) -> None:
        """Forget what TF has said about a time that is yet to come; what is found is kept."""
        self._tf.clear()

    def find(self, header: Header) -> Mounting | None:
        """Return the mounting of an image's camera: what is known already, or what TF says now.

        Args:
            header: Of the image.

        Returns:
            The same object as long as nothing changes; None while it is not known, with the cause
            in ``problem``.
        """
        self.known = self._find(header)
        self._announce(header)
        return self.known

    def _announce(self, header: Header) -> None:
        """Publish the mounting on ``/tf_static``, once, where that is this node's task.

        Only who has chosen the parameter has said that nobody else publishes this transform: a
        second parent of the camera's frame breaks the tree of the whole robot.
        """
        settings, known = self._settings(), self.known
        if known is None or known is self._announced:
            return
        if settings.camera_mounting != "parameter" or not settings.publish_tf:
            return
        self._announced = known
        if known.camera_frame not in ("", settings.base_frame):
            self._send_static(
                transform_message(
                    known.T_base_cam, header.stamp, settings.base_frame, known.camera_frame
                )
            )

    def _find(self, header: Header) -> Mounting | None:
        settings, camera_frame, known = self._settings(), header.frame_id, self.known
        if known is not None and known.camera_frame != camera_frame:
            known = None
        if known is not None and not known.is_makeshift:
            return known
        base_frame, is_makeshift = settings.base_frame, False
        T_base_cam, source = None, f"TF {base_frame} <- {camera_frame}"
        if settings.camera_mounting != "parameter":
            T_base_cam = self._tf.lookup(base_frame, camera_frame)
        if T_base_cam is None and known is not None:
            return known
        if T_base_cam is None:
            if settings.camera_mounting != "parameter":
                is_makeshift = settings.camera_mounting == "auto" and self._has_waited()
                self.problem = (
                    ("camera_xyz_rpy is taken for now" if is_makeshift else "no odometry yet")
                    + f": TF has no transform {base_frame} <- {camera_frame or '(empty)'}; "
                    "publish it, or set camera_mounting to parameter"
                )
                self._logger.warning(self.problem, throttle_duration_sec=_LOG_PERIOD_S)
                if not is_makeshift:
                    return None
            T_base_cam = frames.base_from_camera(settings.camera_xyz_rpy)
            source = f"parameter camera_xyz_rpy {list(settings.camera_xyz_rpy)}"
        if not is_makeshift:
            self.problem = ""
        self._logger.info(f"camera mounting from {source}")
        return Mounting(camera_frame, source, T_base_cam, is_makeshift)

    def _has_waited(self) -> bool:
        """Return whether TF has had its time since the first image."""
        now_s = time.monotonic()
        if self._deadline_s is None:
            self._deadline_s = now_s + _TF_WAIT_S
        return now_s >= self._deadline_s
