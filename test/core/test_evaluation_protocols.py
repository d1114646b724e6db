"""Scores by the protocols of the field: hand-worked cases, evo, and KITTI's rule written anew."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from coopnet_core.data.sequence import poses_from_rows
from coopnet_core.errors import DataError, ShapeError
from coopnet_core.evaluation.depth_protocols import (
    CITYSCAPES,
    EIGEN,
    EIGEN_IMPROVED,
    RGBD,
    DepthExample,
    DepthProtocol,
    DepthSample,
    cityscapes_crop,
    score_image,
    score_samples,
)
from coopnet_core.evaluation.flow_metrics import (
    flow_errors,
    mean_flow_errors,
    pooled_flow_errors,
)
from coopnet_core.evaluation.odometry_metrics import (
    Alignment,
    odometry_metrics,
    relative_to_first,
    write_kitti_poses,
)
from coopnet_core.evaluation.snippet_metrics import snippet_errors
from coopnet_core.evaluation.task_protocol_depth import depth_rows
from coopnet_core.evaluation.task_protocol_flow import (
    KITTI_2012,
    KITTI_2015,
    FlowExample,
    flow_rows,
    score_flow,
)
from coopnet_core.geometry.intrinsics import Intrinsics

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


# Trajectories --------------------------------------------------------------------------------


def _rotation(axis: Float64, angle: float) -> Float64:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _city_drive(num: int, noise: float, scale: float, seed: int) -> Float64:
    """A drive with turns, hills and stops; ``noise`` is a drift added to every step."""
    plan = np.random.default_rng(0)
    drift = np.random.default_rng(seed)
    poses = [np.eye(4)]
    yaw, speed = 0.0, 1.0
    for _ in range(num - 1):
        yaw = 0.95 * yaw + plan.normal(0, 0.004)
        speed = float(np.clip(speed + plan.normal(0, 0.05), 0.0, 1.6))
        step = np.eye(4)
        axis = np.array([0.05, 1.0, 0.02])
        step[:3, :3] = _rotation(axis, yaw) @ _rotation(
            drift.normal(0, 1, 3), noise * drift.normal()
        )
        step[:3, 3] = scale * (np.array([0.01, 0.02, 1.0]) * speed + noise * drift.normal(0, 1, 3))
        poses.append(poses[-1] @ step)
    return np.stack(poses)


@pytest.fixture(scope="module")
def pose_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """True and estimated poses of 1600 frames (1.3 km) in KITTI's files."""
    folder = tmp_path_factory.mktemp("poses")
    # With the digits of the published files, which leave rotations a little off.
    np.savetxt(
        folder / "truth.txt", _city_drive(1600, 0.0, 1.0, 1)[:, :3].reshape(-1, 12), fmt="%.6e"
    )
    write_kitti_poses(folder / "estimate.txt", _city_drive(1600, 0.003, 0.31, 2))
    return folder / "truth.txt", folder / "estimate.txt"


def _read(path: Path) -> Float64:
    return poses_from_rows(path, tuple(range(1600)))


def _devkit(truth: Path, estimate: Path, factor: float = 1.0) -> tuple[float, float, int]:
    """KITTI's odometry rule in plain Python: t_err (fraction), r_err (rad/m), segments.

    Written from the rule alone, matrices as nested lists, nothing shared with the product.
    """

    def load(path: Path, scale: float) -> list[list[list[float]]]:
        poses = []
        for line in path.read_text().splitlines():
            v = [float(word) for word in line.split()]
            rows = [v[0:4], v[4:8], v[8:12]]
            poses.append([[*row[:3], row[3] * scale] for row in rows])
        return poses

    def inverse(m: list[list[float]]) -> list[list[float]]:
        def minor(i: int, j: int) -> float:  # of the transposed matrix, with its sign
            a, b, c, d = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
            return m[a][c] * m[b][d] - m[a][d] * m[b][c]

        determinant = sum(m[0][j] * minor(0, j) for j in range(3))
        r = [[minor(j, i) / determinant for j in range(3)] for i in range(3)]
        return [[*r[i], -sum(r[i][k] * m[k][3] for k in range(3))] for i in range(3)]

    def product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
        return [
            [
                sum(a[i][k] * b[k][j] for k in range(3)) + (a[i][3] if j == 3 else 0.0)
                for j in range(4)
            ]
            for i in range(3)
        ]

    true, guess = load(truth, 1.0), load(estimate, factor)
    along = [0.0]
    for a, b in pairwise(true):
        along.append(along[-1] + math.dist([r[3] for r in a], [r[3] for r in b]))
    t_sum = r_sum = 0.0
    num = 0
    for first in range(0, len(true), 10):
        for length in (100, 200, 300, 400, 500, 600, 700, 800):
            last = next(
                (i for i in range(first, len(true)) if along[i] > along[first] + length), -1
            )
            if last < 0:
                continue
            moved_true = product(inverse(true[first]), true[last])
            moved = product(inverse(guess[first]), guess[last])
            error = product(inverse(moved), moved_true)
            cosine = (error[0][0] + error[1][1] + error[2][2] - 1) / 2
            r_sum += math.acos(max(-1.0, min(1.0, cosine))) / length
            t_sum += math.sqrt(sum(row[3] ** 2 for row in error)) / length
            num += 1
    return t_sum / num, r_sum / num, num


def test_segment_errors_are_those_of_kittis_rule(pose_files: tuple[Path, Path]) -> None:
    truth, estimate = (_read(path) for path in pose_files)
    for alignment, factor in (("none", 1.0), ("scale", None)):
        score = odometry_metrics(estimate, truth, alignment)  # type: ignore[arg-type]
        t_err, r_err, num = _devkit(*pose_files, score.scale if factor is None else factor)
        assert score.t_err_percent == pytest.approx(100 * t_err, rel=1e-6)
        assert score.r_err_deg_per_100m == pytest.approx(100 * math.degrees(r_err), rel=1e-6)
        assert score.num_segments == num
        assert num > 300
        assert score.lengths_m == tuple(range(100, 900, 100))
    # Scale by least squares over positions: its derivative vanishes there.
    positions, expected = estimate[:, :3, 3], truth[:, :3, 3]
    assert ((score.scale * positions - expected) * positions).sum() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("alignment", ["none", "6dof", "7dof"])
def test_ate_and_rpe_are_those_of_evo_on_the_same_files(
    pose_files: tuple[Path, Path], alignment: Alignment
) -> None:
    pytest.importorskip("evo", reason="evo is the oracle for ATE and RPE")
    from evo.core import metrics
    from evo.tools import file_interface

    truth, estimate = (_read(path) for path in pose_files)
    reference, other = (file_interface.read_kitti_poses_file(path) for path in pose_files)
    if alignment != "none":
        other.align(reference, correct_scale=alignment == "7dof")
    score = odometry_metrics(estimate, truth, alignment)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, other))
    rmse = metrics.StatisticsType.rmse
    assert score.ate_m == pytest.approx(ape.get_statistic(rmse), rel=1e-6)
    for relation, ours in (
        (metrics.PoseRelation.translation_part, score.rpe_translation_m),
        (metrics.PoseRelation.rotation_angle_deg, score.rpe_rotation_deg),
    ):
        rpe = metrics.RPE(relation, 1, metrics.Unit.frames)
        rpe.process_data((reference, other))
        assert ours == pytest.approx(rpe.get_statistic(rmse), rel=1e-6)


def test_snippets_are_those_of_sfmlearner() -> None:
    truth, estimate = _city_drive(60, 0.0, 1.0, 1), _city_drive(60, 0.02, 0.2, 5)
    errors = snippet_errors(estimate, truth)
    assert errors.shape == (56,)
    for start in (0, 17, 55):
        pieces = []
        for poses in (estimate, truth):
            first = np.linalg.inv(poses[start])
            pieces.append(np.array([(first @ poses[start + k])[:3, 3] for k in range(5)]))
        guess, true = pieces
        scale = np.sum(true * guess) / np.sum(guess**2)
        expected = np.sqrt(np.sum((scale * guess - true) ** 2)) / 5
        assert errors[start] == pytest.approx(expected, abs=1e-12)
    # No common frame, no common scale: every snippet has its own.
    moved = truth.copy()
    moved[:, :3, 3] *= 7
    turned = np.eye(4)
    turned[:3, :3] = _rotation(np.array([1.0, 2.0, 3.0]), 1.0)
    assert snippet_errors(turned @ moved, truth).max() == pytest.approx(0, abs=1e-9)


def test_a_snippet_by_hand() -> None:
    truth = np.tile(np.eye(4), (5, 1, 1))
    truth[:, 2, 3] = [0, 1, 2, 3, 4]
    still = np.tile(np.eye(4), (5, 1, 1))
    assert snippet_errors(still, truth)[0] == pytest.approx(math.sqrt(30) / 5)
    sideways = truth.copy()
    sideways[4, 0, 3] = 1  # scale 30 / 31
    scale = 30 / 31
    expected = math.sqrt(30 * (1 - scale) ** 2 + scale**2) / 5
    assert snippet_errors(sideways, truth)[0] == pytest.approx(expected)
    with pytest.raises(ShapeError, match="takes 5 frames"):
        snippet_errors(truth[:4], truth[:4])
    with pytest.raises(ShapeError, match="both be"):
        snippet_errors(truth, truth[:4])


# Depth ---------------------------------------------------------------------------------------


def test_eigen_by_hand_on_a_full_size_image() -> None:
    truth = np.zeros((375, 1242), np.float32)
    inside = [(200, 100), (200, 200), (200, 300), (200, 400)]
    for place, value in zip(inside, (10, 20, 40, 5), strict=True):
        truth[place] = value
    truth[10, 100] = 7  # above the crop
    truth[300, 1230] = 7  # right of it
    truth[250, 500] = 80  # not below 80 m
    depth = np.full((375, 1242), 10, np.float32)
    score = score_image(depth, truth, EIGEN, "a")
    assert score is not None
    # Median of 5, 10, 20, 40 is 15, so the prediction becomes 15 everywhere.
    assert score.median.scale == pytest.approx(1.5)
    assert score.median.abs_rel == pytest.approx((0.5 + 0.25 + 0.625 + 2) / 4)
    assert score.median.rmse == pytest.approx(math.sqrt((25 + 25 + 625 + 100) / 4))
    assert score.median.sq_rel == pytest.approx((25 / 10 + 25 / 20 + 625 / 40 + 100 / 5) / 4)
    logs = [math.log(15 / value) for value in (10, 20, 40, 5)]
    assert score.median.rmse_log == pytest.approx(math.sqrt(sum(x * x for x in logs) / 4))
    # Ratios 1.5, 1.333, 2.667, 3 against 1.25, 1.5625, 1.953.
    deltas = (score.median.delta1, score.median.delta2, score.median.delta3)
    assert deltas == (0.0, 0.5, 0.5)
    assert score.unscaled.abs_rel == pytest.approx((0 + 0.5 + 0.75 + 1) / 4)
    assert score_image(depth, np.zeros_like(truth), EIGEN, "empty") is None


def test_improved_truth_has_no_crop_and_a_cap_on_the_prediction_alone() -> None:
    truth = np.zeros((375, 1242), np.float32)
    truth[10, 3], truth[11, 3] = 84, 8
    depth = np.full(truth.shape, 8, np.float32)
    depth[:11] = 100
    score = score_image(depth, truth, EIGEN_IMPROVED, "a")
    assert score is not None
    # 100 is capped at 80.
    assert score.unscaled.abs_rel == pytest.approx((4 / 84 + 0) / 2)


def test_cityscapes_keeps_the_middle_of_what_is_above_the_bonnet() -> None:
    truth = np.full((1024, 2048), 10, np.float32)
    camera = Intrinsics(2048, 1024, 2262, 2262, 1097, 513)
    whole = DepthExample(np.zeros((1024, 2048, 3), np.uint8), truth, camera)
    example = cityscapes_crop(whole)
    assert example.image.shape == (768, 2048, 3)
    assert example.truth.shape == (768, 2048)
    assert example.camera == Intrinsics(2048, 768, 2262, 2262, 1097, 513)
    rows, columns = np.nonzero(CITYSCAPES.mask(example.truth))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (256, 767, 192, 1855)
    # Half size has half the window; values out of range do not count.
    half = example.truth[::2, ::2].copy()
    half[200, 500], half[201, 500], half[202, 500] = 0, 80, 79
    mask = CITYSCAPES.mask(half)
    assert mask.sum() == mask[128:, 96:928].sum() == 256 * 832 - 2
    assert mask[202, 500]


def test_rgbd_counts_up_to_ten_metres() -> None:
    truth = np.array([[0, 1, 9.9, 10, 12]], np.float32)
    assert RGBD.mask(truth).tolist() == [[False, True, True, False, False]]


def test_predictions_are_brought_to_the_truths_size_as_inverse_depth() -> None:
    truth = np.full((1, 3), 1.0, np.float32)
    depth = np.array([[1, 1 / 3]], np.float32)  # inverse 1, 3: the middle becomes 2
    protocol = DepthProtocol("all", lambda t: t > 0)
    score = score_image(depth, truth, protocol, "a")
    assert score is not None
    assert score.unscaled.abs_rel == pytest.approx((0 + 0.5 + 2 / 3) / 3)


def test_mean_over_images_and_spread_of_the_scale() -> None:
    protocol = DepthProtocol("all", lambda truth: truth > 0)

    def sample(name: str, value: float) -> DepthSample:
        truth = np.full((4, 4), value, np.float32)
        camera = Intrinsics(4, 4, 4, 4, 1.5, 1.5)
        return DepthSample(name, lambda: DepthExample(np.zeros((4, 4), np.uint8), truth, camera))

    lines: list[str] = []
    samples = [sample("a", 1), sample("b", 2), sample("c", 4), sample("none", 0)]
    scored = score_samples(
        lambda example: np.ones((2, 2), np.float32), samples, protocol, lines.append
    )
    assert [entry.name for entry in scored] == ["a", "b", "c"]
    assert lines
    median, metres = depth_rows("x", scored, True)
    assert median["abs_rel"] == 0
    assert median["median_ratio"] == 2
    # Ratios 1, 2, 4 over their median: 0.5, 1, 2.
    assert median["median_ratio_std"] == pytest.approx(np.std([0.5, 1, 2]))
    assert metres["abs_rel"] == pytest.approx((0 + 0.5 + 0.75) / 3)
    assert median["images"] == 3
    assert len(depth_rows("x", scored, False)) == 1
    with pytest.raises(DataError, match="no image"):
        depth_rows("x", [], False)


# Flow ----------------------------------------------------------------------------------------


def _pair(known: list[tuple[float, float]], hidden: int, objects: list[int] | None) -> FlowExample:
    """A pair one pixel high; the last ``hidden`` pixels leave the view."""
    occ = np.array([known], np.float32)
    noc = occ.copy()
    if hidden:
        noc[:, -hidden:] = np.nan
    image = np.zeros(occ.shape[:2], np.uint8)
    marked = None if objects is None else np.array([objects])
    return FlowExample(image, image, occ, noc, marked)


def test_flow_scores_by_hand_on_all_sets_of_pixels() -> None:
    # Errors 0, 4 of 100 (4 %), 4 of 10 (40 %), 10 of 20; the last leaves the view.
    example = _pair([(5, 0), (100, 0), (10, 0), (0, 20)], 1, [0, 0, 2, 2])
    flow = np.array([[(5, 0), (104, 0), (10, 4), (0, 30)]], np.float32)
    errors = score_flow(flow, example, KITTI_2015)
    assert (errors["occ"].epe_px, errors["occ"].outlier_fraction) == pytest.approx((18 / 4, 2 / 4))
    assert (errors["noc"].epe_px, errors["noc"].outlier_fraction) == pytest.approx((8 / 3, 1 / 3))
    assert (errors["bg"].epe_px, errors["bg"].outlier_fraction) == pytest.approx((2, 0))
    assert (errors["fg"].epe_px, errors["fg"].outlier_fraction) == pytest.approx((7, 1))
    # KITTI 2012 knows no 5 %.
    assert score_flow(flow, example, KITTI_2012)["occ"].outlier_fraction == pytest.approx(3 / 4)


def test_pooled_and_per_pair_means_differ_by_hand() -> None:
    small = _pair([(0, 0)], 0, [1])
    large = _pair([(0, 0)] * 3, 0, None)
    per_pair = [
        score_flow(np.full((1, 1, 2), (6, 8), np.float32), small, KITTI_2015),
        score_flow(np.zeros((1, 3, 2), np.float32), large, KITTI_2015),
    ]
    pooled, mean = flow_rows("x", per_pair)
    assert (pooled["epe_occ_px"], mean["epe_occ_px"]) == pytest.approx((10 / 4, 10 / 2))
    assert (pooled["fl_occ"], mean["fl_occ"]) == pytest.approx((1 / 4, 1 / 2))
    # Only the first pair has objects, and no background.
    assert pooled["fl_fg"] == 1
    assert "fl_bg" not in pooled
    for combine in (pooled_flow_errors, mean_flow_errors):
        with pytest.raises(DataError, match="no image"):
            combine([])


def test_flow_is_rescaled_to_the_truths_size() -> None:
    example = _pair([(8, 0)] * 8, 0, None)
    flow = np.full((1, 4, 2), (4, 3), np.float32)  # half the width: u doubles, v does not
    assert score_flow(flow, example, KITTI_2015)["occ"].epe_px == pytest.approx(3)


def test_a_mask_without_truth_is_refused() -> None:
    truth = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(DataError, match="in the mask"):
        flow_errors(truth, truth, np.zeros((2, 2), np.bool_))
    with pytest.raises(ShapeError, match="mask"):
        flow_errors(truth, truth, np.zeros((3, 2), np.bool_))


def test_pose_files_come_back_exactly_enough(tmp_path: Path) -> None:
    poses = relative_to_first(_city_drive(20, 0.1, 1.0, 3))
    write_kitti_poses(tmp_path / "poses.txt", poses)
    again = poses_from_rows(tmp_path / "poses.txt", tuple(range(20)))
    np.testing.assert_allclose(again, poses, atol=1e-9)
    with pytest.raises(DataError, match="cannot write"):
        write_kitti_poses(tmp_path / "none" / "poses.txt", poses)
