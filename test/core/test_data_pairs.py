"""Pairs and the data set: geometry survives resize and flip; augmentation is repeatable."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from coopnet_core.data.dataset import FrameCache, PairDataset, _refocus
from coopnet_core.data.pairs import PairRecord, stereo_pairs, temporal_pairs
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import DataError
from coopnet_core.geometry.intrinsics import Intrinsics

WIDTH, HEIGHT, DISPARITY, DEPTH_M, BASELINE_M = 64, 32, 6, 5.0, 0.5
# Disparity = fx * baseline / depth.
CAMERA = Intrinsics(WIDTH, HEIGHT, DISPARITY * DEPTH_M / BASELINE_M, 55.0, 30.3, 15.2)


@pytest.fixture
def stereo(tmp_path: Path) -> Sequence:
    """Two stereo frames of a fronto-parallel textured wall, stored at twice the training size."""
    lefts: list[Path] = []
    rights: list[Path | None] = []
    for number in range(2):
        rng = np.random.default_rng(number)
        wall = rng.integers(0, 255, (HEIGHT, WIDTH + DISPARITY, 3), dtype=np.uint8)
        wall = np.kron(wall, np.ones((2, 2, 1), np.uint8))
        left, right = tmp_path / f"l{number}.png", tmp_path / f"r{number}.png"
        cv2.imwrite(str(left), wall[:, : 2 * WIDTH])
        cv2.imwrite(str(right), wall[:, 2 * DISPARITY :])
        lefts.append(left)
        rights.append(right)
    return Sequence(
        name="wall",
        paths=tuple(lefts),
        indices=(0, 1),
        intrinsics=CAMERA.resized(2 * WIDTH, 2 * HEIGHT),
        stamps_ns=(0, 1),
        right_paths=tuple(rights),
        baseline_m=BASELINE_M,
    )


def _reproject(item: dict[str, torch.Tensor]) -> npt.NDArray[np.float64]:
    """Where each target pixel, at the wall's depth, falls in the source: (H, W, 2)."""
    K = item["K"].double().numpy()
    T = item["T_src_tgt"].double().numpy()
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    points = np.linalg.inv(K) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)]) * DEPTH_M
    projected = K @ (T[:3, :3] @ points + T[:3, 3:])
    return np.asarray((projected[:2] / projected[2]).T.reshape(HEIGHT, WIDTH, 2))


def test_stereo_geometry_survives_resize_and_flip(stereo: Sequence) -> None:
    dataset = PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT, augment=True, seed=3)
    directions = set()
    centres = set()
    for epoch in range(40):
        item = dataset.item(1, epoch)
        target, source = item["image_tgt"].numpy(), item["image_src"].numpy()
        position = _reproject(item)
        u = np.rint(position[..., 0]).astype(int)
        np.testing.assert_allclose(position[..., 0], u, atol=1e-3)
        np.testing.assert_allclose(position[..., 1], np.arange(HEIGHT)[:, None] + 0 * u, atol=1e-3)
        seen = (u[0] >= 0) & (u[0] < WIDTH)
        assert seen.sum() == WIDTH - DISPARITY
        np.testing.assert_array_equal(source[:, :, u[0][seen]], target[:, :, seen])
        directions.add(int(np.sign(u[0][0])) or -1)
        centres.add(round(float(item["K"][0, 2]), 3))
        assert bool(item["has_pose"])
    assert directions == {-1, 1}
    assert centres == {30.3, round(WIDTH - 1 - 30.3, 3)}


def test_items_are_float32_contiguous_and_in_range(stereo: Sequence) -> None:
    item = PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT, augment=True).item(0, 0)
    for name in ("image_tgt", "image_src", "input_tgt", "input_src"):
        assert item[name].shape == (3, HEIGHT, WIDTH)
        assert item[name].dtype == torch.float32
        assert item[name].is_contiguous()
        assert float(item[name].min()) >= 0
        assert float(item[name].max()) <= 1
    assert item["K"].shape == (3, 3)
    assert item["K"].dtype == torch.float32
    assert item["T_src_tgt"].shape == (4, 4)
    assert item["T_src_tgt"].dtype == torch.float32
    assert item["has_pose"].dtype == torch.bool


def test_item_depends_on_seed_epoch_and_index_alone(stereo: Sequence) -> None:
    records = stereo_pairs(stereo)
    first = PairDataset(records, WIDTH, HEIGHT, seed=1)
    second = PairDataset(records, WIDTH, HEIGHT, seed=1)
    second.item(0, 5)
    second.item(1, 0)
    for epoch in range(6):
        expected, actual = first.item(0, epoch), second.item(0, epoch)
        assert all(torch.equal(expected[name], actual[name]) for name in expected)
    other = PairDataset(records, WIDTH, HEIGHT, seed=2)
    assert any(
        not torch.equal(first.item(0, epoch)["input_tgt"], other.item(0, epoch)["input_tgt"])
        for epoch in range(6)
    )


def test_jitter_is_half_the_time_shared_by_both_frames_and_only_on_inputs(tmp_path: Path) -> None:
    # Both frames are one picture, so a jitter shared by both leaves the inputs equal.
    path = tmp_path / "a.png"
    cv2.imwrite(
        str(path), np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)
    )
    record = PairRecord(path, path, CAMERA, None, "s", 1, 0)
    dataset = PairDataset([record], WIDTH, HEIGHT, tint=0.1)
    plain = PairDataset([record], WIDTH, HEIGHT, augment=False).item(0)["image_tgt"]
    num_plain = 0
    has_tint = False
    for epoch in range(200):
        item = dataset.item(0, epoch)
        assert torch.equal(item["input_tgt"], item["input_src"])
        assert torch.equal(item["image_tgt"], plain) or torch.equal(
            item["image_tgt"], plain.flip(-1)
        )
        num_plain += torch.equal(item["input_tgt"], item["image_tgt"])
        has_tint |= not torch.equal(item["input_tgt"][0], item["input_tgt"][2])
        assert not bool(item["has_pose"])
        assert torch.equal(item["T_src_tgt"], torch.eye(4))
    # Neither the jitter nor the change of sharpness: a quarter of 200.
    assert 30 < num_plain < 75
    assert has_tint


def test_sharpness_varies_to_both_sides_and_equally_in_both_frames() -> None:
    noise = np.random.default_rng(0).random((3, 40, 60)).astype(np.float32)
    image = np.stack([cv2.GaussianBlur(channel, (0, 0), 1.0) for channel in noise])
    contrasts = []
    for seed in range(40):
        tgt, src = _refocus(np.random.default_rng(seed), image, image)
        assert np.array_equal(tgt, src)
        assert tgt.dtype == np.float32
        assert tgt.min() >= 0
        assert tgt.max() <= 1
        assert tgt.mean() == pytest.approx(image.mean(), abs=2e-3)
        contrasts.append(tgt.std() / image.std())
    assert min(contrasts) < 0.85
    assert max(contrasts) > 1.2
    assert 10 < sum(contrast < 1 for contrast in contrasts) < 30


def test_without_augmentation_nothing_changes(stereo: Sequence) -> None:
    dataset = PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT, augment=False)
    for epoch in range(5):
        item = dataset.item(0, epoch)
        assert torch.equal(item["image_tgt"], item["input_tgt"])
        np.testing.assert_allclose(item["K"].numpy(), CAMERA.matrix(), rtol=1e-6)
        assert float(item["T_src_tgt"][0, 3]) == pytest.approx(-BASELINE_M)


def test_frames_are_read_once(stereo: Sequence) -> None:
    cache = FrameCache(WIDTH, HEIGHT)
    dataset = PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT, cache=cache)
    before = dataset.item(0, 0)
    dataset.item(1, 0)
    assert len(cache) == 4
    for path in stereo.paths:
        path.unlink()
    again = PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT, cache=cache).item(0, 0)
    assert torch.equal(before["input_tgt"], again["input_tgt"])
    with pytest.raises(DataError, match="shared cache"):
        PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT // 2, cache=cache)


def test_images_of_another_size_are_refused(stereo: Sequence) -> None:
    cv2.imwrite(str(stereo.paths[0]), np.zeros((10, 10), np.uint8))
    dataset = PairDataset(stereo_pairs(stereo), WIDTH, HEIGHT)
    with pytest.raises(DataError, match=r"l0\.png is 10x10"):
        dataset.item(0)


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(DataError, match="no image pairs"):
        PairDataset([], WIDTH, HEIGHT)


def _moving(tmp_path: Path) -> Sequence:
    rng = np.random.default_rng(0)
    texture = cv2.blur(rng.integers(0, 255, (HEIGHT, WIDTH + 60), dtype=np.uint8), (5, 5))
    paths = []
    for number, offset in enumerate((0, 0, 6, 20)):  # the camera stands still once
        noise = rng.normal(0, 1, (HEIGHT, WIDTH))
        view = np.clip(texture[:, offset : offset + WIDTH] + noise, 0, 255).astype(np.uint8)
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), view)
    return Sequence("m", tuple(paths), (4, 5, 6, 8), CAMERA, (0, 1, 2, 3))


def test_temporal_pairs_skip_standstill_and_holes(tmp_path: Path) -> None:
    sequence = _moving(tmp_path)

    def indices(records: list[PairRecord]) -> list[tuple[int, int]]:
        return [(record.index_tgt, record.index_src) for record in records]

    assert indices(temporal_pairs(sequence)) == [(6, 5)]
    assert indices(temporal_pairs(sequence, min_motion=0)) == [(5, 4), (6, 5)]
    assert indices(temporal_pairs(sequence, gaps=(1, 2))) == [(6, 5), (6, 4), (8, 6)]
    assert all(record.T_src_tgt is None for record in temporal_pairs(sequence))
    with pytest.raises(DataError, match="gap"):
        temporal_pairs(sequence, gaps=(0,))
    with pytest.raises(DataError, match="no right camera"):
        stereo_pairs(sequence)


def test_stereo_pairs_skip_frames_without_partner(stereo: Sequence) -> None:
    assert stereo.right_paths is not None
    partial = Sequence(
        stereo.name,
        stereo.paths,
        stereo.indices,
        stereo.intrinsics,
        stereo.stamps_ns,
        right_paths=(None, stereo.right_paths[1]),
        baseline_m=stereo.baseline_m,
    )
    records = stereo_pairs(partial)
    assert [record.index_tgt for record in records] == [1]
    assert records[0].T_src_tgt is not None
    np.testing.assert_allclose(np.reshape(records[0].T_src_tgt, (4, 4))[:3, 3], [-BASELINE_M, 0, 0])
