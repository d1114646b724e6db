"""What the node publishes: one place for topics, types and encodings."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from coopnet_core.inference import rendering
from coopnet_core.inference.pipeline import FrameResult
from coopnet_ros import qos
from coopnet_ros.camera_info import Calibration, camera_info_from_intrinsics
from coopnet_ros.image_messages import image_from_array
from coopnet_ros.odometry import BaseState, PathHistory, odometry_message
from coopnet_ros.parameters import Settings

TOPICS: dict[str, type] = {
    "~/depth/image": Image,
    "~/depth/camera_info": CameraInfo,
    "~/depth/preview": Image,
    "~/flow/image": Image,
    "~/flow/preview": Image,
    "~/motion/mask": Image,
    "~/motion/preview": Image,
    "~/odom": Odometry,
    "~/path": Path,
}

# Topic, and the pipeline's output that it needs beyond depth and odometry.
_NEEDS = {
    "~/flow/image": "flow",
    "~/flow/preview": "flow",
    "~/motion/mask": "motion_mask",
    "~/motion/preview": "motion_mask",
}


class _SlowSpan:
    """Positive numbers that follow what they are told slowly, so that colours do not flicker."""

    def __init__(self, share: float = 0.1) -> None:
        self._share = share
        self._logs: npt.NDArray[np.float64] | None = None

    def follow(self, *values: float) -> list[float]:
        """Move a step towards ``values`` (the first call takes them as they are)."""
        logs = np.log(np.array(values))
        previous = logs if self._logs is None else self._logs
        self._logs = previous + self._share * (logs - previous)
        return [float(value) for value in np.exp(self._logs)]


class Outputs:
    """The publishers of a configured node.

    Args:
        node: The node; its lifecycle switches the publishers on and off.
        settings: Frames and the length of the path.
    """

    def __init__(self, node: LifecycleNode, settings: Settings) -> None:
        self._node = node
        self._odom_frame, self._base_frame = settings.odom_frame, settings.base_frame
        self._publishers: dict[str, Any] = {
            topic: node.create_lifecycle_publisher(
                msg_type, topic, qos.output_qos(), qos_overriding_options=qos.overridable()
            )
            for topic, msg_type in TOPICS.items()
        }
        self._path = PathHistory(settings.path_length)
        self._path_stamp_s = float("-inf")
        self._depth_span, self._flow_span = _SlowSpan(), _SlowSpan()

    def destroy(self) -> None:
        """Take the topics off the graph."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def wanted(self) -> frozenset[str]:
        """Return the outputs of the pipeline that somebody listens to."""
        return frozenset(need for topic, need in _NEEDS.items() if self._has_listener(topic))

    def restart_path(self) -> None:
        """Forget the path; the next message starts at the origin."""
        self._path.clear()
        self._path_stamp_s = float("-inf")

    def publish_odometry(
        self, state: BaseState, image_header: Header, path_period_s: float
    ) -> None:
        """Publish ``~/odom``, and ``~/path`` when its period is over.

        Args:
            state: Where the base is at the image's stamp.
            image_header: Header of the image.
            path_period_s: Shortest time between two paths.
        """
        stamp = image_header.stamp
        self._publishers["~/odom"].publish(
            odometry_message(state, stamp, self._odom_frame, self._base_frame)
        )
        header = Header(stamp=stamp, frame_id=self._odom_frame)
        self._path.append(header, state.T_odom_base)
        stamp_s = stamp.sec + stamp.nanosec * 1e-9
        if self._has_listener("~/path") and stamp_s - self._path_stamp_s >= path_period_s:
            self._path_stamp_s = stamp_s
            self._publishers["~/path"].publish(self._path.message(header))

    def publish_maps(
        self,
        result: FrameResult,
        image: npt.NDArray[np.uint8],
        header: Header,
        calibration: Calibration,
        valid: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Publish the images that somebody listens to, with the header of the input.

        Args:
            result: Of the frame.
            image: The rectified picture, uint8 (H, W, 3) RGB or (H, W).
            header: Header of the input image.
            calibration: Of the input image.
            valid: (H, W) bool, False where the camera did not look; None: it saw everything.
        """
        size = (result.intrinsics.width, result.intrinsics.height)
        depth, mask = result.depth, result.motion_mask
        if valid is not None and not valid.all():
            seen = cv2.resize(valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            depth = np.where(seen, depth, np.float32(np.nan))
            mask = None if mask is None else mask & seen
        if self._has_listener("~/depth/image"):
            self._send("~/depth/image", depth, "32FC1", header)
        if self._has_listener("~/depth/camera_info"):
            tx = calibration.P[3] * size[0] / calibration.width
            self._publishers["~/depth/camera_info"].publish(
                camera_info_from_intrinsics(result.intrinsics, header, tx)
            )
        if result.flow is not None and self._has_listener("~/flow/image"):
            self._send("~/flow/image", result.flow, "32FC2", header)
        if mask is not None and self._has_listener("~/motion/mask"):
            self._send("~/motion/mask", mask.astype(np.uint8) * 255, "mono8", header)
        # What people look at comes after what robots wait for.
        self._publish_previews(depth, result.flow, mask, image, size, header)

    def _publish_previews(
        self,
        depth: npt.NDArray[np.float32],
        flow: npt.NDArray[np.float32] | None,
        mask: npt.NDArray[np.bool_] | None,
        image: npt.NDArray[np.uint8],
        size: tuple[int, int],
        header: Header,
    ) -> None:
        if self._has_listener("~/depth/preview"):
            near, far = self._depth_span.follow(*rendering.depth_range(depth))
            self._send("~/depth/preview", rendering.render_depth(depth, near, far), "bgr8", header)
        if flow is not None and self._has_listener("~/flow/preview"):
            length_px = np.linalg.norm(flow[::4, ::4], axis=-1)
            (full_px,) = self._flow_span.follow(max(float(np.quantile(length_px, 0.98)), 1.0))
            self._send("~/flow/preview", rendering.render_flow(flow, full_px), "bgr8", header)
        if self._has_listener("~/motion/preview"):
            picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            preview = rendering.render_mask(rendering.to_bgr(picture), mask)
            self._send("~/motion/preview", preview, "bgr8", header)

    def _has_listener(self, topic: str) -> bool:
        return bool(self._publishers[topic].get_subscription_count() > 0)

    def _send(self, topic: str, pixels: npt.NDArray[Any], encoding: str, header: Header) -> None:
        self._publishers[topic].publish(image_from_array(pixels, encoding, header))
