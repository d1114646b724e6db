"""`coopnet data check`: what it finds, what it says, which problems it names, how it ends."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_bag
import yaml
from real_data import real_data

from coopnet_core.cli.main import main
from coopnet_core.config import Source
from coopnet_core.data import image_folder
from coopnet_core.data.discovery import discover
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.training.sources import collect_pairs

WIDTH, HEIGHT = 64, 40
CAMERA = Intrinsics(WIDTH, HEIGHT, 50.0, 50.0, 31.5, 19.5)
TEXTURE = cv2.blur(
    np.random.default_rng(0).integers(40, 215, (HEIGHT, 400, 3), dtype=np.uint8), (5, 5)
)
DEMO = Path(__file__).parents[2] / "demo/kitti_03"


def frame(offset: int, gain: float = 1.0) -> np.ndarray[Any, Any]:
    view = TEXTURE[:, offset : offset + WIDTH].astype(np.float64) * gain
    return np.clip(view, 0, 255).astype(np.uint8)


def folder(path: Path, offsets: list[int], gain: float = 1.0) -> Path:
    """An image folder with calibration, whose camera moves as the offsets say."""
    path.mkdir(parents=True)
    for number, offset in enumerate(offsets):
        cv2.imwrite(str(path / f"{number:06d}.png"), frame(offset, gain))
    image_folder.write_calibration(path / "calibration.yaml", CAMERA, "cam")
    return path


def kitti(root: Path, count: int) -> Path:
    sequence = root / "sequences/07"
    for camera in (0, 1):
        folder(sequence / f"image_{camera}", [5 * n for n in range(count)])
    row = "50 0 31.5 {} 0 50 19.5 0 0 0 1 0"
    (sequence / "calib.txt").write_text(f"P0: {row.format(0)}\nP1: {row.format(-25)}\n")
    (sequence / "times.txt").write_text("".join(f"{n / 10}\n" for n in range(count)))
    return sequence


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main(["data", "check", *map(str, arguments), "--no-progress"])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def line(text: str, what: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(f"  {what} "))


def test_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "drive", [0, 4, 8, 8, 12, 16])
    (data / "times.txt").write_text("0\n0.1\n0.2\n0.3\n0.9\n1.0\n")
    status, text = check(capsys, data, "--out", tmp_path / "sheets/a.png")
    assert status == 0
    assert "6 frames" in text
    assert "fx 50.0" in line(text, "camera")
    assert "10.0 frames per second, 1 gaps, the longest of 0.60 s after 0.300 s" in text
    assert "1 of 5 sampled pairs of neighbours are still" in line(text, "motion")
    assert "the same picture twice" in line(text, "note")
    assert line(text, "colour").endswith("colour")
    assert "0 dark" in line(text, "light")
    sheet = cv2.imread(str(tmp_path / "sheets/a.png"))
    assert sheet is not None
    assert sheet.shape[1] > 6 * 320
    # The printed line is a source that trains.
    source = yaml.safe_load(line(text, "source").strip().removeprefix("source"))[0]
    assert len(collect_pairs((Source.model_validate(source),), Path("/nowhere"))) == 4


def test_light_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "data/dark", [0, 4], gain=0.1)
    folder(tmp_path / "data/bright", [0, 4], gain=9)
    _, text = check(capsys, tmp_path / "data", "--out", tmp_path / "a.png")
    bright, dark = text.split("image_folder  ")[1:]
    assert "of 2 sampled frames 2 dark" in dark
    assert "0 overexposed" in dark
    assert "2 overexposed" in bright


def test_every_bad_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "drive", [4 * n for n in range(12)])
    whole = (data / "000003.png").read_bytes()
    (data / "000003.png").write_bytes(whole[:-30])
    (data / "000005.png").write_bytes(b"")
    (data / "000006.png").write_bytes(b"no picture at all")
    cv2.imwrite(str(data / "000008.png"), frame(0)[:20])
    status, text = check(capsys, data, "--out", tmp_path / "a.png")
    assert status == 1
    errors = [each for each in text.splitlines() if each.startswith("  ERROR")]
    assert len(errors) == 4
    for name, why in (
        ("000003.png", "is truncated"),
        ("000005.png", "is empty"),
        ("000006.png", "cannot decode"),
        ("000008.png", "is 64x20, but most in its folder are 64x40"),
    ):
        assert any(name in error and why in error for error in errors), name
    status, text = check(capsys, data, "--out", tmp_path / "a.png", "--max-problems", 1)
    assert "and 3 problems more" in text
    assert "4 problems that stop training" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "calib.txt").unlink(), r"cannot read .*calib.txt"),
        (lambda s: (s / "times.txt").write_text("0\n1\n0.5\n2\n3\n"), "0.500000 s of frame 2"),
        (lambda s: (s / "image_0/000002.png").unlink(), "image_0/000002.png is missing"),
        (lambda s: (s / "calib.txt").write_text("P0: 1 2 3\n"), "P0: expected 12 numbers"),
    ],
)
def test_what_is_wrong_with_a_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, message: str
) -> None:
    sequence = kitti(tmp_path / "kitti", 5)
    status, text = check(capsys, tmp_path / "kitti", "--out", tmp_path / "a.png")
    assert status == 0, text
    assert "5 of 5 frames, baseline 0.5 m" in line(text, "right camera")
    assert '"sequence": "07", "camera": 0, "stereo": true' in line(text, "source")
    damage(sequence)
    status, text = check(capsys, sequence, "--out", tmp_path / "a.png")
    assert status == 1
    assert re.search(message, text)
    # What can be seen without the sequence is still said.
    assert "sampled frames" in line(text, "light")


def test_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (WIDTH, HEIGHT))
    for number in range(30):
        writer.write(frame(3 * number))
    writer.release()
    status, text = check(capsys, path, "--out", tmp_path / "a.png")
    assert status == 1
    assert "needs a calibration file: give it with --calibration" in text
    image_folder.write_calibration(tmp_path / "cam.yaml", CAMERA, "cam")
    calibrated = (path, "--calibration", tmp_path / "cam.yaml", "--out", tmp_path / "a.png")
    status, text = check(capsys, *calibrated)
    assert status == 0
    assert "30 frames" in text
    assert "1.5 s, 20.0 frames per second" in line(text, "time")
    path.write_bytes(b"RIFF")
    status, text = check(capsys, *calibrated)
    assert status == 1
    assert "cannot decode video" in text


def test_the_demo_bag_and_what_is_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(DEMO, tmp_path / "data/run")
    folder(tmp_path / "data/run.frames/cam", [0, 4])
    status, text = check(capsys, tmp_path / "data", "--out", tmp_path / "a.png")
    assert status == 0
    assert text.startswith("bag  run, topic /camera/image/compressed\n")
    assert "1 sources, 100 frames" in text
    assert "fx 360.8" in line(text, "camera")
    file = next((tmp_path / "data/run").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-500])
    status, text = check(capsys, tmp_path / "data", "--out", tmp_path / "a.png")
    assert status == 1
    assert "was cut off" in text


def test_what_is_wrong_with_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoded = cv2.imencode(".jpg", tiny_bag.picture(0))[1].tobytes()
    messages = []
    for number in range(6):
        stamp = tiny_bag.START_NS + number * tiny_bag.PERIOD_NS
        data = encoded[:-9] if number == 2 else encoded
        seen = stamp - (2 * tiny_bag.PERIOD_NS if number == 4 else 0)
        messages.append(("/l/image", tiny_bag.COMPRESSED, stamp, tiny_bag.jpeg(seen, data)))
        depth = tiny_bag.raw(tiny_bag.STORE, stamp, 0)
        depth.encoding, depth.width = "32FC1", tiny_bag.WIDTH * 3 // 4
        messages.append(("/l/depth", tiny_bag.IMAGE, stamp, depth))
    bag = tiny_bag.write_bag(tmp_path / "run", "sqlite3", messages)
    status, text = check(capsys, bag, "--out", tmp_path / "a.png")
    assert status == 1
    measured, pictures = text.split("bag  ")[1:]
    assert "not for training" in measured
    assert "ERROR" not in measured
    assert "no camera_info topic" in line(pictures, "ERROR")
    assert re.search(r"note .*run, /l/image, frame 2 at 5200000000 ns: not a whole JPEG", pictures)
    assert "1 stamps do not advance, the first is that of frame 4 (5.200000 s)" in pictures
    image_folder.write_calibration(tmp_path / "cam.yaml", tiny_bag.CAMERA, "cam")
    calibrated = (bag, "--calibration", tmp_path / "cam.yaml", "--out", tmp_path / "a.png")
    assert check(capsys, *calibrated)[0] == 0
    image_folder.write_calibration(tmp_path / "cam.yaml", CAMERA, "cam")
    status, text = check(capsys, *calibrated)
    assert status == 1
    assert "pictures are 48x32, their calibration is for 64x40" in text


def test_nothing_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    status, text = check(capsys, tmp_path, "--out", tmp_path / "a.png")
    assert status == 1
    assert "nothing to read at" in text
    status, text = check(capsys, tmp_path / "c")
    assert status == 1
    assert "does not exist" in text
    (tmp_path / "blocked").write_text("a file where a folder should be")
    folder(tmp_path / "a/b/data", [0, 4])
    status, text = check(capsys, tmp_path / "a", "--out", tmp_path / "blocked/a.png")
    assert status == 1
    assert "cannot write" in text


def test_real_data_is_recognised() -> None:
    root = real_data("7scenes_kitchen").parent
    found = {(f.kind, *f.keys.values()) for f in discover(root)}
    assert {
        ("rgbd",),
        ("kitti_odometry", "03", 0),
        ("kitti_raw", "2011_09_26/0002", 2),
        ("karlsruhe", "2010_03_09_drive_0019"),
        ("middlebury",),
    } <= found
