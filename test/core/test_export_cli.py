"""``coopnet export`` and ``coopnet predict`` as a user runs them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_bundle import block_flow, textured_image, write_tiny_bundle
from toy_networks import toy_networks

import coopnet_core.networks
from coopnet_core.cli.export import read_frame_pairs
from coopnet_core.cli.main import main
from coopnet_core.cli.predict import _with_progress
from coopnet_core.data.image_folder import write_calibration
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.bundle import load_bundle
from coopnet_core.training.checkpoint import save_checkpoint

CAMERA = Intrinsics(128, 64, 64.0, 64.0, 63.5, 31.5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), textured_image(128, 64))
    write_calibration(folder / "calibration.yaml", CAMERA, "camera")
    return folder


def predict(photos: Path, tmp_path: Path, *options: str, **bundle: Any) -> Path:
    path = write_tiny_bundle(tmp_path / "bundle", **bundle)
    out = tmp_path / "out"
    arguments = ["predict", str(photos), "--bundle", str(path), "--out", str(out)]
    assert main([*arguments, "--threads", "1", "--no-progress", *options]) == 0
    return out


def test_predict_writes_everything(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = block_flow((2.0, 0.0), (-4.0, 1.0), (20, 8, 16, 14))
    out = predict(photos, tmp_path, depth=10.0, flow=flow, metric=True)
    assert "4 frames, depth in metres, 0 lost" in capsys.readouterr().out
    names = [f"{number:06d}" for number in range(4)]
    assert sorted(path.stem for path in (out / "preview").iterdir()) == names
    assert sorted(path.stem for path in (out / "flow").iterdir()) == names[1:]

    depth = cv2.imread(str(out / "depth" / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    np.testing.assert_array_equal(depth, 5 * 256)
    encoded = cv2.imread(str(out / "flow" / "000001.png"), cv2.IMREAD_UNCHANGED)
    u = (encoded[0, 0, 2].astype(float) - 32768) / 64
    assert u == -2.0  # the flow file says motion since the previous frame
    assert encoded[0, 0, 0] == 1
    mask = cv2.imread(str(out / "mask" / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) <= {0, 255}
    preview = cv2.imread(str(out / "preview" / "000001.jpg"))
    assert preview.shape == (64, 128, 3)

    trajectory = np.loadtxt(out / "trajectory.txt")
    assert trajectory.shape == (4, 8)
    np.testing.assert_allclose(trajectory[:, 0], [0.0, 0.1, 0.2, 0.3])
    step = 2.0 * 5.0 / 32.0
    np.testing.assert_allclose(trajectory[:, 1], np.arange(4) * step, atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(trajectory[:, 4:], axis=1), 1, atol=1e-8)
    with (out / "frames.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["tracking"] for row in rows] == ["initialising"] + ["tracking"] * 3
    assert float(rows[1]["total_ms"]) > 0


def test_predict_shows_progress_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package rich comes with training; where only the runtime is installed, lines will do."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert list(_with_progress(range(0, 102, 2), True)) == list(range(0, 102, 2))
    assert capsys.readouterr().err == "frame 1 of 51\nframe 51 of 51\n"


def test_frames_to_check_an_export_on_are_neighbours(tmp_path: Path) -> None:
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 4), number, np.uint8))
    pairs = read_frame_pairs(tmp_path)
    assert [int(current[0, 0]) - int(previous[0, 0]) for current, previous in pairs] == [1] * 5


def test_predict_skips_frames(photos: Path, tmp_path: Path) -> None:
    out = predict(photos, tmp_path, "--every", "2")
    assert sorted(path.stem for path in (out / "depth").iterdir()) == ["000000", "000002"]


def test_predict_reads_videos(tmp_path: Path) -> None:
    video = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 64))
    for _ in range(3):
        writer.write(textured_image(128, 64))
    writer.release()
    write_calibration(tmp_path / "camera.yaml", CAMERA, "camera")
    out = predict(video, tmp_path, "--calibration", str(tmp_path / "camera.yaml"))
    assert len(list((out / "depth").iterdir())) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist; give an image folder or a video file"),
        (lambda path: path.mkdir(), "no images in"),
        (lambda path: path.write_bytes(b"x"), "needs --calibration"),
    ],
)
def test_predict_explains_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str
) -> None:
    make(tmp_path / "input")
    bundle = write_tiny_bundle(tmp_path / "bundle")
    arguments = ["predict", str(tmp_path / "input"), "--bundle", str(bundle)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_predict_explains_a_missing_bundle(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(photos), "--bundle", str(tmp_path / "no")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "no bundle at" in capsys.readouterr().err


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the toy networks, which the variant ``toy`` builds."""
    monkeypatch.setitem(coopnet_core.networks.VARIANTS, "toy", lambda *_: toy_networks(1))
    source = {"kind": "kitti_odometry", "path": "kitti", "sequence": "03", "first": 0, "last": 9}
    own = {"kind": "image_folder", "path": "my/garden", "stereo": True}
    path = tmp_path / "last.pt"
    content = {
        "networks": {name: net.state_dict() for name, net in toy_networks(0)._asdict().items()},
        "variant": "toy",
        "width": 64,
        "height": 32,
        "step": 12,
        "config": {"recipe": "coopnet", "seed": 5, "color": "rgb", "sources": [source, own]},
    }
    save_checkpoint(path, content)
    return path


def export(checkpoint: Path, out: Path, photos: Path, *options: str) -> int:
    return main(["export", str(checkpoint), "--out", str(out), "--frames", str(photos), *options])


def test_export_writes_what_the_checkpoint_says(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"title": "Depth", "data": "d", "protocol": "p", "rows": [{"method": "m"}], "notes": []}
    scores = tmp_path / "results.json"
    # The report has every case, too, which stays out of the bundle.
    tasks = {"depth": {**task, "cases": {"score": "AbsRel", "scores": {"0": 0.1}}}}
    scores.write_text(json.dumps({"tasks": tasks, "skipped": {}}))
    code = export(checkpoint, tmp_path / "garden", photos, "--scores", str(scores))
    assert code == 0, capsys.readouterr().err
    info = load_bundle(tmp_path / "garden").info
    assert (info.name, info.variant, info.input.color) == ("garden", "toy", "rgb")
    assert info.depth.metric  # a stereo source tells the scale
    assert info.training.data == [
        "kitti_odometry 03, frames 0 to 9",
        "image_folder garden, all frames, with stereo partners",
    ]
    assert "non-commercial" in info.training.license
    assert "your own" in info.training.license
    assert (info.training.seed, info.training.steps) == (5, 12)
    assert info.metrics[0].title == "Depth"
    assert "median error" in capsys.readouterr().out


def test_export_explains_bad_input(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(tmp_path / "no.pt", out, photos) == 1
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert export(checkpoint, out, tmp_path / "empty") == 1
    assert "two or more consecutive images, found 0" in capsys.readouterr().err
    assert export(checkpoint, out, photos, "--scores", str(photos / "0.png")) == 1
    assert "not a results.json" in capsys.readouterr().err
    assert not out.exists()


def test_export_refuses_a_checkpoint_of_other_networks(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["networks"]["pose"]["layer.bias"]
    torch.save(content, checkpoint)
    assert export(checkpoint, tmp_path / "out", photos) == 1
    errors = capsys.readouterr().err
    assert "does not fit the pose network (the checkpoint is of variant 'toy')" in errors
