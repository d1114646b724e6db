"""Flow and motion-mask scores, the .flo reader, and DIS."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from coopnet_core.data.middlebury import read_flow
from coopnet_core.errors import DataError, ShapeError
from coopnet_core.evaluation.baselines import dis_flow
from coopnet_core.evaluation.drive_0002_boxes import CYCLISTS, IMAGE_SIZE
from coopnet_core.evaluation.flow_metrics import (
    consistency,
    flow_errors,
    in_view,
    resize_flow,
    ssim,
    warp,
    warp_errors,
)
from coopnet_core.evaluation.motion_metrics import motion_score

Float32 = npt.NDArray[np.float32]


def _constant(u: float, v: float, width: int = 40, height: int = 24) -> Float32:
    return np.full((height, width, 2), (u, v), np.float32)


def _texture(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (5, 5), 0), np.uint8)


def test_end_point_error_and_outliers_by_hand() -> None:
    truth = np.array([[[100, 0], [10, 0], [0, 0], [np.nan, 0]]], np.float32)
    flow = np.array([[[104, 0], [10, 4], [0, 2], [50, 50]]], np.float32)
    score = flow_errors(flow, truth)
    assert score.epe_px == pytest.approx((4 + 4 + 2) / 3)
    # 4 px of 100 is under 5 %, 2 px is under 3 px: only the second is an outlier.
    assert score.outlier_fraction == pytest.approx(1 / 3)
    assert score.num_pixels == 3


def test_bad_flow_is_refused() -> None:
    truth = _constant(0, 0)
    with pytest.raises(ShapeError):
        flow_errors(truth[:5], truth)
    with pytest.raises(DataError, match="unknown everywhere"):
        flow_errors(truth, truth * np.nan)
    with pytest.raises(DataError, match="finite"):
        flow_errors(truth * np.nan, truth)
    with pytest.raises(DataError, match="leaves the image"):
        warp_errors(truth[..., 0], truth[..., 0], _constant(1000, 0))
    with pytest.raises(ShapeError):
        warp_errors(truth[..., 0], truth[..., 0], truth[:4])


def test_resizing_flow_rescales_its_vectors() -> None:
    resized = resize_flow(_constant(2, 3, 40, 24), 80, 12)
    assert resized.shape == (12, 80, 2)
    np.testing.assert_allclose(resized[5, 7], [4, 1.5])


def test_true_flow_rebuilds_the_target() -> None:
    scene = _texture(60, 30).astype(np.float32) / 255
    target, source = scene[3:27, 4:44], scene[:24, :40]
    flow = _constant(4, 3)  # what is at (u, v) in the target is at (u + 4, v + 3) in the source
    np.testing.assert_array_equal(warp(source, _constant(0, 0)), source)
    mask = in_view(flow)
    assert mask.sum() == 36 * 21
    np.testing.assert_allclose(warp(source, flow)[mask], target[mask], atol=1e-6)
    right, wrong = warp_errors(target, source, flow), warp_errors(target, source, -flow)
    assert right.absolute == pytest.approx(0, abs=1e-6)
    # SSIM looks one pixel around, so the border of the mask still sees what is out of view.
    assert right.photometric < 0.03 < 0.1 < wrong.photometric
    inner = np.zeros_like(mask)
    inner[2:18, 2:33] = True
    assert warp_errors(target, source, flow, inner).photometric == pytest.approx(0, abs=1e-5)


def test_ssim_bounds() -> None:
    image = _texture(20, 20).astype(np.float32) / 255
    np.testing.assert_allclose(ssim(image, image), 1, atol=1e-6)
    assert ssim(image, 1 - image).mean() < 0
    assert ssim(image, 1 - image).min() >= -1


def test_opposite_flows_are_consistent() -> None:
    good = consistency(_constant(4, -2), _constant(-4, 2))
    assert good.median_px == 0
    assert good.consistent_fraction == 1
    assert good.in_view_fraction == pytest.approx(36 * 22 / (40 * 24))
    bad = consistency(_constant(4, -2), _constant(-1, 2))
    assert bad.median_px == pytest.approx(3)
    assert bad.consistent_fraction == 0
    gone = consistency(_constant(400, 0), _constant(0, 0))
    assert np.isnan(gone.median_px)
    assert gone.in_view_fraction == 0


def test_dis_finds_a_shift() -> None:
    scene = _texture(220, 120)
    flow = dis_flow(scene[10:106, 10:202], scene[6:102, 8:200])
    middle = flow[20:-20, 20:-20]
    assert np.median(middle[..., 0]) == pytest.approx(2, abs=0.1)
    assert np.median(middle[..., 1]) == pytest.approx(4, abs=0.1)
    with pytest.raises(ShapeError, match="gray"):
        dis_flow(scene, scene[1:])


def test_flo_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flo"
    vectors = np.array([[[1, 2], [1e10, 1e10], [5, 6]]], "<f4")
    header = np.array([202021.25], "<f4").tobytes() + np.array([3, 1], "<i4").tobytes()
    path.write_bytes(header + vectors.tobytes())
    flow = read_flow(path)
    assert flow.shape == (1, 3, 2)
    assert flow[0, 2].tolist() == [5, 6]
    assert np.isnan(flow[0, 1]).all()
    path.write_bytes(header + vectors.tobytes()[:-1])
    with pytest.raises(DataError, match="3x1"):
        read_flow(path)
    path.write_bytes(b"P6 something else")
    with pytest.raises(DataError, match=r"not a \.flo"):
        read_flow(path)
    with pytest.raises(DataError, match=r"b\.flo"):
        read_flow(tmp_path / "b.flo")


def test_motion_score_on_a_smaller_grid() -> None:
    # Image 80x40, mask 40x20: box (20, 10)-(40, 30) is columns 10-20, rows 5-15.
    mask = np.zeros((20, 40), bool)
    mask[5:15, 10:15] = True  # half of the box
    mask[0, 0] = True  # a false alarm
    mask[5:15, 21] = True  # spill
    mask[18:, 38:] = True  # in the ignored box
    box, ignored = (20.0, 10.0, 40.0, 30.0), (74.0, 34.0, 80.0, 40.0)
    strict = motion_score(mask, [box], [ignored], (80, 40))
    assert strict.box_fractions == (0.5,)
    assert strict.false_alarm_fraction == pytest.approx(11 / (800 - 100 - 9))
    lenient = motion_score(mask, [box], [ignored], (80, 40), margin_px=4)
    assert lenient.false_alarm_fraction == pytest.approx(1 / (800 - 14 * 14 - 25))
    with pytest.raises(ShapeError):
        motion_score(mask[None], [box], [], (80, 40))


def test_boxes_lie_in_the_image() -> None:
    for boxes in CYCLISTS.values():
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= IMAGE_SIZE[0]
            assert 0 <= top < bottom <= IMAGE_SIZE[1]
