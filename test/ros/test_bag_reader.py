"""Bags are read, and bad ones are refused with an error that says what to do."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from coopnet_core.data.bag_reader import Bag, camera_topics, default_typestore
from coopnet_core.data.camera_info import calibration_from_camera_info
from coopnet_core.data.ros_images import array_from_image
from coopnet_core.errors import DataError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros import bag_messages
from coopnet_ros.bag_recovery import main as recover_main
from coopnet_ros.bag_recovery import recover
from coopnet_ros.bag_writer import BagWriter, reliable_qos

STORE = default_typestore()
STORE1 = get_typestore(Stores.ROS1_NOETIC)
Header1 = STORE1.types["std_msgs/msg/Header"]
IMAGE = "sensor_msgs/msg/Image"
INFO = "sensor_msgs/msg/CameraInfo"
CAMERA = Intrinsics(8, 6, 7.0, 7.0, 3.5, 2.5)


def write_bag(path: Path, topics: dict[str, str], count: int = 3) -> Path:
    """A bag with `count` messages on each of the image and camera_info topics."""
    with BagWriter(path) as bag:
        for topic, msgtype in topics.items():
            bag.add_topic(topic, msgtype, [reliable_qos()])
        for index in range(count):
            stamp_ns = 10**9 + index * 10**8
            head = bag_messages.header(STORE, stamp_ns, "camera")
            messages = {
                IMAGE: bag_messages.image(STORE, head, np.full((6, 8), index, np.uint8), "mono8"),
                INFO: bag_messages.camera_info(STORE, head, CAMERA),
            }
            for topic, msgtype in topics.items():
                bag.write_message(topic, stamp_ns, messages[msgtype])
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", {"/cam/image_raw": IMAGE, "/cam/camera_info": INFO})
    with Bag(path) as bag:
        assert (bag.start_ns, bag.end_ns) == (10**9, 10**9 + 2 * 10**8)
        assert {topic.count for topic in bag.topics.values()} == {3}
        images = [bag.deserialize(m) for m in bag.messages(["/cam/image_raw"])]
        later = list(bag.messages(["/cam/image_raw"], start_ns=10**9 + 10**8))
        info = bag.deserialize(next(bag.messages(["/cam/camera_info"])))
    assert [int(array_from_image(image)[0, 0]) for image in images] == [0, 1, 2]
    assert [m.stamp_ns for m in later] == [10**9 + 10**8, 10**9 + 2 * 10**8]
    assert (info.width, info.height, info.k[0], info.p[2]) == (8, 6, 7.0, 3.5)


def test_sqlite3_bag_is_read(tmp_path: Path) -> None:
    head = bag_messages.header(STORE, 5, "camera")
    message = bag_messages.camera_info(STORE, head, CAMERA)
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/camera_info", INFO, typestore=STORE)
        writer.write(connection, 5, STORE.serialize_cdr(message, INFO))
    with Bag(tmp_path / "bag") as bag:
        assert bag.deserialize(next(bag.messages())).k[0] == 7.0
    with Bag(next((tmp_path / "bag").glob("*.db3"))) as bag:
        assert list(bag.topics) == ["/camera_info"]


def test_ros1_bag_reads_as_if_ros2_had_recorded_it(tmp_path: Path) -> None:
    head = Header1(7, STORE.types["builtin_interfaces/msg/Time"](3, 5), "camera")
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    image = bag_messages.image(STORE, head, pixels, "mono8")
    info = bag_messages.camera_info(STORE, head, CAMERA)
    info = STORE1.types[INFO](*(getattr(info, name.name) for name in dataclasses.fields(info)))
    with Writer1(tmp_path / "old.bag") as writer:
        for topic, msgtype, message in (
            ("/image", IMAGE, image),
            ("/camera_info", INFO, info),
            ("/rosout", "rosgraph_msgs/msg/Log", None),
        ):
            connection = writer.add_connection(topic, msgtype, typestore=STORE1)
            if message is not None:
                writer.write(connection, 9, STORE1.serialize_ros1(message, msgtype))
    with Bag(tmp_path / "old.bag") as bag:
        # ROS 2 has no rosgraph_msgs/Log.
        assert sorted(bag.topics) == ["/camera_info", "/image"]
        read = {m.topic: STORE.deserialize_cdr(m.data, m.msgtype) for m in bag.messages()}
    assert bag_messages.stamp_ns(read["/image"]) == 3 * 10**9 + 5
    assert np.array_equal(array_from_image(read["/image"]), pixels)
    assert calibration_from_camera_info(read["/camera_info"], 8, 6).intrinsics() == CAMERA


def test_camera_info_is_found_beside_or_above_the_image(tmp_path: Path) -> None:
    topics = {
        "/a/left/image_raw": IMAGE,
        "/a/left/camera_info": INFO,
        "/a/camera_info": INFO,
        "/b/image/deep": IMAGE,
        "/b/camera_info": INFO,
    }
    with Bag(write_bag(tmp_path / "bag", topics)) as bag:
        assert camera_topics(bag, "/a/left/image_raw").camera_info.name == "/a/left/camera_info"
        assert camera_topics(bag, "/b/image/deep").camera_info.name == "/b/camera_info"
        chosen = camera_topics(bag, "/b/image/deep", "/a/camera_info")
        assert chosen.camera_info.name == "/a/camera_info"


@pytest.mark.parametrize(
    ("topics", "wanted", "message"),
    [
        ({"/camera_info": INFO}, None, r"no image topic .*it has: /camera_info"),
        ({"/image": IMAGE}, None, r"no camera_info topic .*it has: /image \(sensor_msgs/msg/Image"),
        (
            {"/l/image": IMAGE, "/r/image": IMAGE, "/camera_info": INFO},
            None,
            r"several image topics, choose one with image_topic: /l/image .*/r/image",
        ),
        (
            {"/image": IMAGE, "/a/camera_info": INFO, "/b/camera_info": INFO},
            None,
            r"several camera_info topics.*/a/camera_info .*/b/camera_info",
        ),
        (
            {"/image": IMAGE, "/camera_info": INFO},
            "/picture",
            r"on /picture .*no such topic; candidates: /image",
        ),
        (
            {"/image": IMAGE, "/camera_info": INFO},
            "/camera_info",
            r"a sensor_msgs/msg/CameraInfo there; candidates: /image",
        ),
    ],
)
def test_unusable_topics_are_named(
    tmp_path: Path, topics: dict[str, str], wanted: str | None, message: str
) -> None:
    with Bag(write_bag(tmp_path / "bag", topics)) as bag, pytest.raises(DataError, match=message):
        camera_topics(bag, wanted)


def test_unknown_topic_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with (
        Bag(write_bag(tmp_path / "bag", {"/image": IMAGE})) as bag,
        pytest.raises(DataError, match=r"no topic /imgae; it has: /image"),
    ):
        next(bag.messages(["/imgae"]))


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ros1.bag").write_bytes(b"#ROSBAG V2.0\n")
    (tmp_path / "notes.txt").write_text("no bag")
    for name, message in (
        ("absent", "does not exist"),
        ("empty", "neither metadata.yaml nor"),
        ("ros1.bag", "damaged or not a bag"),
        ("notes.txt", "is not a bag"),
    ):
        with pytest.raises(DataError, match=message):
            Bag(tmp_path / name)


def test_damaged_bags_are_refused(tmp_path: Path) -> None:
    good = write_bag(tmp_path / "good", {"/image": IMAGE})
    cases = {
        "no_bytes": (b"", "is empty"),
        "garbage": (b"not an mcap file at all", "damaged or not a bag"),
        "cut": ((good / "good.mcap").read_bytes()[:-200], "was cut off.*bag_recovery"),
    }
    for name, (content, message) in cases.items():
        bad = tmp_path / name
        shutil.copytree(good, bad)
        (bad / "good.mcap").write_bytes(content)
        with pytest.raises(DataError, match=message):
            Bag(bad)
    (good / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    with pytest.raises(DataError, match="damaged or not a bag"):
        Bag(good)


def test_empty_bag_is_refused(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/image", IMAGE)
    with pytest.raises(DataError, match="has no messages"):
        Bag(tmp_path / "bag")


def test_damage_inside_is_reported_after_the_good_part(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", {"/image": IMAGE}, count=50)
    file = path / "bag.mcap"
    content = bytearray(file.read_bytes())
    # Overwrite the length of a message record half way.
    position = content.index(b"\x05", len(content) // 2)
    content[position : position + 40] = b"\xff" * 40
    file.write_bytes(content)
    with Bag(path) as bag, pytest.raises(DataError, match="is damaged after"):
        list(bag.messages())


def test_cut_off_bag_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    writer = BagWriter(path)
    writer.add_topic("/image", IMAGE)
    head = bag_messages.header(STORE, 1, "camera")
    for index in range(20):
        pixels = np.full((64, 64), index, np.uint8)
        writer.write_message("/image", index, bag_messages.image(STORE, head, pixels, "mono8"))
        if index == 14:
            writer.flush()
    # The writer is never closed: this is what a killed recorder leaves.
    with pytest.raises(DataError, match="was cut off"):
        Bag(path)
    assert recover(path, tmp_path / "saved") == {"/image": 15}
    with Bag(tmp_path / "saved") as bag:
        values = [int(array_from_image(bag.deserialize(m))[0, 0]) for m in bag.messages()]
    assert values == list(range(15))
    writer.close()


def test_recovery_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_bag(tmp_path / "good", {"/image": IMAGE, "/camera_info": INFO}, count=40)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes((good / "good.mcap").read_bytes()[:-100])
    assert recover_main([str(cut), str(tmp_path / "saved")]) == 0
    assert "saved 80 messages" in capsys.readouterr().out
    assert recover_main([str(cut), str(tmp_path / "saved")]) == 1
    assert "exists already" in capsys.readouterr().err
    cut.write_bytes(b"\x89MCAP0\r\n")
    assert recover_main([str(cut), str(tmp_path / "nothing")]) == 1
    assert "no complete record" in capsys.readouterr().err
    assert recover_main([str(tmp_path / "absent"), str(tmp_path / "nothing")]) == 1
    assert "found 0" in capsys.readouterr().err


def test_writer_refuses_what_it_cannot_describe(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        with pytest.raises(DataError, match="definition of my_msgs/msg/Thing is not known"):
            writer.add_topic("/thing", "my_msgs/msg/Thing")
        with pytest.raises(DataError, match="topic /thing was not added"):
            writer.write("/thing", 0, b"")
        writer.register_definition("my_msgs/msg/Thing", "float32 mass\n")
        writer.add_topic("/thing", "my_msgs/msg/Thing")
        with pytest.raises(DataError, match="cannot add topic /thing"):
            writer.add_topic("/thing", "my_msgs/msg/Thing")
    with pytest.raises(DataError, match="exists already"):
        BagWriter(tmp_path / "bag")
