"""The demo bag in the repository is what its README says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from mcap.reader import make_reader

from coopnet_core.data.bag_reader import Bag, camera_topics
from coopnet_core.data.sequence import Sequence
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros import bag_messages

ROOT = Path(__file__).resolve().parents[2]
DEMO_BAG = ROOT / "demo" / "kitti_03"


def test_demo_bag_holds_a_camera_with_ground_truth() -> None:
    with Bag(DEMO_BAG) as bag:
        topics = camera_topics(bag)
        assert topics.image.name == "/camera/image/compressed"
        assert topics.camera_info.name == "/camera/camera_info"
        counts = {name: topic.count for name, topic in bag.topics.items()}
        assert counts == {
            "/tf_static": 1,
            "/camera/camera_info": 100,
            "/camera/image/compressed": 100,
            "/ground_truth/odom": 100,
        }
        images = [bag.deserialize(m) for m in bag.messages([topics.image.name])]
        info = bag.deserialize(next(bag.messages([topics.camera_info.name])))
        truth = [bag.deserialize(m) for m in bag.messages(["/ground_truth/odom"])]
        mount = bag.deserialize(next(bag.messages(["/tf_static"]))).transforms[0]

    stamps = [bag_messages.stamp_ns(image) for image in images]
    assert set(np.diff(stamps)) == {10**8}
    for image in (images[0], images[-1]):
        assert image.format == "jpeg"
        pixels = cv2.imdecode(image.data, cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (info.height, info.width) == (187, 621)
    assert info.k[0] == pytest.approx(360.76885)
    assert not info.d.any()

    assert [bag_messages.stamp_ns(odometry) for odometry in truth] == stamps
    first, last = truth[0], truth[-1]
    position = first.pose.pose.position
    assert (position.x, position.y, position.z) == pytest.approx((0, 0, 0), abs=1e-9)
    assert first.pose.pose.orientation.w == pytest.approx(1.0)
    assert (first.header.frame_id, first.child_frame_id) == ("odom", "base_link")
    # The car drives forward, and turns left at the end.
    assert last.pose.pose.position.x > 50
    assert last.pose.pose.position.y > 0
    assert last.pose.pose.orientation.z > 0.05
    assert first.twist.twist.linear.x == pytest.approx(9.1, abs=0.1)

    assert (mount.header.frame_id, mount.child_frame_id) == (
        first.child_frame_id,
        images[0].header.frame_id,
    )
    assert mount.transform.translation.z == 1.65


def test_demo_bag_is_small_and_has_its_licence_beside_it() -> None:
    size = sum(file.stat().st_size for file in DEMO_BAG.iterdir())
    assert size < 8e6
    notice = (DEMO_BAG.parent / "README.md").read_text("utf-8")
    for needed in ("Attribution-NonCommercial-ShareAlike 3.0", "KITTI", "Changes:"):
        assert needed in notice


def test_demo_bag_is_readable_by_foxglove_and_rosbag2() -> None:
    with (DEMO_BAG / "kitti_03.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 301
        assert reader.get_header().profile == "ros2"
        for schema in summary.schemas.values():
            assert schema.encoding == "ros2msg"
            assert schema.data
        assert all(c.message_encoding == "cdr" for c in summary.channels.values())
        latched = {c.topic: c.metadata["offered_qos_profiles"] for c in summary.channels.values()}
        assert sum(1 for _ in reader.iter_messages()) == 301
    assert "durability: 1" in latched["/tf_static"]
    assert "durability: 2" in latched["/camera/camera_info"]

    information = yaml.safe_load((DEMO_BAG / "metadata.yaml").read_text("utf-8"))
    information = information["rosbag2_bagfile_information"]
    # Version 8 stores QoS as text, which is what Humble expects too.
    assert information["version"] == 8
    assert information["storage_identifier"] == "mcap"
    assert information["relative_file_paths"] == ["kitti_03.mcap"]
    for topic in information["topics_with_message_count"]:
        assert isinstance(topic["topic_metadata"]["offered_qos_profiles"], str)


def test_bag_maker_moves_poses_into_the_base_frame() -> None:
    spec = importlib.util.spec_from_file_location(
        "make_demo_bag", ROOT / "scripts" / "make_demo_bag.py"
    )
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)

    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[0, :3, 3] = [5.0, 6.0, 7.0]
    # One metre ahead, turned left by 90 degrees (about the optical y axis, which points down).
    poses[1, :3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    poses[1, :3, 3] = [5.0, 6.0, 8.0]
    camera = Intrinsics(8, 6, 7.0, 7.0, 3.5, 2.5)
    sequence = Sequence("test", (Path("a"), Path("b")), (0, 1), camera, (0, 1), poses)
    base = maker.base_poses(sequence)
    np.testing.assert_allclose(base[0], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(base[1, :3, 3], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(base[1, :3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
