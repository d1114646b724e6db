"""Sequence readers: what they return for real layouts, and how they refuse damaged ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from coopnet_core.data import image_folder, karlsruhe, kitti_odometry, video
from coopnet_core.data.images import decode_image, encoded_size, read_image
from coopnet_core.errors import CalibrationError, DataError

WIDTH, HEIGHT = 48, 16
FX, CX, CY, BASELINE = 30.0, 23.0, 8.0, 0.5


def _row(x_offset_m: float, y_offset_m: float = 0.0) -> str:
    values = [FX, 0, CX, FX * x_offset_m, 0, FX, CY, FX * y_offset_m, 0, 0, 1, 0]
    return " ".join(f"{value:.12e}" for value in values)


def _images(folder: Path, numbers: range, suffix: str = ".png", channels: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
        image = np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}{suffix}"), image)


@pytest.fixture
def kitti_root(tmp_path: Path) -> Path:
    """A KITTI odometry folder: 5 left frames, 3 right frames, colour cameras, poses."""
    folder = tmp_path / "sequences" / "07"
    _images(folder / "image_0", range(5))
    _images(folder / "image_1", range(3))
    _images(folder / "image_2", range(5), channels=3)
    (folder / "calib.txt").write_text(
        f"P0: {_row(0)}\nP1: {_row(-BASELINE)}\nP2: {_row(0.06, 0.01)}\nTr: 1 2 3\n"
    )
    (folder / "times.txt").write_text("".join(f"{0.1 * n:.6e}\n" for n in range(5)))
    (tmp_path / "poses").mkdir()
    rows = []
    for number in range(5):
        angle = 0.1 * number
        c, s = np.cos(angle), np.sin(angle)
        pose = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 1.0 * number]])
        rows.append(" ".join(f"{value:.9e}" for value in pose.ravel()))
    (tmp_path / "poses" / "07.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_kitti_sequence_has_camera_times_poses_and_right_camera(kitti_root: Path) -> None:
    sequence = kitti_odometry.read_sequence(kitti_root, "07", range(1, 4))
    assert sequence.indices == (1, 2, 3)
    assert [path.name for path in sequence.paths] == ["000001.png", "000002.png", "000003.png"]
    camera = sequence.intrinsics
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (FX, FX, CX, CY)
    assert sequence.stamps_ns == (100_000_000, 200_000_000, 300_000_000)
    assert sequence.poses is not None
    np.testing.assert_allclose(sequence.poses[:, 2, 3], [1, 2, 3])
    assert sequence.baseline_m == pytest.approx(BASELINE)
    assert sequence.right_paths is not None
    assert [path is None for path in sequence.right_paths] == [False, False, True]


def test_kitti_poses_follow_the_chosen_camera(kitti_root: Path) -> None:
    left = kitti_odometry.read_sequence(kitti_root, "07")
    colour = kitti_odometry.read_sequence(kitti_root, "07", camera="image_2")
    assert left.poses is not None
    assert colour.poses is not None
    assert colour.right_paths is None
    # A point seen by camera 0 lies at p + t in camera 2, at every time, for one world point.
    t_2_0 = np.array([0.06, 0.01, 0.0])
    point = np.array([1.0, 2.0, 9.0, 1.0])
    for pose_0, pose_2 in zip(left.poses, colour.poses, strict=True):
        p_0 = np.linalg.inv(pose_0) @ point
        # Both worlds are the first camera 0's axes; camera 2's world is shifted by t as well.
        p_2 = np.linalg.inv(pose_2) @ (point + np.append(t_2_0, 0.0))
        np.testing.assert_allclose(p_2[:3], p_0[:3] + t_2_0, atol=1e-9)


def test_kitti_without_poses_or_right_camera(kitti_root: Path) -> None:
    (kitti_root / "poses" / "07.txt").unlink()
    sequence = kitti_odometry.read_sequence(kitti_root, "07", camera="image_1")
    assert sequence.poses is None
    assert sequence.right_paths is None
    assert sequence.baseline_m is None
    assert len(sequence) == 3


def test_missing_frame_is_named(kitti_root: Path) -> None:
    (kitti_root / "sequences" / "07" / "image_0" / "000002.png").unlink()
    with pytest.raises(DataError, match="the first is 000002"):
        kitti_odometry.read_sequence(kitti_root, "07")
    with pytest.raises(DataError, match="the first is 000002"):
        kitti_odometry.read_sequence(kitti_root, "07", range(4))
    assert len(kitti_odometry.read_sequence(kitti_root, "07", range(3, 5))) == 2


@pytest.mark.parametrize(
    ("sequence", "camera", "message"),
    [("08", "image_0", "sequences/08"), ("07", "image_9", "image_9"), ("07", "image_3", "image_3")],
)
def test_unknown_sequence_or_camera(
    kitti_root: Path, sequence: str, camera: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        kitti_odometry.read_sequence(kitti_root, sequence, camera=camera)


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ("P1: " + _row(0), DataError, "P0"),
        ("P0: 1 2 3", DataError, "12 numbers"),
        ("P0: " + _row(0).replace("3.0", "0.0"), CalibrationError, "fx must be positive"),
        ("P0: 100 0 95 0 0 100 32 0 0 0 1 0", CalibrationError, "48x16"),
        ("P0: a b c", DataError, "could not convert"),
    ],
)
def test_bad_kitti_calibration(
    kitti_root: Path, calibration: str, error: type[Exception], message: str
) -> None:
    (kitti_root / "sequences" / "07" / "calib.txt").write_text(calibration + "\n")
    with pytest.raises(error, match=message) as caught:
        kitti_odometry.read_sequence(kitti_root, "07")
    assert "calib.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sequences/07/times.txt", "0\n0.1\n", "2 times, but frame 4"),
        ("sequences/07/times.txt", "0\n0.1\n0.05\n0.3\n0.4\n", "backwards"),
        ("sequences/07/times.txt", "", "no numbers"),
        ("poses/07.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n", "1 poses, but frame 4"),
        ("poses/07.txt", "1 0 0\n", "line 1: expected 12"),
        ("poses/07.txt", "1 0 0 nan 0 1 0 0 0 0 1 0\n", "line 1: expected 12"),
    ],
)
def test_bad_times_or_poses(kitti_root: Path, name: str, content: str, message: str) -> None:
    (kitti_root / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        kitti_odometry.read_sequence(kitti_root, "07")
    assert name.rsplit("/", maxsplit=1)[-1] in str(caught.value)


def test_karlsruhe_sequence(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    _images(folder / "left", range(4), ".jpg")
    _images(folder / "right", range(4), ".jpg")
    (folder / "calib.txt").write_text(f"P0: {_row(0)}\nP1: {_row(-BASELINE)}\n")
    (folder / "times.txt").write_text("0.0\n0.11\n0.20\n0.31\n")
    sequence = karlsruhe.read_sequence(tmp_path, "drive", range(2, 4))
    assert sequence.stamps_ns == (200_000_000, 310_000_000)
    assert sequence.baseline_m == pytest.approx(BASELINE)
    assert sequence.poses is None
    (folder / "calib.txt").write_text(f"P0: {_row(0)}\nP1: {_row(BASELINE)}\n")
    with pytest.raises(DataError, match="baseline must be positive"):
        karlsruhe.read_sequence(tmp_path, "drive")


def _calibration(path: Path, **changes: object) -> Path:
    content: dict[str, object] = {
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "camera_matrix": {"data": [FX, 0, CX, 0, FX, CY, 0, 0, 1]},
        "distortion_coefficients": {"data": [0, 0, 0, 0, 0]},
    }
    content.update(changes)
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def test_image_folder_in_natural_order_at_a_rate(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.png", "f1.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((HEIGHT, WIDTH), np.uint8))
    _calibration(tmp_path / "calibration.yaml")
    sequence = image_folder.read_sequence(tmp_path, rate_hz=5.0)
    assert [path.name for path in sequence.paths] == ["f1.png", "f2.png", "f10.png"]
    assert sequence.stamps_ns == (0, 200_000_000, 400_000_000)
    assert sequence.intrinsics.fx == FX
    (tmp_path / "times.txt").write_text("5\n5.5\n7\n")
    sequence = image_folder.read_sequence(tmp_path, frames=range(1, 3))
    assert sequence.stamps_ns == (5_500_000_000, 7_000_000_000)
    with pytest.raises(DataError, match="3 images"):
        image_folder.read_sequence(tmp_path, frames=range(1, 9))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_width": WIDTH * 2}, CalibrationError, "96x16"),
        ({"camera_matrix": None}, CalibrationError, "camera_matrix"),
        ({"camera_matrix": {"data": [1, 2]}}, CalibrationError, "9 numbers"),
        (
            {"camera_matrix": {"data": [0, 0, CX, 0, 0, CY, 0, 0, 1]}},
            CalibrationError,
            "zero focal",
        ),
        ({"distortion_coefficients": {"data": [0.1, 0, 0, 0, 0]}}, CalibrationError, "rectify"),
        ({"image_width": "wide"}, CalibrationError, "wide"),
    ],
)
def test_bad_calibration_file(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    _images(tmp_path, range(1))
    _calibration(tmp_path / "calibration.yaml", **changes)
    with pytest.raises(error, match=message) as caught:
        image_folder.read_sequence(tmp_path)
    assert "calibration.yaml" in str(caught.value)


def test_image_folder_without_calibration_or_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        image_folder.read_sequence(tmp_path)
    _images(tmp_path, range(1))
    with pytest.raises(DataError, match=r"calibration\.yaml"):
        image_folder.read_sequence(tmp_path)
    (tmp_path / "calibration.yaml").write_text("a: [1")
    with pytest.raises(CalibrationError, match="not YAML"):
        image_folder.read_sequence(tmp_path)


def test_video_frames_are_extracted_once(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (WIDTH, HEIGHT))
    for value in range(0, 250, 25):
        writer.write(np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    writer.release()
    calibration = _calibration(tmp_path / "camera.yaml")
    sequence = video.read_sequence(path, calibration, tmp_path / "frames", every=3)
    assert len(sequence) == 4
    assert sequence.stamps_ns == (0, 150_000_000, 300_000_000, 450_000_000)
    assert sequence.intrinsics.matrix()[0, 2] == CX
    assert abs(float(read_image(sequence.paths[2]).mean()) - 150) < 4
    path.unlink()
    assert len(video.read_sequence(path, calibration, tmp_path / "frames")) == 4


def test_bad_videos(tmp_path: Path) -> None:
    calibration = _calibration(tmp_path / "camera.yaml")
    with pytest.raises(DataError, match="does not exist"):
        video.read_sequence(tmp_path / "no.mp4", calibration, tmp_path / "a")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"bad\.mp4"):
        video.read_sequence(tmp_path / "bad.mp4", calibration, tmp_path / "a")
    with pytest.raises(DataError, match="every"):
        video.read_sequence(tmp_path / "bad.mp4", calibration, tmp_path / "a", every=0)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_off_image_is_refused_at_every_length(tmp_path: Path, suffix: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    _, encoded = cv2.imencode(suffix, image)
    data = encoded.tobytes()
    assert decode_image(data, "whole").shape == (40, 60, 3)
    for kept in (0, 1, 20, len(data) // 2, len(data) - 400, len(data) - 3):
        path = tmp_path / f"cut{kept}{suffix}"
        path.write_bytes(data[:kept])
        with pytest.raises(DataError, match=f"cut{kept}"):
            read_image(path)


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut_off() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    encoded, thumbnail = (
        cv2.imencode(".jpg", picture)[1].tobytes() for picture in (image, image[:8, :8])
    )
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encoded[:2] + segment + encoded[2:]
    assert decode_image(whole + bytes(100), "padded").shape == (40, 60, 3)
    for kept in (len(segment) + 2, len(whole) - 9):
        with pytest.raises(DataError, match="cut is truncated"):
            decode_image(whole[:kept], "cut")


@pytest.mark.parametrize(("suffix", "flags"), [(".png", ()), (".jpg", ()), (".jpg", (1,))])
def test_the_size_of_an_encoded_image_is_known_without_decoding(
    suffix: str, flags: tuple[int, ...]
) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, *flags] if flags else []
    data = cv2.imencode(suffix, image, progressive)[1].tobytes()
    assert encoded_size(data) == (60, 40)
    # A thumbnail in front has a size too, but it is not that of the picture.
    if suffix == ".jpg":
        thumbnail = cv2.imencode(suffix, image[:8, :8])[1].tobytes()
        segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
        assert encoded_size(data[:2] + segment + data[2:]) == (60, 40)
    assert encoded_size(data[:12]) is None
    assert encoded_size(b"") is None


def test_a_png_ends_with_its_last_chunk_and_not_before() -> None:
    encoded = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    assert decode_image(encoded + bytes(100), "padded").shape == (4, 4)
    with pytest.raises(DataError, match="cut is truncated"):
        decode_image(encoded[:-1], "cut")


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xda\x00\x02\xff\xd9", b"GIF89a  ", bytes(30)])
def test_what_is_no_picture_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(DataError, match=f"cannot decode image odd .{len(data)} bytes"):
        decode_image(data, "odd")


def test_images_come_as_gray_or_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 200  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    cv2.imwrite(str(tmp_path / "gray.png"), red[..., 2])
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [200, 0, 0]
    assert read_image(tmp_path / "gray.png").shape == (4, 4)
    with pytest.raises(DataError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
