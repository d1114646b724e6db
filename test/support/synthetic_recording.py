"""A recording as the demo makes it, from the synthetic world: a camera drives, a box moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from synthetic_world import camera, motion, render_pair

from coopnet_core.data.bag_reader import default_typestore
from coopnet_ros import bag_messages
from coopnet_ros.bag_writer import BagWriter

START_NS = 1_000 * 10**9
PERIOD_NS = 10**8
RECEIVED_NS = 1_700_000_000 * 10**9
LATENCY_NS = 40_000_000
SCALE = 0.5
_STORE = default_typestore()


def write_recording(
    path: Path, count: int = 12, size: tuple[int, int] = (96, 32), drop: tuple[int, ...] = ()
) -> Path:
    """Write a recording of `count` images.

    Depth and odometry are half of the truth, latencies grow by 1 ms per frame, and the frames in
    `drop` have no output.
    """
    width, height = size
    T_step = motion(forward=0.5, yaw=0.01)
    pair = render_pair(T_step, (0.0, 0.0, -0.4), camera(width, height))
    flow = -np.nan_to_num(pair.flow_cur_prev)
    mask = (pair.cur.object_id == 3).astype(np.uint8) * 255
    # Optical axes to base axes: forward, left, up.
    R = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    T_base_step = R @ T_step @ R.T
    pose = np.eye(4)
    with BagWriter(path) as bag:
        for topic, msgtype in (
            ("/camera/image/compressed", "sensor_msgs/msg/CompressedImage"),
            ("/ground_truth/odom", "nav_msgs/msg/Odometry"),
            ("/coopnet/depth/image", "sensor_msgs/msg/Image"),
            ("/coopnet/depth/preview", "sensor_msgs/msg/Image"),
            ("/coopnet/flow/image", "sensor_msgs/msg/Image"),
            ("/coopnet/motion/mask", "sensor_msgs/msg/Image"),
            ("/coopnet/odom", "nav_msgs/msg/Odometry"),
            ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
        ):
            bag.add_topic(topic, msgtype)
        for index in range(count):
            head = bag_messages.header(_STORE, START_NS + index * PERIOD_NS, "camera")
            now = RECEIVED_NS + index * PERIOD_NS
            picture = cv2.resize(pair.cur.image, (width * 3 // 2, height * 3 // 2))
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            image = bag_messages.compressed_image(_STORE, head, "jpeg", jpeg)
            bag.write_message("/camera/image/compressed", now, image)
            bag.write_message("/ground_truth/odom", now, odometry(head, pose))
            if index not in drop:
                later = now + LATENCY_NS + index * 10**6
                depth = pair.cur.depth * np.float32(SCALE)
                _image(bag, "/coopnet/depth/image", later, head, depth, "32FC1")
                scaled = pose.copy()
                scaled[:3, 3] *= SCALE
                bag.write_message("/coopnet/odom", later, odometry(head, scaled))
                if index:
                    _image(bag, "/coopnet/flow/image", later, head, flow, "32FC2")
                    _image(bag, "/coopnet/motion/mask", later, head, mask, "mono8")
            pose = pose @ T_base_step
        bag.write_message("/diagnostics", RECEIVED_NS, diagnostics({"metric": "false"}))
    return path


def odometry(head: Any, pose: Any, lost: bool = False) -> Any:
    """An Odometry message of a pose that turns about z only."""
    types = _STORE.types
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    covariance = np.eye(6) * (9999.0 if lost else 0.1)
    vector = types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    return types["nav_msgs/msg/Odometry"](
        head,
        "base_link",
        types["geometry_msgs/msg/PoseWithCovariance"](
            types["geometry_msgs/msg/Pose"](
                types["geometry_msgs/msg/Point"](*(float(v) for v in pose[:3, 3])),
                types["geometry_msgs/msg/Quaternion"](
                    0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
                ),
            ),
            covariance.reshape(-1),
        ),
        types["geometry_msgs/msg/TwistWithCovariance"](
            types["geometry_msgs/msg/Twist"](vector, vector), np.zeros(36)
        ),
    )


def diagnostics(values: dict[str, str]) -> Any:
    """A DiagnosticArray as the node publishes it about its model."""
    types = _STORE.types
    pairs = [types["diagnostic_msgs/msg/KeyValue"](key, value) for key, value in values.items()]
    status = types["diagnostic_msgs/msg/DiagnosticStatus"](
        0, "coopnet: model", "running", "", pairs
    )
    head = bag_messages.header(_STORE, 0, "")
    return types["diagnostic_msgs/msg/DiagnosticArray"](head, [status])


def _image(
    bag: BagWriter, topic: str, stamp_ns: int, head: Any, pixels: Any, encoding: str
) -> None:
    message = bag_messages.image(_STORE, head, pixels.astype(pixels.dtype), encoding)
    bag.write_message(topic, stamp_ns, message)
