"""Depth scores against cases worked by hand, truth sources, and the profile baseline."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from coopnet_core.data import kitti_raw
from coopnet_core.errors import DataError, ShapeError
from coopnet_core.evaluation.baselines import fit_depth_profile
from coopnet_core.evaluation.depth_metrics import (
    depth_metrics,
    eigen_mask,
    garg_crop,
    mean_depth_metrics,
    resize_depth,
)
from coopnet_core.evaluation.stereo_depth import stereo_disparity
from coopnet_core.geometry.intrinsics import Intrinsics


def _f32(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_errors_of_a_case_worked_by_hand() -> None:
    truth = _f32(10, 20, 40, 5)
    depth = _f32(12, 20, 20, 1)
    mask = np.array([[True, True, True, False]])
    score = depth_metrics(depth, truth, mask, median_scaling=False)
    assert score.abs_rel == pytest.approx((0.2 + 0 + 0.5) / 3)
    assert score.sq_rel == pytest.approx((4 / 10 + 0 + 400 / 40) / 3)
    assert score.rmse == pytest.approx(np.sqrt((4 + 0 + 400) / 3))
    logs = np.log([1.2, 1.0, 0.5])
    assert score.rmse_log == pytest.approx(np.sqrt((logs**2).mean()), rel=1e-6)
    # Ratios 1.2, 1, 2; 1.25^3 = 1.95.
    assert (score.delta1, score.delta2, score.delta3) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert score.scale == 1


def test_median_scaling_forgives_a_common_factor_and_nothing_else() -> None:
    truth = _f32(10, 20, 40)
    mask = np.ones((1, 3), bool)
    perfect = depth_metrics(truth / 7, truth, mask)
    assert perfect.abs_rel == pytest.approx(0, abs=1e-6)
    assert perfect.scale == pytest.approx(7)
    # Medians 20 and 2, so factor 10: 30, 20, 20.
    score = depth_metrics(_f32(3, 2, 2), truth, mask)
    assert score.abs_rel == pytest.approx((2 + 0 + 0.5) / 3)


def test_scaled_prediction_is_clamped_to_the_cap() -> None:
    score = depth_metrics(_f32(10, 20, 400), _f32(10, 20, 79), np.ones((1, 3), bool))
    assert score.abs_rel == pytest.approx((80 - 79) / 79 / 3)


def test_crop_is_the_published_one() -> None:
    # KITTI: rows 153 to 370 and columns 44 to 1196 of 375x1242.
    rows, columns = np.nonzero(garg_crop(375, 1242))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (153, 370, 44, 1196)
    truth = np.full((375, 1242), 10, np.float32)
    truth[200, 100], truth[200, 101], truth[200, 102] = 0, 80, 79.9
    mask = eigen_mask(truth)
    assert mask[200, 99:103].tolist() == [True, False, False, True]


def test_depth_is_resized_through_its_inverse() -> None:
    resized = resize_depth(_f32(1, 1, 1 / 3, 1 / 3), 2, 1)
    assert resized[0].tolist() == pytest.approx([1, 1 / 3])
    middle = resize_depth(_f32(1, 1 / 3), 3, 1)[0, 1]
    assert middle == pytest.approx(1 / 2)  # inverse depths 1 and 3 average to 2


def test_bad_input_is_refused() -> None:
    ones, mask = np.ones((2, 2), np.float32), np.ones((2, 2), bool)
    with pytest.raises(ShapeError, match="resize the prediction"):
        depth_metrics(np.ones((3, 2), np.float32), ones, mask)
    with pytest.raises(DataError, match="mask is empty"):
        depth_metrics(ones, ones, ~mask)
    bad = ones.copy()
    bad[0, 0] = np.nan
    with pytest.raises(DataError, match="1 of 4"):
        depth_metrics(bad, ones, mask)
    with pytest.raises(DataError, match="no image"):
        mean_depth_metrics([])


def test_mean_counts_images_equally() -> None:
    mask = np.ones((1, 2), bool)
    good = depth_metrics(_f32(10, 20), _f32(10, 20), mask)
    bad = depth_metrics(_f32(20, 20), _f32(10, 10), mask, median_scaling=False)
    assert mean_depth_metrics([good, bad]).abs_rel == pytest.approx(0.5)


def test_scan_projection_by_hand() -> None:
    # Scanner x forward, y left, z up; camera at the same place.
    projection = np.array([[4.0, -10, 0, 0], [3, 0, -10, 0], [1, 0, 0, 0]])
    points = np.array(
        [[10, 0, 0], [20, 0, 0], [10, -2, 0], [-5, 0, 0], [1, 9, 0]], dtype=np.float32
    )
    depth = kitti_raw.project_scan(points, projection, 8, 6)
    # (4, 3) less one: the nearer of two points; 2 m to the right is 2 px at 10 m.
    assert depth[2, 3] == 10
    assert depth[2, 5] == 10
    assert (depth > 0).sum() == 2


@pytest.fixture
def raw_root(tmp_path: Path) -> Path:
    folder = tmp_path / "2011_09_26" / "2011_09_26_drive_0002_sync"
    (folder / "image_02" / "data").mkdir(parents=True)
    (folder / "velodyne_points" / "data").mkdir(parents=True)
    for number in range(2):
        cv2.imwrite(
            str(folder / "image_02" / "data" / f"{number:010d}.png"), np.zeros((6, 8, 3), np.uint8)
        )
    (folder / "image_02" / "timestamps.txt").write_text(
        "2011-09-26 13:02:44.327963904\n2011-09-26 13:02:44.431104256\n"
    )
    np.array([[10, 0, 0, 0.5]], np.float32).tofile(
        folder / "velodyne_points" / "data" / "0000000000.bin"
    )
    (tmp_path / "2011_09_26" / "calib_velo_to_cam.txt").write_text(
        "calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n"
    )
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text(
        "R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 10 0 4 0 0 10 3 0 0 0 1 0\n"
    )
    return tmp_path


def test_raw_drive_has_stamps_camera_and_lidar_depth(raw_root: Path) -> None:
    sequence = kitti_raw.read_sequence(raw_root, "2011_09_26", "0002")
    assert sequence.stamps_ns[0] % 10**9 == 327963904
    assert sequence.stamps_ns[1] - sequence.stamps_ns[0] == 103140352
    assert sequence.intrinsics == Intrinsics(8, 6, 10, 10, 4, 3)
    depth = kitti_raw.read_lidar_depth(raw_root, "2011_09_26", "0002", 0, 8, 6)
    assert depth[2, 3] == 10
    assert (depth > 0).sum() == 1


def test_damaged_raw_drive_is_refused_by_name(raw_root: Path) -> None:
    with pytest.raises(DataError, match="0009_sync"):
        kitti_raw.read_sequence(raw_root, "2011_09_26", "0009")
    with pytest.raises(DataError, match=r"0000000001\.bin"):
        kitti_raw.read_lidar_depth(raw_root, "2011_09_26", "0002", 1, 8, 6)
    scan = next(raw_root.rglob("*.bin"))
    scan.write_bytes(scan.read_bytes()[:13])
    with pytest.raises(DataError, match="reflectance"):
        kitti_raw.read_lidar_depth(raw_root, "2011_09_26", "0002", 0, 8, 6)
    (raw_root / "2011_09_26" / "calib_velo_to_cam.txt").write_text("R: 1 2\n")
    with pytest.raises(DataError, match=r"calib_velo_to_cam\.txt, R: expected 9"):
        kitti_raw.velodyne_projection(raw_root, "2011_09_26")
    next(raw_root.rglob("timestamps.txt")).write_text("2011-09-26 13:02:44.3\nyesterday\n")
    with pytest.raises(DataError, match="line 2"):
        kitti_raw.read_sequence(raw_root, "2011_09_26", "0002")


def test_stereo_finds_the_disparity_of_two_walls_and_nothing_where_hidden() -> None:
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (120, 400)).astype(np.uint8), (3, 3), 0)
    front = cv2.GaussianBlur(rng.integers(0, 255, (120, 400)).astype(np.uint8), (3, 3), 0)
    left, right = texture[:, 20:320].copy(), texture[:, 28:328].copy()  # far wall: 8 px
    left[30:90, 150:220] = front[30:90, 150:220]  # near board: 30 px
    right[30:90, 120:190] = front[30:90, 150:220]
    disparity = stereo_disparity(left, right)
    far, near = disparity[95:115, 60:280], disparity[35:85, 156:214]
    assert np.nanmedian(far) == pytest.approx(8, abs=0.2)
    assert np.nanmedian(near) == pytest.approx(30, abs=0.2)
    assert np.isfinite(far).mean() > 0.9
    # The strip left of the board is hidden from the right camera by the board.
    assert np.isfinite(disparity[35:85, 130:146]).mean() < 0.3
    with pytest.raises(ShapeError, match="two gray images"):
        stereo_disparity(left, right[:, 1:])


def test_profile_carries_over_to_another_camera() -> None:
    # A road: depth = height * fy / (v - cy).
    def road(camera: Intrinsics, height_m: float = 1.5) -> np.ndarray:
        below = np.arange(camera.height) - camera.cy
        rows = np.where(below > 3, height_m * camera.fy / np.maximum(below, 1), 0)
        return np.repeat(rows[:, None], camera.width, axis=1).astype(np.float32)

    camera = Intrinsics(80, 60, 70, 70, 40, 25)
    other = Intrinsics(120, 100, 105, 105, 60, 45)
    profile = fit_depth_profile([(road(camera), camera)] * 8)
    predicted, expected = profile.depth(other), road(other)
    rows = np.flatnonzero(expected[:, 0])[5:-8]
    np.testing.assert_allclose(predicted[rows], expected[rows], rtol=0.1)
    assert np.ptp(predicted, axis=1).max() == 0
    assert np.isfinite(predicted).all()
    with pytest.raises(DataError, match="known pixels"):
        fit_depth_profile([])
    with pytest.raises(ShapeError, match="camera"):
        fit_depth_profile([(road(camera), other)])
