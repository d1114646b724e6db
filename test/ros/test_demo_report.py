"""The report measures a recording correctly and is one page that needs nothing else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from synthetic_recording import LATENCY_NS, odometry, write_recording

from coopnet_core.data.bag_reader import default_typestore
from coopnet_core.data.ros_images import ENCODINGS, array_from_image
from coopnet_core.errors import DataError, InputError
from coopnet_ros import bag_messages
from coopnet_ros.bag_writer import BagWriter
from coopnet_ros.images import rgb_from_image
from coopnet_ros.report import main, write_report
from coopnet_ros.report_data import DEPTH, FLOW, MASK, _pose, frame_stamps, read_frames, read_run
from coopnet_ros.report_pictures import depth_bar, draw_panels, flow_wheel, still
from coopnet_ros.report_plots import Series, line_plot, sliding_rate, ticks, top_view

STORE = default_typestore()
IMAGE = "sensor_msgs/msg/Image"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("run") / "recording", count=30, drop=(4, 7))


def test_measurements_of_a_known_recording(recording: Path) -> None:
    run = read_run(recording)
    assert run.image.topic == "/camera/image/compressed"
    assert (run.image_size, run.output_size) == ((144, 48), (96, 32))
    assert run.image.rate_hz() == pytest.approx(10.0)
    assert run.dropped == 2
    # The first image has no flow, which is not a drop.
    assert {kind: latency.missing for kind, latency in run.latencies.items()} == {
        "depth/image": 2,
        "flow/image": 2,
        "motion/mask": 2,
        "odom": 2,
    }
    expected = [LATENCY_NS / 1e6 + i for i in range(30) if i not in (4, 7)]
    np.testing.assert_allclose(run.latencies[DEPTH].values_ms, expected)
    assert run.latencies[DEPTH].percentile(50) == pytest.approx(np.median(expected))
    assert run.latencies[DEPTH].seconds[-1] == pytest.approx(2.9)

    assert run.odometry is not None
    metrics = run.odometry.metrics
    assert (metrics.alignment, metrics.scale) == ("scale", pytest.approx(2.0))
    assert metrics.t_err_percent == pytest.approx(0.0, abs=1e-6)
    assert run.odometry.unaligned.t_err_percent > 40
    assert run.mask_share.shape == (27, 2)
    assert 0.01 < run.mask_share[0, 1] < 0.3
    assert run.facts == {"metric": "false"}


def test_frames_are_complete_and_in_order(recording: Path) -> None:
    run = read_run(recording)
    frames = list(read_frames(run))
    assert [frame.stamp_ns for frame in frames] == frame_stamps(run)
    assert len(frames) == 27
    frame = frames[0]
    assert frame.depth is not None
    assert frame.flow is not None
    assert frame.mask is not None
    assert (frame.depth.shape, frame.flow.shape, frame.mask.shape) == (
        (32, 96),
        (32, 96, 2),
        (32, 96),
    )
    panels = draw_panels(frame, run)
    assert [name for name, _ in panels.named()] == [
        "camera image",
        "depth",
        "optical flow",
        "motion mask",
    ]
    picture = still(panels, width=600)
    assert picture.shape[1:] == (600, 4)
    # The gap is transparent, the panels are not.
    assert picture[10, 300, 3] == 0
    assert picture[10, 10, 3] == 255


class _Outside(HTMLParser):
    """Collects everything that a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_report_is_one_page_with_everything_in_it(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(recording, out, title="A <run>", footer="Terms & conditions")
    page = (out / "report.html").read_text("utf-8")
    parser = _Outside()
    parser.feed(page)
    assert all(load.startswith("data:") for load in parser.loads)
    assert not re.search(r"https?://", page)
    assert parser.tags.count("canvas") == 4
    assert parser.tags.count("section") == 1 + 4 + 3
    text = " ".join(parser.words)
    for expected in ("A <run>", "Terms & conditions", "2.000", "unscaled", "slowest output"):
        assert expected in text

    script = re.search(r'id="run">(.*?)</script>', page, re.DOTALL)
    assert script is not None
    data = json.loads(script[1])
    assert [len(urls) for urls in data["panels"]] == [27] * 4
    assert len(data["seconds"]) == 27
    assert len(data["poseSeconds"]) == 28
    numbers = json.loads((out / "numbers.json").read_text("utf-8"))
    assert numbers["dropped_images"] == 2
    assert numbers["outputs"]["depth/image"]["latency_ms"]["p50"] == pytest.approx(54.5, abs=1)
    assert numbers["odometry"]["scale"] == pytest.approx(2.0)
    assert cv2.imread(str(out / "demo.png"), cv2.IMREAD_UNCHANGED).shape[2] == 4


def test_report_command(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--out", str(tmp_path), "--still", "1.0"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"depth +28 +9\.\d\d", text)
    assert "odometry, scale" in text
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_recording_without_truth_flow_and_mask(tmp_path: Path) -> None:
    """Whatever was recorded is shown; here a colour image, depth and odometry that is lost."""
    with BagWriter(tmp_path / "recording") as bag:
        bag.add_topic("/image", "sensor_msgs/msg/Image")
        bag.add_topic("/coopnet/depth/image", "sensor_msgs/msg/Image")
        bag.add_topic("/coopnet/odom", "nav_msgs/msg/Odometry")
        head = bag_messages.header(STORE, 5, "camera")
        depth = np.full((8, 16), np.nan, np.float32)
        bag.write_message(
            "/image", 10, bag_messages.image(STORE, head, np.zeros((8, 16, 3), np.uint8), "bgr8")
        )
        bag.write_message(
            "/coopnet/depth/image", 20, bag_messages.image(STORE, head, depth, "32FC1")
        )
        bag.write_message("/coopnet/odom", 20, odometry(head, np.eye(4), lost=True))
    run = write_report(tmp_path / "recording", tmp_path)
    assert set(run.outputs) == {"depth/image", "odom"}
    assert run.odometry is None
    assert run.trajectory is not None
    assert run.trajectory.lost.all()
    assert FLOW not in run.latencies
    assert MASK not in run.latencies
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<canvas") == 2
    assert "NaN" not in page
    assert json.loads((tmp_path / "numbers.json").read_text())["input"]["rate_hz"] is None


@pytest.mark.parametrize(
    ("topics", "options", "message"),
    [
        (["/a/image", "/b/image", "/coopnet/depth/image"], {}, "several input image topics"),
        (["/a/image", "/coopnet/depth/image"], {"image_topic": "/c"}, "no input images on /c"),
        (["/a/image"], {}, "no output of /coopnet"),
        (["/coopnet/depth/image"], {}, "no input images"),
        (["/a/image", "/coopnet/depth/image"], {"node": "/other"}, "several input image topics"),
    ],
)
def test_unusable_recordings_are_explained(
    tmp_path: Path, topics: list[str], options: dict[str, Any], message: str
) -> None:
    with BagWriter(tmp_path / "recording") as bag:
        head = bag_messages.header(STORE, 5, "camera")
        for topic in topics:
            bag.add_topic(topic, "sensor_msgs/msg/Image")
            pixels = np.zeros((8, 16), np.uint8)
            bag.write_message(topic, 10, bag_messages.image(STORE, head, pixels, "mono8"))
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "recording", **options)


def test_unknown_encoding_is_named() -> None:
    head = bag_messages.header(STORE, 0, "camera")
    message = bag_messages.image(STORE, head, np.zeros((2, 2), np.uint8), "bayer_rggb8")
    with pytest.raises(InputError, match=r"'bayer_rggb8'.*expected one of mono8"):
        array_from_image(message)


@pytest.mark.parametrize("encoding", ["mono8", "rgb8", "bgr8", "32FC1", "32FC2"])
def test_messages_of_a_bag_are_viewed_like_those_of_a_topic(encoding: str) -> None:
    code, channels = ENCODINGS[encoding]
    values = np.arange(6 * channels, dtype=code).reshape(2, 3, channels)
    expected = values[..., 0] if channels == 1 else values
    head = bag_messages.header(STORE, 0, "camera")
    data = STORE.serialize_cdr(bag_messages.image(STORE, head, expected, encoding), IMAGE)
    message = STORE.deserialize_cdr(data, IMAGE)
    np.testing.assert_array_equal(array_from_image(message), expected)
    if encoding == "bgr8":
        np.testing.assert_array_equal(rgb_from_image(message), expected[..., ::-1])


def motion_to(x: float, y: float, z: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def test_a_pose_without_orientation_keeps_its_position() -> None:
    message = odometry(bag_messages.header(STORE, 0, "odom"), motion_to(1.0, 2.0, 3.0))
    message.pose.pose.orientation.w = 0.0
    pose, is_lost = _pose(message)
    np.testing.assert_array_equal(pose, motion_to(1.0, 2.0, 3.0))
    assert not is_lost


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 10, 5) == pytest.approx([0, 2, 4, 6, 8, 10])
    assert ticks(0, 9.9, 7) == pytest.approx(range(10))
    assert ticks(-0.23, 0.31, 5) == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2, 0.3])
    for low, high in ((0, 1e-3), (-7, 1234.5), (3, 3.0001)):
        found = ticks(low, high)
        assert 3 <= len(found) <= 10
        assert low <= found[0] + 1e-9
        assert found[-1] <= high + 1e-9
    assert ticks(2.0, 2.0) == [2.0]


def test_plots_keep_scale_and_break_lines_at_gaps() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    svg = line_plot([Series("a", x, np.array([1.0, np.nan, 1.0, 1.0]), "c1")], "t", "y", (0.0, 3.0))
    assert svg.count("M") == 2
    svg = top_view([Series("a", x * 10, x, "c1")], "x", "y", width=600)
    points = [
        tuple(map(float, p.split(",")))
        for p in re.search(r'data-points="(.*?)"', svg)[1].split()  # type: ignore[index]
    ]
    # Ten forward, one left: the same number of pixels for a metre on both axes, left is up.
    assert (points[1][0] - points[0][0]) == pytest.approx(-(points[1][1] - points[0][1]) * 10, 0.05)

    rates = sliding_rate(np.arange(20) * 0.1)
    assert np.isnan(rates[:10]).all()
    np.testing.assert_allclose(rates[10:], 10.0)
    assert sliding_rate(np.zeros(0)).size == 0


def test_legends_run_the_right_way() -> None:
    bar = depth_bar(2.0, 20.0).astype(int).sum(axis=-1)[0]
    assert bar[0] > bar[-1]
    wheel = flow_wheel(64)
    right, left = wheel[32, 60], wheel[32, 3]
    assert right[2] > right[0]
    assert left[0] > left[2]
    assert wheel[0, 0, 3] == 0
