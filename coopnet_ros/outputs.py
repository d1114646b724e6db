"""What the node publishes: its topics, their types, and who listens."""

from __future__ import annotations

from typing import Any

from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from coopnet_core.inference.pipeline import FrameResult
from coopnet_ros import qos
from coopnet_ros.camera_input import Picture
from coopnet_ros.frame_messages import FrameMessages, FrameView
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
    "~/points": PointCloud2,
}

# Topic, and the pipeline's output that it needs beyond depth and odometry.
_NEEDS = {
    "~/flow/image": "flow",
    "~/flow/preview": "flow",
    "~/motion/mask": "motion_mask",
    "~/motion/preview": "motion_mask",
}


class Outputs:
    """The publishers of a configured node.

    Args:
        node: The node; its lifecycle switches the publishers on and off.
        settings: Frames, the length of the path, the encoding of depth.
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
        self._messages = FrameMessages(settings.depth_encoding)

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

    def publish_maps(self, result: FrameResult, picture: Picture, header: Header) -> None:
        """Publish what somebody listens to, with the header of the input; make nothing else.

        Args:
            result: Of the frame.
            picture: That the result was made from.
            header: Header of the input image.
        """
        view = FrameView(result, picture, header)
        for topic, make in self._messages.makers.items():
            if self._has_listener(topic):
                msg = make(view)
                if msg is not None:
                    self._publishers[topic].publish(msg)

    def _has_listener(self, topic: str) -> bool:
        return bool(self._publishers[topic].get_subscription_count() > 0)
