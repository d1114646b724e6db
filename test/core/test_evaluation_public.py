"""Public data sets through the command, on small made-up copies with known answers."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_bundle import textured_image, write_tiny_bundle

from coopnet_core.cli import evaluate
from coopnet_core.data import kitti_flow
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.evaluation.benchmark import TASKS, select_tasks
from coopnet_core.evaluation.comparison import depth_comparison
from coopnet_core.evaluation.published import DEPTH, FLOW_2015, ODOMETRY, SUPPLEMENT
from coopnet_core.evaluation.report import markdown_table
from coopnet_core.evaluation.tasks import Case, Task

WIDTH, HEIGHT = 192, 96
FX, STEP_PX = 192.0, 4
DEPTH_M = 10.0  # what the bundle says everywhere
STEP_M = STEP_PX * DEPTH_M / FX
CAMERA = f"{FX} 0 95.5 0 0 {FX} 47.5 0 0 0 1 0"
NUM_POSES = 12


def _frames(num: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """Frames of a wall past which the camera moves to the right."""
    wall = textured_image(width + STEP_PX * num, height, seed=1)
    return [wall[:, STEP_PX * k : STEP_PX * k + width] for k in range(num)]


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _flow_png(path: Path, flow: np.ndarray, known: np.ndarray) -> None:
    """Write flow as KITTI does; OpenCV takes channels in reverse."""
    values = np.rint(flow * 64 + 2**15).astype(np.uint16)
    _write(path, np.dstack([known.astype(np.uint16), values[..., 1], values[..., 0]]))


def _kitti_raw(root: Path) -> None:
    date = root / "kitti_raw" / "2011_09_26"
    drive = date / "2011_09_26_drive_0002_sync"
    _text(date / "calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    _text(date / "calib_cam_to_cam.txt", f"R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: {CAMERA}\n")
    side, up = np.meshgrid(np.linspace(-4, 4, 60), np.linspace(-2, 2, 30))
    scan = np.stack([np.full(side.size, DEPTH_M), side.ravel(), up.ravel(), 0 * side.ravel()], 1)
    (drive / "velodyne_points" / "data").mkdir(parents=True)
    for number, image in enumerate(_frames(10)):
        _write(drive / "image_02" / "data" / f"{number:010d}.png", image)
        scan.astype(np.float32).tofile(drive / "velodyne_points" / "data" / f"{number:010d}.bin")
    # Frame 9 is of the test split, frame 7 is not.
    for number in (7, 9):
        truth = np.zeros((HEIGHT, WIDTH), np.uint16)
        truth[::3] = round(12.5 * 256)
        _write(
            root / "kitti_depth/val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02"
            f"/{number:010d}.png",
            truth,
        )


def _cityscapes(root: Path) -> None:
    name = "berlin_000000_000019"
    folder = root / "cityscapes"
    _write(folder / "leftImg8bit/test/berlin" / f"{name}_leftImg8bit.png", _frames(1, 256, 128)[0])
    disparity = np.zeros((128, 256), np.uint16)
    disparity[60:, ::2] = 8 * 256 + 1  # 256 * 0.5 / 8 = 16 m
    _write(folder / "disparity/test/berlin" / f"{name}_disparity.png", disparity)
    camera = {
        "intrinsic": {"fx": 256.0, "fy": 256.0, "u0": 128.0, "v0": 64.0},
        "extrinsic": {"baseline": 0.5},
    }
    _text(folder / "camera/test/berlin" / f"{name}_camera.json", json.dumps(camera))


def _rgbd(root: Path) -> None:
    _write(root / "snapshots" / "frame-000000.color.png", _frames(1)[0])
    folder = root / "office"
    _text(folder / "camera-intrinsics.txt", f"{FX} 0 95.5\n0 {FX} 47.5\n0 0 1\n")
    for number, image in enumerate(_frames(NUM_POSES)):
        _write(folder / f"frame-{number:06d}.color.png", image)
        depth = np.full((HEIGHT, WIDTH), 5000, np.uint16)
        depth[0], depth[1] = 65535, 0
        _write(folder / f"frame-{number:06d}.depth.png", depth)
        x = number * STEP_M / 2  # half of what the bundle thinks, as its depth is half
        _text(folder / f"frame-{number:06d}.pose.txt", f"1 0 0 {x}\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")


def _odometry(root: Path) -> None:
    folder = root / "kitti_odometry" / "sequences" / "09"
    for number, image in enumerate(_frames(NUM_POSES)):
        _write(folder / "image_0" / f"{number:06d}.png", image)
    for number, image in enumerate(_frames(NUM_POSES)[1:3]):
        _write(folder / "image_1" / f"{number:06d}.png", image)
    right = f"{FX} 0 95.5 {-0.5 * FX} 0 {FX} 47.5 0 0 0 1 0"
    _text(folder / "calib.txt", f"P0: {CAMERA}\nP1: {right}\n")
    _text(folder / "times.txt", "".join(f"{0.1 * k:.6f}\n" for k in range(NUM_POSES)))
    rows = (f"1 0 0 {STEP_M * k:.9f} 0 1 0 {0.01 * k**2:.9f} 0 0 1 0\n" for k in range(NUM_POSES))
    _text(folder.parents[1] / "poses" / "09.txt", "".join(rows))


def _flow(root: Path) -> None:
    """The bundle says (4, 0) everywhere: right in scene 0, off by 8 px in half of scene 1."""
    for year, images, calibration, entry in (
        ("2012", "colored_0", "calib", "P2"),
        ("2015", "image_2", "calib_cam_to_cam", "P_rect_02"),
    ):
        folder = root / f"kitti_flow_{year}" / "training"
        for scene in range(2):
            for number, image in zip((10, 11), _frames(2), strict=True):
                _write(folder / images / f"{scene:06d}_{number}.png", image)
            _text(folder / calibration / f"{scene:06d}.txt", f"{entry}: {CAMERA}\n")
            flow = np.zeros((HEIGHT, WIDTH, 2))
            flow[..., 0] = STEP_PX
            known = np.zeros((HEIGHT, WIDTH), np.bool_)
            known[: 24 if scene else 12] = True
            if scene:
                flow[:12, :, 0] = -STEP_PX
            _flow_png(folder / "flow_occ" / f"{scene:06d}_10.png", flow, known)
            known[:6] = False
            _flow_png(folder / "flow_noc" / f"{scene:06d}_10.png", flow, known)
            objects = np.zeros((HEIGHT, WIDTH), np.uint8)
            objects[:12] = 3 * scene
            if year == "2015":
                _write(folder / "obj_map" / f"{scene:06d}_10.png", objects)


@dataclass(frozen=True)
class Report:
    tasks: dict[str, Any]
    out: Path

    def row(self, task: str, **which: str) -> dict[str, Any]:
        rows = self.tasks[task]["rows"]
        return next(r for r in rows if all(r.get(key) == value for key, value in which.items()))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("public")
    for make in (_kitti_raw, _cityscapes, _rgbd, _odometry, _flow):
        make(folder / "data")
    bundle = write_tiny_bundle(
        folder / "bundle",
        width=128,
        height=64,
        depth=DEPTH_M,
        flow=(STEP_PX * 128 / WIDTH, 0.0),
        color="gray",
    )
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    out = folder / "out"
    words = ["--bundle", bundle, "--data", folder / "data", "--out", out, "--threads", 1, "--quiet"]
    tasks = [
        "depth_kitti_eigen",
        "depth_kitti_improved",
        "depth_c",
        "depth_rgbd",
        "depth_stereo",
        "flow_kitti_2",
    ]
    tasks += ["odometry_sequence", "odometry_rgbd"]
    args = parser.parse_args(["evaluate", *map(str, words), "--tasks", *tasks])
    assert args.run(args) == 0
    return Report(json.loads((out / "results.json").read_text())["tasks"], out)


def test_eigen_takes_the_frames_of_the_split_and_says_how_many(report: Report) -> None:
    row = report.row("depth_kitti_eigen", scaling="median")
    assert row["images"] == 4  # 0, 3, 6, 9 of ten
    assert row["abs_rel"] == pytest.approx(0, abs=1e-5)
    assert row["median_ratio"] == pytest.approx(1)
    assert row["median_ratio_std"] == pytest.approx(0, abs=1e-6)
    table = report.tasks["depth_kitti_eigen"]
    assert "697" in table["data"]
    assert any("do not compare" in note for note in table["notes"])


def test_improved_truth(report: Report) -> None:
    metres = report.row("depth_kitti_improved", scaling="none (metres)")
    assert metres["images"] == 1
    assert metres["abs_rel"] == pytest.approx(0.2)
    assert report.row("depth_kitti_improved", scaling="median")["abs_rel"] == pytest.approx(0)


def test_cityscapes(report: Report) -> None:
    row = report.row("depth_cityscapes", scaling="none (metres)")
    assert row["abs_rel"] == pytest.approx(6 / 16)
    assert report.row("depth_cityscapes", scaling="median")["median_ratio"] == pytest.approx(1.6)


def test_every_case_has_its_score(report: Report) -> None:
    cases = report.tasks["flow_kitti_2015"]["cases"]
    assert cases["score"] == "EPE occ, px"
    assert cases["values"] == pytest.approx({"000000": 0, "000001": 4}, abs=1e-4)


def test_a_folder_that_only_looks_like_rgbd_is_left_out(report: Report) -> None:
    skipped = json.loads((report.out / "results.json").read_text())["skipped"]
    assert "no calibration" in skipped["depth_rgbd on snapshots"]


def test_rgbd_depth_and_odometry(report: Report) -> None:
    assert report.row("depth_rgbd_office", scaling="none (metres)")["abs_rel"] == pytest.approx(1)
    assert report.row("depth_rgbd_office", scaling="median")["median_ratio"] == pytest.approx(0.5)
    pipeline = report.row("odometry_rgbd_office", method="CoopNet pipeline", alignment="scale only")
    assert pipeline["scale"] == pytest.approx(0.5, abs=0.02)
    assert pipeline["t_err_percent"] is None  # a metre and a bit: no segment
    assert "too short" in report.tasks["odometry_rgbd_office"]["protocol"]
    snippets = report.row("snippets_rgbd_office", method="CoopNet pipeline")
    assert snippets["snippets"] == NUM_POSES - 4
    assert snippets["ate5_m"] < 0.01


def test_flow_of_both_benchmarks(report: Report) -> None:
    pooled = report.row("flow_kitti_2015", method="CoopNet", mean="over pixels (devkit)")
    pairs = report.row("flow_kitti_2015", method="CoopNet", mean="over pairs")
    # occ: 12 rows right, then 12 of 24 wrong. noc: 6 right, then 6 of 18 wrong.
    assert (pooled["epe_occ_px"], pooled["fl_occ"]) == pytest.approx((8 / 3, 1 / 3), abs=1e-4)
    assert (pooled["epe_noc_px"], pooled["fl_noc"]) == pytest.approx((8 / 4, 1 / 4), abs=1e-4)
    assert (pairs["epe_occ_px"], pairs["fl_occ"]) == pytest.approx((8 / 4, 1 / 4), abs=1e-4)
    assert (pairs["epe_noc_px"], pairs["fl_noc"]) == pytest.approx((8 / 6, 1 / 6), abs=1e-4)
    assert (pooled["fl_bg"], pooled["fl_fg"]) == (0, 1)
    old = report.row("flow_kitti_2012", method="CoopNet", mean="over pixels (devkit)")
    assert old["fl_occ"] == pytest.approx(1 / 3)
    assert "fl_fg" not in old
    still = report.row("flow_kitti_2015", method="no motion", mean="over pairs")
    assert still["epe_occ_px"] == pytest.approx(STEP_PX)


def test_flow_files_come_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flow = np.rint(rng.uniform(-500, 500, (7, 9, 2)) * 64) / 64  # what 16 bits can hold
    known = rng.uniform(size=(7, 9)) < 0.7
    _flow_png(tmp_path / "flow.png", flow, known)
    again = kitti_flow.read_flow(tmp_path / "flow.png")
    np.testing.assert_array_equal(again[known], flow[known].astype(np.float32))
    assert np.isnan(again[~known]).all()


def test_trajectory_files_give_evo_the_reports_numbers(report: Report) -> None:
    pytest.importorskip("evo", reason="evo is the oracle for ATE")
    from evo.core import metrics
    from evo.tools import file_interface

    folder = report.out / "trajectories" / "sequence_09"
    for alignment in ("none (metres)", "6-DoF (metres)", "7-DoF"):
        truth = file_interface.read_kitti_poses_file(folder / "ground_truth.txt")
        poses = file_interface.read_kitti_poses_file(folder / "coopnet_pipeline.txt")
        if alignment != "none (metres)":
            poses.align(truth, correct_scale=alignment == "7-DoF")
        ape = metrics.APE(metrics.PoseRelation.translation_part)
        ape.process_data((truth, poses))
        row = report.row("odometry_sequence_09", method="CoopNet pipeline", alignment=alignment)
        assert row["ate_m"] > 0.01
        assert row["ate_m"] == pytest.approx(
            ape.get_statistic(metrics.StatisticsType.rmse), rel=1e-6
        )


def test_published_rows_are_marked_and_refined_ones_stand_apart(report: Report) -> None:
    plain, refined = (
        report.tasks[f"compare_depth_{kind}"]["rows"] for kind in ("plain", "refined")
    )
    assert [row["from"] for row in plain[:2]] == [
        "measured here, 4 of 697 images: does not compare"
    ] * 2
    assert all(row["from"] == "published" and row["source"] for row in plain[2:] + refined)
    names = {(row["method"], row["trained on"], row["source"]) for row in refined}
    assert ("CoopNet", "CS", SUPPLEMENT) in names
    assert not names & {(row["method"], row["trained on"], row.get("source")) for row in plain}
    assert len(plain) - 2 + len(refined) == len(DEPTH)
    flow = report.tasks["compare_flow_2015"]["rows"]
    assert [row["EPE-all"] for row in flow[:2]] == pytest.approx([8 / 3, 2], abs=1e-4)
    assert len(flow) == 2 + len(FLOW_2015)
    odometry = report.tasks["compare_odometry"]["rows"]
    own = odometry[0]
    assert own["from"] == "measured here"
    assert re.fullmatch(r"\d\.\d{4} ± \d\.\d{4}", own["ATE-5 09"])
    assert "ATE-5 10" not in own
    assert len([row for row in odometry if row["from"] == "published"]) == len(ODOMETRY)


def test_cityscapes_beside_published(report: Report) -> None:
    rows = report.tasks["compare_depth_cityscapes"]["rows"]
    assert [row["from"] == "published" for row in rows] == [False, False, True, True, True]
    assert rows[0]["from"].endswith("1 of 1525 images: does not compare")


def test_depth_against_stereo_of_a_sequence(report: Report) -> None:
    # The right camera sees what the left one sees in the next frame: 4 px, 0.5 m apart: 24 m.
    row = report.row("depth_stereo_09", scaling="none (metres)")
    assert row["images"] == 2
    assert row["abs_rel"] == pytest.approx(14 / 24, abs=0.01)


def test_a_complete_run_compares_and_published_digits_stay() -> None:
    row = dict.fromkeys(("abs_rel", "sq_rel", "rmse_m", "rmse_log"), 0.12345)
    row |= dict.fromkeys(("delta1", "delta2", "delta3"), 0.9)
    task = depth_comparison(
        [{"method": "CoopNet", "scaling": "median", **row}], "mine", "K", "640x192", "", True
    )
    assert task.name == "compare_depth_refined"
    lines = markdown_table(task.rows)
    assert lines[2].startswith("| **mine** | measured here | see below | 640x192 | 0.1235 |")
    assert "| CoopNet | published | CS+K |  | 0.122 | 0.972 | 5.127 | 0.202 | 0.853 |" in "\n".join(
        lines
    )
    assert "mine was trained on K." in task.notes


def test_page_shows_best_median_and_worst_of_every_task(report: Report) -> None:
    html = (report.out / "index.html").read_text()
    pictures = re.findall(r'<img src="([^"]+)"', html)
    for name in pictures:
        assert cv2.imread(str(report.out / name)) is not None, name
    for task, panels in (
        ("depth_kitti_eigen", 4),
        ("depth_cityscapes", 4),
        ("flow_kitti_2015", 4),
        ("odometry_sequence_09", 2),
        ("odometry_rgbd_office", 2),
    ):
        shown = [name for name in pictures if name.startswith(f"cases/{task}_")]
        assert len(shown) >= panels, task
        assert len(shown) % panels == 0
    assert len([name for name in pictures if "depth_rgbd_office" in name]) == 12
    # The error of scene 1: red where it is wrong, blue where it is right, gray where unknown.
    error = cv2.imread(str(report.out / "cases/flow_kitti_2015_worst_3.jpg")).astype(int)
    blue, _, red = error[6, 100]
    assert red > blue + 50
    blue, _, red = error[18, 100]
    assert blue > red
    assert np.ptp(error[60, 100]) < 20
    assert "<table>" in html
    assert html.count('class="own"') >= 5


def test_extremes_of_few_cases() -> None:
    def task(*scores: float) -> Task:
        return Task(
            "a", "A", "", "", [], cases=[Case(str(score), score, lambda: []) for score in scores]
        )

    assert task().extremes() == {}
    assert list(task(1.0).extremes()) == ["only"]
    assert [c.score for c in task(2.0, 1.0).extremes().values()] == [1, 2]
    found = task(3.0, 1.0, float("nan"), 2.0, 9.0, 4.0).extremes()
    assert {rank: case.score for rank, case in found.items()} == {
        "best": 1,
        "median": 3,
        "worst": 9,
    }


def test_tasks_are_chosen_by_how_they_begin() -> None:
    assert select_tasks([]) == set(TASKS)
    assert select_tasks(["flow_kitti_2", "motion"]) == {
        "flow_kitti_2012",
        "flow_kitti_2015",
        "motion_mask",
    }
    with pytest.raises(DataError, match=r"unknown task 'dpeth'.*depth_kitti_eigen"):
        select_tasks(["depth", "dpeth"])


def test_damaged_public_data_is_named(tmp_path: Path) -> None:
    _cityscapes(tmp_path / "data")
    camera = next((tmp_path / "data").rglob("*_camera.json"))
    camera.write_text('{"intrinsic": {}}')
    bundle = write_tiny_bundle(tmp_path / "bundle")
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    words = ["--bundle", bundle, "--data", tmp_path / "data", "--out", tmp_path / "out", "--quiet"]
    args = parser.parse_args(["evaluate", *map(str, words), "--tasks", "depth_cityscapes"])
    with pytest.raises(CalibrationError, match=r"_camera\.json must have intrinsic"):
        args.run(args)
    args.tasks = ["flow_kitti_2015"]
    with pytest.raises(DataError, match="kitti_flow_2015/training not in the data root"):
        args.run(args)
