"""The whole benchmark, through the command, on small made-up data and a bundle of constants."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.cli import evaluate
from coopnet_core.errors import BundleError, DataError
from coopnet_core.evaluation import benchmark
from coopnet_core.evaluation.report import markdown_table
from coopnet_core.evaluation.runner import run_flow_in_strips
from coopnet_core.inference.bundle import load_bundle
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime

WIDTH, HEIGHT = 192, 96
FX, STEP_PX, DEPTH_M = 192.0, 4, 10.0
FRAMES = range(650, 710)  # the block, cut short to save time
CAMERA = f"{FX} 0 95.5 0 0 {FX} 47.5 0 0 0 1 0"


def _parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    return parser.parse_args(["evaluate", *arguments])


def _pan(folder: Path, numbers: range, name: str = "{:06d}.png") -> None:
    """Write frames of a wall past which the camera moves to the right."""
    folder.mkdir(parents=True)
    wall = textured_image(WIDTH + STEP_PX * len(numbers), HEIGHT, seed=1)
    for place, number in enumerate(numbers):
        offset = STEP_PX * place
        cv2.imwrite(str(folder / name.format(number)), wall[:, offset : offset + WIDTH])


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    kitti = root / "kitti_odometry"
    _pan(kitti / "sequences" / "03" / "image_0", FRAMES)
    (kitti / "sequences" / "03" / "calib.txt").write_text(f"P0: {CAMERA}\n")
    (kitti / "sequences" / "03" / "times.txt").write_text(
        "".join(f"{0.1 * number:.6f}\n" for number in range(801))
    )
    (kitti / "poses").mkdir()
    step_m = STEP_PX * DEPTH_M / FX
    (kitti / "poses" / "03.txt").write_text(
        "".join(f"1 0 0 {step_m * number:.9f} 0 1 0 0 0 0 1 0\n" for number in range(801))
    )

    date = root / "kitti_raw" / "2011_09_26"
    drive = date / "2011_09_26_drive_0002_sync"
    _pan(drive / "image_02" / "data", range(3), "{:010d}.png")
    (drive / "image_02" / "timestamps.txt").write_text(
        "".join(f"2011-09-26 13:02:44.{number}00000000\n" for number in range(3))
    )
    (date / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    (date / "calib_cam_to_cam.txt").write_text(
        f"R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: {CAMERA}\n"
    )
    (drive / "velodyne_points" / "data").mkdir(parents=True)
    side, up = np.meshgrid(np.linspace(-4, 4, 60), np.linspace(-2, 2, 30))
    scan = np.stack([np.full(side.size, DEPTH_M), side.ravel(), up.ravel(), 0 * side.ravel()], 1)
    for number in range(3):
        scan.astype(np.float32).tofile(drive / "velodyne_points" / "data" / f"{number:010d}.bin")

    whale = root / "flow" / "middlebury_rubberwhale"
    _pan(whale, range(2), "frame1{:d}.png")
    flow = np.zeros((HEIGHT, WIDTH, 2), "<f4")
    flow[..., 0] = -STEP_PX
    (whale / "flow10.flo").write_bytes(
        np.array([202021.25], "<f4").tobytes()
        + np.array([WIDTH, HEIGHT], "<i4").tobytes()
        + flow.tobytes()
    )
    return root


@pytest.fixture(scope="module")
def report(
    data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("report")
    # Grid 128x64: two thirds of the picture. Flow into the previous frame points to the right.
    bundle = write_tiny_bundle(
        folder / "bundle",
        width=128,
        height=64,
        depth=DEPTH_M,
        flow=(STEP_PX * 128 / WIDTH, 0.0),
        color="gray",
    )
    out = folder / "out"
    arguments = ("--bundle", str(bundle), "--data", str(data_root), "--out", str(out))
    args = _parse(*arguments, "--threads", "1", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "KITTI_VALIDATION", FRAMES)
        assert args.run(args) == 0
    return json.loads((out / "results.json").read_text()), out


def _rows(report: tuple[dict[str, Any], Path], task: str) -> dict[str, dict[str, Any]]:
    return {
        row["method"] + "|" + str(row.get("scaling", row.get("alignment", ""))): row
        for row in report[0]["tasks"][task]["rows"]
    }


def test_depth_of_the_wall_is_right(report: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(report, "depth_kitti_raw_0002")
    for scaling in ("median", "none (metres)"):
        assert rows[f"CoopNet|{scaling}"]["abs_rel"] == pytest.approx(0, abs=1e-5)
        assert rows[f"CoopNet|{scaling}"]["delta1"] == 1


def test_odometry_recovers_the_sideways_drive(report: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(report, "odometry_kitti_03")
    pipeline = rows["CoopNet pipeline|none (metres)"]
    assert pipeline["t_err_percent"] == pytest.approx(0, abs=1)
    # So do distances of wheels. A wall shows no ground: depth stays as the bundle gives it.
    wheels = rows[
        "CoopNet pipeline, scale by wheel odometry (simulated from ground truth)|none (metres)"
    ]
    assert wheels["t_err_percent"] == pytest.approx(0, abs=2)
    height = rows["CoopNet pipeline, scale by camera height|none (metres)"]
    assert height == {**pipeline, "method": "CoopNet pipeline, scale by camera height"}
    # The pose network of this bundle always says that nothing moves: nothing to fit a scale to.
    assert rows["pose network alone|none (metres)"]["ate_m"] > 1
    assert "pose network alone|scale only" not in rows
    assert rows["constant velocity|none (metres)"]["t_err_percent"] > 100


def test_scale_tables(report: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(report, "scale_kitti_03")
    wheels = rows["wheel odometry (simulated from ground truth)|"]
    for key, tolerance in (("path", 0.02), ("median", 0.02), ("p05", 0.1), ("p95", 0.1)):
        assert wheels[key] == pytest.approx(1, abs=tolerance)
    assert wheels["p05"] < wheels["median"] < wheels["p95"]
    assert 0.6 < wheels["within_1_sigma"] <= 1
    assert wheels["frames_with_observation"] > 0.9
    height = rows["camera height|"]
    assert height["frames_with_observation"] == 0
    unscaled = rows["none (the bundle's own metres)|"]
    assert [unscaled[key] for key in ("path", "p05")] == [height[key] for key in ("path", "p05")]


def test_covariance_table(report: tuple[dict[str, Any], Path]) -> None:
    rows = report[0]["tasks"]["covariance_kitti_03"]["rows"]
    assert [row["steps"] for row in rows] == [1, 30] * 3
    # The wall moves by exactly whole pixels: nothing is as wrong as it might be.
    for row in rows:
        assert [row[axis] for axis in ("x", "y", "z", "rot_x", "rot_y", "rot_z")] == [1] * 6
        assert 0 <= row["nees"] < 1


def test_flow_tables(report: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(report, "flow_kitti_03")
    assert rows["CoopNet|"]["fb_median_px"] == 0
    assert rows["CoopNet|"]["photometric"] < rows["no motion|"]["photometric"]
    whale = _rows(report, "flow_rubberwhale")
    # The bundle's flow points the other way: off by twice the true length.
    assert whale["CoopNet, 128x64|"]["epe_px"] == pytest.approx(2 * STEP_PX, abs=1e-4)
    assert whale["CoopNet, strips at 128x64|"]["epe_px"] == pytest.approx(2 * STEP_PX, abs=1e-4)
    assert whale["no motion|"]["epe_px"] == pytest.approx(STEP_PX)
    assert whale[f"DIS, {WIDTH}x{HEIGHT}|"]["epe_px"] < 0.5


def test_rigid_scene_raises_no_alarm(report: tuple[dict[str, Any], Path]) -> None:
    rows = _rows(report, "motion_mask")
    assert rows["KITTI 03, static scene|"]["frames"] == len(FRAMES) - 1
    assert rows["KITTI 03, static scene|"]["false_alarms"] == 0
    assert rows["KITTI raw 0002, outside the boxes|"]["cyclists_lit"] == "0 of 4"


def test_missing_data_is_named_and_pictures_are_written(
    report: tuple[dict[str, Any], Path],
) -> None:
    results, out = report
    assert any("karlsruhe" in why for why in results["skipped"].values())
    assert "depth_karlsruhe" not in results["tasks"]
    assert "depth_kitti_raw_0002.png" in results["pictures"]
    for name in results["pictures"]:
        assert cv2.imread(str(out / name)) is not None
    text = (out / "results.md").read_text()
    assert "| CoopNet pipeline | scale only |" in text
    assert "Left out" in text
    assert all(name in text for name in results["pictures"])


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_no_data_at_all_is_an_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    make(tmp_path / "data")
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--quiet"]
    args = _parse("--bundle", str(bundle), *arguments)
    with pytest.raises(DataError, match=str(tmp_path / "data")):
        args.run(args)
    args = _parse("--bundle", str(tmp_path / "none"), *arguments)
    with pytest.raises(BundleError):
        args.run(args)


def test_table_takes_columns_as_they_come_and_leaves_gaps() -> None:
    lines = markdown_table([{"method": "a", "x": 0.12345}, {"method": "b", "y": 123.456, "n": 3}])
    assert lines[0] == "| method | x | y | n |"
    assert lines[2] == "| a | 0.1235 |  |  |"
    assert lines[3] == "| b |  | 123.46 | 3 |"
    assert markdown_table([{"method": "a", "x": float("nan")}])[2] == "| a |  |"


def test_strips_cover_a_tall_picture_in_its_own_pixels(tmp_path: Path) -> None:
    flow = np.zeros((2, 32, 64), np.float32)
    flow[1] = np.linspace(-1, 1, 32)[:, None]  # says where in its strip a row is
    bundle = load_bundle(write_tiny_bundle(tmp_path / "bundle", flow=flow))
    image = textured_image(128, 200)
    result = run_flow_in_strips(bundle, OnnxRuntime(bundle, 1), image, image)
    assert result.shape == (200, 128, 2)
    vertical = result[:, 0, 1]  # twice as many pixels as on the grid
    assert vertical[0] == pytest.approx(-2, abs=0.05)
    assert vertical[-1] == pytest.approx(2, abs=0.05)
    # Between the first and the last strip rows come from the middle of theirs.
    assert np.abs(vertical[32:-32]).max() < 1.1


def test_evaluation_and_readers_do_without_torch() -> None:
    code = (
        "import sys; import coopnet_core.evaluation.pictures, coopnet_core.data.pairs, "
        "coopnet_core.data.video; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
