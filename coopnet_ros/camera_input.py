"""The camera's topics: the newest image and camera_info, and why none comes."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from coopnet_core.data.camera_info import Calibration, calibration_from_camera_info, rectify
from coopnet_core.data.ros_images import picture_size, rgb_from_compressed
from coopnet_core.errors import InputError
from coopnet_ros import qos
from coopnet_ros.diagnostics import Monitor
from coopnet_ros.images import rgb_from_image
from coopnet_ros.mailbox import Mailbox
from coopnet_ros.parameters import Settings

_LOG_PERIOD_S = 5.0


class Arrival(NamedTuple):
    """An image message and when it came (monotonic clock)."""

    msg: Image | CompressedImage
    received_s: float


class Picture(NamedTuple):
    """A rectified picture.

    Attributes:
        image: uint8 (H, W, 3) RGB or (H, W).
        calibration: Of the picture; ``calibration.intrinsics()`` is its pinhole camera.
        valid: (H, W) bool, False where the camera did not look; None: it saw everything.
    """

    image: npt.NDArray[np.uint8]
    calibration: Calibration
    valid: npt.NDArray[np.bool_] | None


class CameraInput:
    """Listens to the camera between ``open`` and ``close``.

    The callbacks only put the newest image into a mailbox, so that nothing ever queues.

    Args:
        node: Subscribes.
        settings: Transport, reliability, and whether to rectify.
        monitor: Counts the images.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, monitor: Monitor) -> None:
        self._node = node
        self._monitor = monitor
        self._reliability = settings.image_reliability
        self._shall_rectify = settings.rectify
        image_topic = node.resolve_topic_name("image")
        self._is_compressed = settings.image_transport == "compressed"
        self._is_named_rectified = image_topic.rpartition("/")[2].startswith("image_rect")
        self.image_topic = image_topic + ("/compressed" if self._is_compressed else "")
        self.info_topic = node.resolve_topic_name("camera_info")
        self._info: CameraInfo | None = None
        self._mailbox: Mailbox[Arrival] | None = None
        self._subscriptions: list[Subscription] = []
        self._open_since_s = 0.0

    def open(self) -> Mailbox[Arrival]:
        """Subscribe.

        Returns:
            The mailbox that images arrive in, until ``close`` closes it.

        Raises:
            RuntimeError, ValueError, ParameterException: rclpy cannot subscribe as the QoS
                overrides ask; nothing is left behind.
        """
        self._info = None
        image_type = CompressedImage if self._is_compressed else Image
        try:
            for msg_type, topic, callback in (
                (CameraInfo, self.info_topic, self._on_camera_info),
                (image_type, self.image_topic, self._on_image),
            ):
                subscription = self._node.create_subscription(
                    msg_type,
                    topic,
                    callback,
                    # A profile for each: rclpy writes overrides into the one that it is given.
                    qos.input_qos(self._reliability),
                    qos_overriding_options=qos.overridable(),
                )
                self._subscriptions.append(subscription)
        except Exception:
            self.close()
            raise
        self._open_since_s = time.monotonic()
        self._mailbox = Mailbox()
        return self._mailbox

    def close(self) -> None:
        """Unsubscribe and close the mailbox."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        if self._mailbox is not None:
            self._mailbox.close()
        self._mailbox = None

    def _on_camera_info(self, msg: CameraInfo) -> None:
        self._info = msg

    def _on_image(self, msg: Image | CompressedImage) -> None:
        mailbox = self._mailbox  # none when a message was on its way at deactivation
        if mailbox is not None:
            is_dropped = mailbox.put(Arrival(msg, time.monotonic()))
            self._monitor.image_received(is_dropped=is_dropped)

    def read(self, msg: Image | CompressedImage) -> Picture:
        """Decode an image message and rectify it with the latest camera_info.

        Raises:
            InputError: The image cannot be decoded, or no camera_info has come yet.
            CalibrationError: The camera_info is impossible or belongs to another picture.
        """
        info = self._info
        if info is None:
            publishers = self._node.get_publishers_info_by_topic(self.info_topic)
            raise InputError(
                f"no camera_info yet on {self.info_topic}, publishers there: "
                + qos.describe_publishers(publishers)
            )
        # Before decoding: a JPEG with a damaged header can ask for gigabytes.
        calibration = calibration_from_camera_info(info, *picture_size(msg))
        image = rgb_from_compressed(msg) if self._is_compressed else rgb_from_image(msg)
        if not self._shall_rectify:
            return Picture(image, calibration, None)
        if any(calibration.D) and self._is_named_rectified:
            self._node.get_logger().warning(
                f"{self.image_topic} is called rectified, but its camera_info has a lens "
                "distortion, which is undone now: if the picture is rectified already, set "
                "rectify to false",
                once=True,
            )
        image, valid = rectify(image, calibration)
        return Picture(image, calibration, valid)

    def describe_info(self) -> str:
        """Return the latest camera_info in words."""
        info = self._info
        return f"{info.width}x{info.height}, fx {info.k[0]:g}" if info else "none yet"

    def problem(self, patience_s: float) -> str:
        """Return why no image has come for ``patience_s``, empty when all is well."""
        subscriptions = list(self._subscriptions)
        if not subscriptions:
            return "not active"
        silence_s = self._monitor.seconds_without_image(self._open_since_s)
        if silence_s < patience_s:
            return ""
        publishers = self._node.get_publishers_info_by_topic(self.image_topic)
        problem = (
            f"no image for {silence_s:.0f} s on {self.image_topic}, "
            f"publishers there: {qos.describe_publishers(publishers)}"
        ) + self._hint(subscriptions[-1].qos_profile.reliability, publishers)
        self._node.get_logger().warning(problem, throttle_duration_sec=_LOG_PERIOD_S)
        return problem

    def _hint(self, reliability: ReliabilityPolicy, publishers: list[TopicEndpointInfo]) -> str:
        """Return what to do about the usual reasons why no image comes."""
        if publishers:
            expected = "sensor_msgs/msg/" + ("CompressedImage" if self._is_compressed else "Image")
            types = {endpoint.topic_type for endpoint in publishers}
            if expected not in types:
                return f"; they send {', '.join(sorted(types))}, expected {expected}"
            reliable = ReliabilityPolicy.RELIABLE
            if reliability == reliable and not any(
                endpoint.qos_profile.reliability == reliable for endpoint in publishers
            ):
                return "; a reliable subscription receives nothing from best-effort publishers"
            return ""
        base, other = self.image_topic, "raw"
        if self._is_compressed:
            base = base.removesuffix("/compressed")
        else:
            base, other = base + "/compressed", "compressed"
        if self._node.count_publishers(base):
            return f"; there is one on {base}: set image_transport to {other}"
        return "; remap `image`, or check that the camera driver runs"
