"""What a run says about itself: statistics of the band, true motion, the final picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training packages are not installed")
pytest.importorskip("lightning_fabric", reason="training packages are not installed")

import two_processes  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import (  # noqa: E402
    EventAccumulator,
)

from coopnet_core.data import image_folder  # noqa: E402
from coopnet_core.data.dataset import PairDataset  # noqa: E402
from coopnet_core.data.pairs import temporal_pairs  # noqa: E402
from coopnet_core.errors import DataError  # noqa: E402
from coopnet_core.losses import rebalancing as rb  # noqa: E402
from coopnet_core.training import loop  # noqa: E402
from coopnet_core.training.batches import BatchPlan, batches, make_batch  # noqa: E402
from coopnet_core.training.logging import RunLogger  # noqa: E402
from coopnet_core.training.report import write_report  # noqa: E402
from coopnet_core.training.step_report import motion_overlap  # noqa: E402
from coopnet_core.types import UNKNOWN_MOTION, LossTerms  # noqa: E402


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene")
    two_processes.write_scene(root)
    return root


def dataset(scene: Path, augment: bool = False) -> PairDataset:
    sequence = image_folder.read_sequence(scene / "frames")
    size = (two_processes.WIDTH, two_processes.HEIGHT)
    return PairDataset(temporal_pairs(sequence), *size, augment=augment)


def test_true_motion_comes_with_its_frame_and_is_flipped_with_it(scene: Path) -> None:
    motion = dataset(scene).item(2)["motion_tgt"]  # the target is frame 3
    expected = torch.zeros(1, two_processes.HEIGHT, two_processes.WIDTH, dtype=torch.uint8)
    expected[:, 20:40, 28:52] = 1
    assert torch.equal(motion, expected)
    augmented = [dataset(scene, augment=True).item(2, epoch) for epoch in range(9)]
    assert {bool(item["motion_tgt"][0, 30, 30]) for item in augmented} == {True, False}


def test_frames_without_truth_are_unknown_and_a_useless_folder_is_refused(
    scene: Path, tmp_path: Path
) -> None:
    for path in (scene / "frames").glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    motion = tmp_path / "motion"
    motion.mkdir()
    with pytest.raises(DataError, match=r"no picture .* names like 000000\.png"):
        image_folder.read_sequence(tmp_path)
    labels = np.zeros((two_processes.HEIGHT, two_processes.WIDTH, 3), np.uint8)
    labels[5, 6, 2] = 1
    cv2.imwrite(str(motion / "000001.png"), labels)
    pairs = temporal_pairs(image_folder.read_sequence(tmp_path))
    both = PairDataset(pairs, two_processes.WIDTH, two_processes.HEIGHT, augment=False)
    assert both.item(0)["motion_tgt"].nonzero().tolist() == [[0, 5, 6]]
    assert (both.item(1)["motion_tgt"] == UNKNOWN_MOTION).all()


def test_overlap_of_rejected_and_moving_pixels_by_hand(scene: Path) -> None:
    batch = make_batch(dataset(scene), BatchPlan(2, seed=0), 0)
    shape = batch.image_tgt[:, :1].shape
    motion = torch.zeros(shape, dtype=torch.uint8)
    motion[0, 0, 0, :10] = 1  # of these, 4 are rejected, 3 kept, 3 seen by no warp
    motion[1] = UNKNOWN_MOTION
    rejected = torch.zeros((4, *shape[1:]), dtype=torch.bool)
    rejected[0, 0, 0, :4] = True
    rejected[0, 0, 1, :5] = True  # rejected and static
    rejected[1:, 0, 0, :] = True  # unknown, and the other direction: not counted
    kept = torch.zeros_like(rejected)
    kept[0, 0, 0, 4:7] = True
    losses = LossTerms(torch.zeros(()), {}, kept_mask=kept, rejected_mask=rejected)
    found = motion_overlap(batch._replace(motion_tgt=motion), losses)
    assert [int(value) for value in found] == [4, 12]
    stereo = batch._replace(motion_tgt=motion, has_pose=torch.tensor([True, False]))
    assert [int(value) for value in motion_overlap(stereo, losses)] == [0, 0]
    assert [int(value) for value in motion_overlap(batch, LossTerms(torch.zeros(()), {}))] == [0, 0]


def test_the_logged_histogram_counts_every_valid_pixel() -> None:
    delta = torch.tensor([-0.9, -0.4999, 0.001, 0.002, 0.7, 0.3]).view(1, 1, 1, 6)
    valid = torch.tensor([True, True, True, True, True, False]).view(1, 1, 1, 6)
    band = rb.Band(torch.zeros(1), torch.ones(1))
    counts = rb.delta_statistics(delta, valid, valid, band).histogram
    middle = rb.LOGGED_BINS // 2
    assert counts.nonzero().flatten().tolist() == [0, middle, rb.LOGGED_BINS - 1]
    assert counts[[0, middle, -1]].tolist() == [2, 2, 1]


def test_workers_change_nothing_but_the_waiting(scene: Path) -> None:
    plan = BatchPlan(2, seed=3)
    one = list(batches(dataset(scene, augment=True), plan, range(7), 1))
    many = list(batches(dataset(scene, augment=True), plan, range(7), 4))
    assert [step for step, _ in one] == [step for step, _ in many] == list(range(7))
    for (_, first), (_, second) in zip(one, many, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_run_in_parts_ends_with_one_picture_of_all_its_steps(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "build_networks", two_processes.tiny_networks)
    config = two_processes.config()
    fabric = Fabric(accelerator="cpu", devices=1)
    for stop_after in (3, None):
        with RunLogger(tmp_path, config, pictures_every=2, has_bar=False) as logger:
            loop.train(
                config,
                scene,
                tmp_path,
                resume=stop_after is None,
                stop_after=stop_after,
                fabric=fabric,
                report=logger,
            )
            assert 0 <= logger.share_waiting <= 1
    assert " data " in capsys.readouterr().out
    picture = cv2.imread(str(write_report(tmp_path)))
    assert picture is not None
    # Curves in colour, not an empty page.
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for tag in ("loss/total", "time/share_waiting_for_data", "gradient_share/pose"):
        assert [event.step for event in events.Scalars(tag)] == [1, 2, 3, 4, 5]
    for tag in ("band/p_positive", "band/epsilon", "band/kept", "band/motion_iou"):
        assert [event.step for event in events.Scalars(tag)] == [3, 4, 5]
    histogram = events.Histograms("band/delta")[-1].histogram_value
    assert sum(histogram.bucket) == histogram.num > 1000
