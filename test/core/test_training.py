"""Training for real on tiny scenes: it learns, rebalances, resumes exactly, survives SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training packages are not installed")
pytest.importorskip("lightning_fabric", reason="training packages are not installed")

from lightning_fabric import Fabric  # noqa: E402

from coopnet_core.config import LossSettings, TrainingConfig, parse_config  # noqa: E402
from coopnet_core.data.dataset import FrameCache  # noqa: E402
from coopnet_core.data.image_folder import write_calibration  # noqa: E402
from coopnet_core.errors import TrainingError  # noqa: E402
from coopnet_core.geometry.intrinsics import Intrinsics  # noqa: E402
from coopnet_core.geometry.se3 import matrix_from_vector  # noqa: E402
from coopnet_core.geometry.warp import rigid_flow  # noqa: E402
from coopnet_core.networks import build_networks  # noqa: E402
from coopnet_core.recipes.coopnet import CoopNetRecipe  # noqa: E402
from coopnet_core.training import checkpoint as checkpoints  # noqa: E402
from coopnet_core.training import loop  # noqa: E402
from coopnet_core.training.batches import batch_indices  # noqa: E402
from coopnet_core.training.model import CoTrainingModel, with_known_pose  # noqa: E402
from coopnet_core.training.schedule import learning_rate_at  # noqa: E402
from coopnet_core.types import Batch, Prediction  # noqa: E402

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth random texture that slides to the left by 3 pixels a frame, five frames."""
    root = tmp_path_factory.mktemp("scene")
    folder = root / "frames"
    folder.mkdir()
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH + 40)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 2.5)
    texture = cv2.normalize(texture, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)
    for index in range(5):
        cv2.imwrite(str(folder / f"{index:06d}.png"), texture[:, 3 * index : 3 * index + WIDTH])
    camera = Intrinsics(WIDTH, HEIGHT, 80.0, 80.0, WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5)
    write_calibration(folder / "calibration.yaml", camera, "synthetic")
    return root


def config(**changes: Any) -> TrainingConfig:
    content: dict[str, Any] = {
        "pretrained": False,
        "sources": [{"kind": "image_folder", "path": "frames"}],
        "stages": [
            {"name": "warm-up", "steps": 3, "width": WIDTH, "height": HEIGHT, "rebalance": False},
            {"name": "joint", "steps": 3, "width": WIDTH, "height": HEIGHT},
        ],
        "batch_size": 2,
        "learning_rate_warmup_steps": 1,
    }
    content.update(changes)
    return parse_config(content, TrainingConfig, "test")


def weights(path: Path, kind: str = "networks") -> dict[str, torch.Tensor]:
    networks = checkpoints.load_checkpoint(path)[kind]
    return {f"{n}.{k}": v for n, state in networks.items() for k, v in state.items()}


def test_overfits_one_scene(scene: Path, tmp_path: Path) -> None:
    stage = {"name": "warm-up", "steps": 80, "width": WIDTH, "height": HEIGHT, "rebalance": False}
    reports: list[loop.StepReport] = []
    loop.train(
        config(stages=[stage], learning_rate=1e-3, learning_rate_warmup_steps=5),
        scene,
        tmp_path,
        report=reports.append,
    )
    first = np.mean([r.terms["flow_photometric"] for r in reports[:5]])
    last = np.mean([r.terms["flow_photometric"] for r in reports[-5:]])
    assert last < 0.5 * first
    # Neighbours are 3 pixels apart, to one side or the other.
    flow = reports[-1].prediction.flow_tgt_src[0].abs()[..., 16:-16, 16:-16]
    horizontal, vertical = flow[:, 0].median().item(), flow[:, 1].median().item()
    assert 2 < horizontal < 4.5
    assert vertical < 0.5 * horizontal


def test_a_resumed_run_equals_one_that_was_never_stopped(scene: Path, tmp_path: Path) -> None:
    settings = config(loss={"band": {"scope": "running"}})
    whole = loop.train(settings, scene, tmp_path / "whole")
    loop.train(settings, scene, tmp_path / "parts", stop_after=2)
    loop.train(settings, scene, tmp_path / "parts", resume=True, stop_after=5)
    parts = loop.train(settings, scene, tmp_path / "parts", resume=True)
    for kind in ("networks", "averaged_networks"):
        expected, found = weights(whole, kind), weights(parts, kind)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_average_of_the_weights_has_a_closed_form(scene: Path, tmp_path: Path) -> None:
    path, steps = tmp_path / "last.pt", []
    loop.train(config(averaging=0.75), scene, tmp_path, stop_after=1)
    steps.append(weights(path))
    for done in (2, 3):
        loop.train(config(averaging=0.75), scene, tmp_path, resume=True, stop_after=done)
        steps.append(weights(path))
    averaged = weights(path, "averaged_networks")
    for key, value in averaged.items():
        if value.is_floating_point():
            by_hand = 0.75 * (0.75 * steps[0][key] + 0.25 * steps[1][key]) + 0.25 * steps[2][key]
            torch.testing.assert_close(value, by_hand, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(averaged[key], steps[2][key]) for key in averaged)


def test_a_run_starts_from_the_averaged_weights_of_another(scene: Path, tmp_path: Path) -> None:
    first = loop.train(config(), scene, tmp_path / "first", stop_after=2)
    frozen = config(learning_rate=1e-12, final_learning_rate=1e-12, weight_decay=0.0, seed=7)
    second = loop.train(frozen, scene, tmp_path / "second", start_from=first, stop_after=1)
    expected, found = weights(first, "averaged_networks"), weights(second)
    for key in (name for name in expected if name.endswith("weight")):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-6)
    content = checkpoints.load_checkpoint(first)
    del content["averaged_networks"]["pose"]
    checkpoints.save_checkpoint(tmp_path / "half.pt", content)
    with pytest.raises(TrainingError, match="does not fit the pose network"):
        loop.train(frozen, scene, tmp_path / "third", start_from=tmp_path / "half.pt")


def test_sigkill_loses_no_checkpoint(scene: Path, tmp_path: Path) -> None:
    config_path = tmp_path / "run.yaml"
    settings = config(
        stages=[{"name": "a", "steps": 400, "width": WIDTH, "height": HEIGHT, "rebalance": False}]
    )
    import yaml

    config_path.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "coopnet_core.cli.main", "train"]
    command += ["--config", str(config_path), "--data", str(scene), "--out", str(tmp_path / "run")]
    command += ["--checkpoint-every", "1", "--no-progress", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    last = tmp_path / "run" / "last.pt"
    deadline = time.monotonic() + 90
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert last.exists(), errors.decode()
    step = checkpoints.load_checkpoint(last)["step"]
    assert 1 <= step < 400
    loop.train(settings, scene, tmp_path / "run", resume=True, stop_after=step + 1)
    assert checkpoints.load_checkpoint(last)["step"] == step + 1


def test_runs_are_not_overwritten_and_configs_not_mixed(scene: Path, tmp_path: Path) -> None:
    loop.train(config(), scene, tmp_path, stop_after=1)
    with pytest.raises(TrainingError, match="--resume"):
        loop.train(config(), scene, tmp_path)
    with pytest.raises(TrainingError, match="another batch_size"):
        loop.train(config(batch_size=1), scene, tmp_path, resume=True)
    with pytest.raises(TrainingError, match="does not exist"):
        loop.train(config(), scene, tmp_path / "nowhere", resume=True)


def test_a_loss_that_is_not_finite_stops_and_names_the_term(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.CoopNetRecipe.__call__

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> Any:
        losses = original(self, *args, **kwargs)
        terms = {**losses.terms, "flow_photometric": torch.tensor(float("nan"))}
        return losses._replace(terms=terms, total=losses.total * float("nan"))

    monkeypatch.setattr(loop.CoopNetRecipe, "__call__", poisoned)
    with pytest.raises(
        TrainingError, match="not finite at step 0: flow_photometric; the batch is in"
    ):
        loop.train(config(), scene, tmp_path)
    assert list(tmp_path.glob("bad_batch_*.pt"))


def test_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"garbage\.pt cannot be read"):
        checkpoints.load_checkpoint(garbage)
    torch.save({"step": 3}, garbage)
    with pytest.raises(TrainingError, match="lacks schema, networks"):
        checkpoints.load_checkpoint(garbage)
    content = dict.fromkeys(checkpoints.REQUIRED_KEYS, 0)
    torch.save({**content, "schema": 99}, garbage)
    with pytest.raises(TrainingError, match="schema 99"):
        checkpoints.load_checkpoint(garbage)


def test_a_full_disk_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    content = dict.fromkeys(checkpoints.REQUIRED_KEYS, 1)
    checkpoints.save_checkpoint(path, content)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left"):
        checkpoints.save_checkpoint(path, {**content, "step": 2})
    monkeypatch.undo()
    assert checkpoints.load_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_every_epoch_shows_every_item_once() -> None:
    seen = [index for step in range(5) for index in batch_indices(10, 2, 0, step)[0]]
    assert sorted(seen) == list(range(10))
    assert batch_indices(10, 2, 0, 0) == batch_indices(10, 2, 0, 0)
    assert batch_indices(10, 2, 0, 5)[1] == 1


def test_learning_rate_rises_and_falls() -> None:
    stage = {"name": "a", "steps": 101, "width": WIDTH, "height": HEIGHT}
    settings = config(stages=[stage], learning_rate=1.0, final_learning_rate=0.1)
    settings = settings.model_copy(update={"learning_rate_warmup_steps": 10})
    rates = [learning_rate_at(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:11] == pytest.approx([1.0, 1.0])
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_stage_with_its_own_learning_rate_starts_the_fall_again() -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    stages = [
        {"name": "a", "steps": 50, **size},
        {"name": "b", "steps": 51, "learning_rate": 2.0, **size},
    ]
    settings = config(stages=stages, learning_rate=1.0, final_learning_rate=0.1)
    plain = config(
        stages=[{"name": "a", "steps": 101, **size}], learning_rate=1.0, final_learning_rate=0.1
    )
    rates = [learning_rate_at(settings, step) for step in range(101)]
    assert rates[:50] == [learning_rate_at(plain, step) for step in range(50)]
    assert rates[50] == pytest.approx(2.0)
    assert rates[75] == pytest.approx(0.5 * (2.0 + 0.1))
    assert rates[100] == pytest.approx(0.1)


# --- The recipe -----------------------------------------------------------------------------------


def exact_prediction(moving: bool) -> tuple[Batch, Prediction]:
    """A textured wall seen after a sideways step, with true depth, pose and flow.

    With ``moving``, a block of the source picture is shifted by itself: flow knows, depth does not.
    """
    generator = torch.Generator().manual_seed(0)
    size, wall = (64, 96), 8.0
    noise = torch.rand(1, 1, 64, 200, generator=generator)
    texture = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    tgt, src = texture[..., 40:136], texture[..., 44:140].clone()  # everything moves by -4
    K = torch.tensor([[[80.0, 0, 47.5], [0, 80, 31.5], [0, 0, 1]]])
    T = matrix_from_vector(torch.tensor([[0, 0, 0, -4 * wall / 80, 0, 0]]))
    canonical = wall * 96 / 80
    inverse = [torch.full((1, 1, size[0] // s, size[1] // s), 1 / canonical) for s in (1, 4, 8)]
    depth = torch.full((1, 1, *size), wall)
    flow = rigid_flow(depth, T, K)
    back = -flow
    if moving:
        block = texture[:, :, 20:36, 84:100].clone()
        src[:, :, 20:36, 50:66] = block  # at columns 44:60 of the target: moved by +6
        flow[:, 0, 20:36, 44:60] = 6
        back[:, 0, 20:36, 50:66] = -6
    batch = Batch(tgt, src, tgt, src, K, torch.eye(4)[None], torch.zeros(1, dtype=torch.bool))

    def levels(field: torch.Tensor) -> list[torch.Tensor]:
        pool = torch.nn.functional.avg_pool2d
        return [field if s == 1 else pool(field, s) / s for s in (1, 4, 8, 16, 32)]

    return batch, Prediction(inverse, inverse, T, levels(flow), levels(back))


def leaf(prediction: Prediction) -> Prediction:
    return Prediction(
        [d.detach().clone().requires_grad_() for d in prediction.inverse_depth_tgt],
        [d.detach().clone().requires_grad_() for d in prediction.inverse_depth_src],
        prediction.T_src_tgt.detach().clone().requires_grad_(),
        [f.detach().clone().requires_grad_() for f in prediction.flow_tgt_src],
        [f.detach().clone().requires_grad_() for f in prediction.flow_src_tgt],
    )


def test_true_geometry_has_almost_no_photometric_loss() -> None:
    batch, prediction = exact_prediction(moving=False)
    recipe = CoopNetRecipe(LossSettings(scale_weights=(1.0, 0.0, 0.0)))
    losses = recipe(batch, prediction, rebalance=True)
    assert losses.terms["depth_photometric"].item() < 1e-3
    assert losses.terms["flow_photometric"].item() < 1e-3
    assert losses.terms["epipolar"].item() < 1e-3
    assert losses.statistics is not None


def test_a_moving_block_teaches_flow_but_not_depth() -> None:
    batch, prediction = exact_prediction(moving=True)
    only_photometric = LossSettings(
        scale_weights=(1.0, 0.0, 0.0), depth_smoothness=0, flow_smoothness=0, epipolar=0
    )
    prediction = leaf(prediction)
    CoopNetRecipe(only_photometric)(batch, prediction, rebalance=True).total.backward()
    gradient = prediction.inverse_depth_tgt[0].grad
    assert gradient is not None
    inside = gradient[0, 0, 22:34, 46:58].abs().sum().item()
    prediction_all = leaf(prediction)
    CoopNetRecipe(only_photometric)(batch, prediction_all, rebalance=False).total.backward()
    gradient_all = prediction_all.inverse_depth_tgt[0].grad
    assert gradient_all is not None
    # A few pixels of the block look right by accident and stay in the band.
    assert inside < 0.1 * gradient_all[0, 0, 22:34, 46:58].abs().sum().item()


def test_between_stereo_partners_the_band_withholds_nothing() -> None:
    batch, prediction = exact_prediction(moving=True)
    only_depth = LossSettings(
        scale_weights=(1.0, 0.0, 0.0),
        depth_smoothness=0,
        flow_smoothness=0,
        epipolar=0,
        flow_photometric=0,
    )

    def gradient(has_pose: bool) -> torch.Tensor:
        fresh = leaf(prediction)
        stereo = batch._replace(has_pose=torch.tensor([has_pose]))
        losses = CoopNetRecipe(only_depth)(stereo, fresh, rebalance=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        assert losses.statistics is not None
        assert (losses.statistics.num_valid == 0) == has_pose
        assert fresh.inverse_depth_tgt[0].grad is not None
        return fresh.inverse_depth_tgt[0].grad[0, 0, 22:34, 46:58].abs().sum()

    assert gradient(has_pose=True) > 5 * gradient(has_pose=False)


def test_depth_and_flow_terms_teach_their_own_networks_only() -> None:
    batch, prediction = exact_prediction(moving=False)
    quiet = {"depth_smoothness": 0, "flow_smoothness": 0, "epipolar": 0}
    for own, silent in (("depth_photometric", "flow"), ("flow_photometric", "depth")):
        other = "flow_photometric" if own == "depth_photometric" else "depth_photometric"
        fresh = leaf(prediction)
        shifted = fresh._replace(T_src_tgt=fresh.T_src_tgt + 0.01 * torch.eye(4)[None])
        settings = LossSettings(**{**quiet, other: 0})  # type: ignore[arg-type]
        CoopNetRecipe(settings)(batch, shifted, rebalance=True).total.backward()
        lists = {
            "depth": [*fresh.inverse_depth_tgt, *fresh.inverse_depth_src],
            "flow": [*fresh.flow_tgt_src[:3], *fresh.flow_src_tgt[:3]],
        }
        taught = "depth" if silent == "flow" else "flow"
        for tensor in lists[silent]:
            assert tensor.grad is None or tensor.grad.abs().sum() == 0
        for tensor in lists[taught]:
            assert tensor.grad is not None
            assert tensor.grad.abs().sum() > 0
        pose_gradient = fresh.T_src_tgt.grad
        is_pose_taught = pose_gradient is not None and bool(pose_gradient.abs().sum() > 0)
        assert is_pose_taught == (taught == "depth")


def test_switches_change_what_they_say() -> None:
    batch, prediction = exact_prediction(moving=True)
    base = LossSettings(scale_weights=(1.0, 0.0, 0.0))

    def terms(**changes: Any) -> dict[str, float]:
        recipe = CoopNetRecipe(base.model_copy(update=changes))
        found = recipe(batch, prediction, rebalance=True).terms
        return {name: value.item() for name, value in found.items()}

    kept, everything = terms(), terms(normalise_by="all")
    assert everything["depth_photometric"] < kept["depth_photometric"]
    assert everything["flow_photometric"] == kept["flow_photometric"]
    complement = terms(flow_pixels="complement")
    assert complement["flow_photometric"] != kept["flow_photometric"]
    assert complement["depth_photometric"] == kept["depth_photometric"]
    assert "flow_consistency" in terms(flow_consistency=0.1)
    assert "flow_consistency" not in kept


def test_mixed_precision_rounds_neither_known_poses_nor_outputs() -> None:
    """bfloat16 on the CPU takes the way that a GPU takes with mixed precision."""
    batch, _ = exact_prediction(moving=False)
    known = torch.eye(4)[None].clone()
    known[:, 0, 3] = -0.537
    batch = batch._replace(
        input_tgt=batch.image_tgt.repeat(1, 3, 1, 1),
        input_src=batch.image_src.repeat(1, 3, 1, 1),
        T_src_tgt=known,
        has_pose=torch.ones(1, dtype=torch.bool),
    )
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = fabric.setup(CoTrainingModel(build_networks("small")))
    prediction = model(batch)
    rotation = prediction.T_src_tgt[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.equal(with_known_pose(batch, prediction).T_src_tgt, known)
    # bfloat16 has 8 bits: values that survive rounding to it unchanged were made in it.
    for tensor in (prediction.inverse_depth_tgt[0], prediction.flow_tgt_src[1]):
        assert tensor.dtype == torch.float32
        assert (tensor != tensor.bfloat16().float()).any()
    losses = CoopNetRecipe(LossSettings())(batch, prediction, rebalance=True)
    fabric.backward(losses.total)
    for name, network in model.module.networks.items():
        gradient = [p.grad.abs().sum() for p in network.parameters() if p.grad is not None]
        assert sum(gradient) > 0, name


def test_precisions_that_would_not_train_are_refused(scene: Path, tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric._strategy.precision.scaler = object()  # what 16-mixed has on a GPU
    with pytest.raises(TrainingError, match="bf16-mixed"):
        loop.train(config(), scene, tmp_path, fabric=fabric)


def test_gradients_that_are_not_finite_stop_before_the_step(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_clip", lambda *_: {"depth": 1.0, "pose": float("nan"), "flow": 1.0})
    with pytest.raises(TrainingError, match="gradient of pose"):
        loop.train(config(), scene, tmp_path)
    assert not (tmp_path / loop.CHECKPOINT_NAME).exists()


def test_colour_frames_become_luminance_for_a_gray_run(tmp_path: Path) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, :, 0] = 200  # blue in OpenCV's order
    path = tmp_path / "blue.png"
    cv2.imwrite(str(path), image)
    frame = FrameCache(WIDTH, HEIGHT, is_gray=True).get(path, WIDTH, HEIGHT)
    assert frame.shape == (HEIGHT, WIDTH)
    assert frame[0, 0] == pytest.approx(0.114 * 200, abs=1)
    assert FrameCache(WIDTH, HEIGHT).get(path, WIDTH, HEIGHT).shape == (HEIGHT, WIDTH, 3)


def test_a_full_cache_reads_again(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((HEIGHT, WIDTH), index, np.uint8))
    cache = FrameCache(WIDTH, HEIGHT, max_bytes=2 * WIDTH * HEIGHT)
    values = [cache.get(tmp_path / f"{i}.png", WIDTH, HEIGHT)[0, 0] for i in (0, 1, 2, 2)]
    assert values == [0, 1, 2, 2]
    assert len(cache) == 2
