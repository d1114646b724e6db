#!/usr/bin/env python3
"""Make the demo bag from the KITTI odometry data set: camera, calibration, ground truth.

    python scripts/make_demo_bag.py KITTI_ODOMETRY_ROOT demo/kitti_03

The JPEG bytes go into the bag as they are. The odometry is the benchmark's ground truth, moved from
the camera to a base frame on the road below it.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.typesys.store import Typestore

from coopnet_core.data.bag_reader import default_typestore
from coopnet_core.data.kitti_odometry import read_sequence
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import CoopNetError
from coopnet_core.inference.rigid import quaternion_from_rotation
from coopnet_ros import bag_messages
from coopnet_ros.bag_writer import BagWriter, reliable_qos

IMAGE_TOPIC = "/camera/image/compressed"
CAMERA_INFO_TOPIC = "/camera/camera_info"
ODOMETRY_TOPIC = "/ground_truth/odom"
STATIC_TF_TOPIC = "/tf_static"

CAMERA_FRAME = "camera_optical_frame"
BASE_FRAME = "base_link"
ODOM_FRAME = "odom"

# The sequence was recorded on this day (drive 2011_09_26_drive_0067). The benchmark gives times
# from the start of the sequence only, so the bag starts to count at midnight UTC.
RECORDING_DAY_NS = int(datetime(2011, 9, 26, tzinfo=timezone.utc).timestamp()) * 10**9

# Height of the cameras above the road, from the data set's description of the car.
CAMERA_HEIGHT_M = 1.65

_T_BASE_CAM = np.array(
    [[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, CAMERA_HEIGHT_M], [0, 0, 0, 1]], dtype=np.float64
)

Matrix = npt.NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make the demo bag from KITTI odometry.")
    parser.add_argument("root", type=Path, help="folder with sequences/ and poses/")
    parser.add_argument("destination", type=Path, help="bag directory to create")
    parser.add_argument("--sequence", default="03")
    parser.add_argument("--first", type=int, default=650, help="first frame number")
    parser.add_argument("--count", type=int, default=100, help="number of frames")
    arguments = parser.parse_args(argv)
    frames = range(arguments.first, arguments.first + arguments.count)
    try:
        write_bag(read_sequence(arguments.root, arguments.sequence, frames), arguments.destination)
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in arguments.destination.iterdir())
    print(f"{arguments.destination}: {arguments.count} frames, {size / 1e6:.1f} MB")
    return 0


def write_bag(sequence: Sequence, destination: Path) -> None:
    """Write images, calibration, ground truth and the camera's mount as a bag.

    Args:
        sequence: Frames of a rectified camera with poses.
        destination: Bag directory to create.

    Raises:
        DataError: The destination exists.
    """
    store = default_typestore()
    stamps_ns = [RECORDING_DAY_NS + stamp for stamp in sequence.stamps_ns]
    poses = base_poses(sequence)
    with BagWriter(destination) as bag:
        bag.add_topic(STATIC_TF_TOPIC, "tf2_msgs/msg/TFMessage", [reliable_qos(1, latched=True)])
        bag.add_topic(CAMERA_INFO_TOPIC, "sensor_msgs/msg/CameraInfo", [reliable_qos()])
        bag.add_topic(IMAGE_TOPIC, "sensor_msgs/msg/CompressedImage", [reliable_qos()])
        bag.add_topic(ODOMETRY_TOPIC, "nav_msgs/msg/Odometry", [reliable_qos()])
        mount = _static_transform(store, stamps_ns[0])
        bag.write_message(STATIC_TF_TOPIC, stamps_ns[0], mount)
        for index, (path, stamp_ns) in enumerate(zip(sequence.paths, stamps_ns, strict=True)):
            header = bag_messages.header(store, stamp_ns, CAMERA_FRAME)
            info = bag_messages.camera_info(store, header, sequence.intrinsics)
            bag.write_message(CAMERA_INFO_TOPIC, stamp_ns, info)
            image = bag_messages.compressed_image(store, header, "jpeg", path.read_bytes())
            bag.write_message(IMAGE_TOPIC, stamp_ns, image)
            odometry = _odometry(store, stamps_ns, poses, index)
            bag.write_message(ODOMETRY_TOPIC, stamp_ns, odometry)


def base_poses(sequence: Sequence) -> Matrix:
    """Return the base frame's poses relative to the first frame, T_odom_base, (N, 4, 4), metres."""
    if sequence.poses is None:
        raise CoopNetError(f"{sequence.name} has no ground truth: poses/NN.txt is missing")
    T_world_cam = sequence.poses
    T_first_cam = np.linalg.inv(T_world_cam[0]) @ T_world_cam
    return np.asarray(_T_BASE_CAM @ T_first_cam @ np.linalg.inv(_T_BASE_CAM), np.float64)


def _odometry(store: Typestore, stamps_ns: list[int], poses: Matrix, index: int) -> Any:
    types = store.types
    point = types["geometry_msgs/msg/Point"]
    vector = types["geometry_msgs/msg/Vector3"]
    T_odom_base = poses[index]
    linear, angular = _twist(stamps_ns, poses, index)
    return types["nav_msgs/msg/Odometry"](
        header=bag_messages.header(store, stamps_ns[index], ODOM_FRAME),
        child_frame_id=BASE_FRAME,
        pose=types["geometry_msgs/msg/PoseWithCovariance"](
            types["geometry_msgs/msg/Pose"](
                point(*(float(value) for value in T_odom_base[:3, 3])),
                types["geometry_msgs/msg/Quaternion"](
                    *quaternion_from_rotation(T_odom_base[:3, :3])
                ),
            ),
            np.zeros(36),
        ),
        twist=types["geometry_msgs/msg/TwistWithCovariance"](
            types["geometry_msgs/msg/Twist"](vector(*linear), vector(*angular)), np.zeros(36)
        ),
    )


def _twist(
    stamps_ns: list[int], poses: Matrix, index: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Velocity in the base frame by the difference of the neighbouring poses."""
    before, after = max(0, index - 1), min(len(poses) - 1, index + 1)
    duration_s = (stamps_ns[after] - stamps_ns[before]) / 1e9
    R_base_odom = poses[index][:3, :3].T
    linear = R_base_odom @ (poses[after][:3, 3] - poses[before][:3, 3]) / duration_s
    x, y, z, _ = quaternion_from_rotation(poses[before][:3, :3].T @ poses[after][:3, :3])
    # For the small rotations between frames, 2 * vector part is the rotation vector.
    angular = 2 * np.array([x, y, z]) / duration_s
    return tuple(float(value) for value in linear), tuple(float(value) for value in angular)


def _static_transform(store: Typestore, stamp_ns: int) -> Any:
    types = store.types
    x, y, z = (float(value) for value in _T_BASE_CAM[:3, 3])
    transform = types["geometry_msgs/msg/TransformStamped"](
        bag_messages.header(store, stamp_ns, BASE_FRAME),
        CAMERA_FRAME,
        types["geometry_msgs/msg/Transform"](
            types["geometry_msgs/msg/Vector3"](x, y, z),
            types["geometry_msgs/msg/Quaternion"](*quaternion_from_rotation(_T_BASE_CAM[:3, :3])),
        ),
    )
    return types["tf2_msgs/msg/TFMessage"]([transform])


if __name__ == "__main__":
    sys.exit(main())
