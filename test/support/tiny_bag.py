"""Small bags of a small camera, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from coopnet_core.geometry.intrinsics import Intrinsics

WIDTH, HEIGHT = 48, 32
CAMERA = Intrinsics(WIDTH, HEIGHT, 40.0, 40.0, 23.5, 15.5)
STORE = get_typestore(Stores.ROS2_JAZZY)
OLD_STORE = get_typestore(Stores.ROS1_NOETIC)
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
PERIOD_NS = 10**8
START_NS = 5 * 10**9


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray[Any, Any]:
    """Smooth noise, BGR."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.blur(noise, (5, 5))


def message(store: Any, kind: str, stamp_ns: int, **fields: Any) -> Any:
    """A message with a header."""
    stamp = store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    first = () if store is STORE else (0,)
    return store.types[kind](store.types["std_msgs/msg/Header"](*first, stamp, "cam"), **fields)


def info(store: Any, stamp_ns: int, tx: float = 0.0, d: tuple[float, ...] = (0.0,) * 5) -> Any:
    """CameraInfo of CAMERA; tx is P[3]."""
    K = CAMERA.matrix()
    P = np.hstack([K, [[tx], [0.0], [0.0]]]).reshape(-1)
    names = "dkrp" if store is STORE else "DKRP"
    arrays = (np.array(d), K.reshape(-1), np.eye(3).reshape(-1), P)
    return message(
        store,
        INFO,
        stamp_ns,
        height=HEIGHT,
        width=WIDTH,
        distortion_model="plumb_bob",
        **dict(zip(names, arrays, strict=True)),
        binning_x=0,
        binning_y=0,
        roi=store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )


def raw(store: Any, stamp_ns: int, seed: int) -> Any:
    """A bgr8 Image of picture(seed)."""
    return message(
        store,
        IMAGE,
        stamp_ns,
        height=HEIGHT,
        width=WIDTH,
        encoding="bgr8",
        is_bigendian=0,
        step=WIDTH * 3,
        data=picture(seed).reshape(-1),
    )


def jpeg(stamp_ns: int, data: bytes) -> Any:
    """A CompressedImage."""
    return message(STORE, COMPRESSED, stamp_ns, format="jpeg", data=np.frombuffer(data, np.uint8))


def write_bag(path: Path, kind: str, messages: list[tuple[str, str, int, Any]]) -> Path:
    """A bag of (topic, type, log time, message); ``kind`` is sqlite3, mcap or ros1."""
    store = OLD_STORE if kind == "ros1" else STORE
    if kind == "ros1":
        path = path.with_suffix(".bag")
        writer: Any = Writer1(path)
    else:
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        writer = Writer2(path, version=8, storage_plugin=plugin)
    with writer:
        topics: dict[str, Any] = {}
        for topic, msgtype, stamp_ns, content in messages:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, msgtype, typestore=store)
            serialize = store.serialize_ros1 if kind == "ros1" else store.serialize_cdr
            writer.write(topics[topic], stamp_ns, serialize(content, msgtype))
    return path
