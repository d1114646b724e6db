"""Training in two real processes (gloo, CPU) is training in one, written once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch", reason="training packages are not installed")
pytest.importorskip("lightning_fabric", reason="training packages are not installed")

import two_processes as both  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402

import coopnet_core  # noqa: E402
from coopnet_core.errors import TrainingError  # noqa: E402
from coopnet_core.training import checkpoint as checkpoints  # noqa: E402
from coopnet_core.training import loop  # noqa: E402
from coopnet_core.training.batches import BatchPlan, batch_indices  # noqa: E402
from coopnet_core.training.processes import BatchNormOverProcesses  # noqa: E402

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch that moves over a sliding wall."""
    root = tmp_path_factory.mktemp("scene")
    both.write_scene(root)
    return root


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    here = str(Path(coopnet_core.__file__).parents[1])
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [*TORCHRUN, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote: see two_processes.main."""
    out = tmp_path_factory.mktemp("two")
    done = torchrun(both.__file__, str(scene), str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fabric]:
    """One process that computes as each of the two does."""
    monkeypatch.setattr(loop, "build_networks", both.tiny_networks)
    monkeypatch.setattr(loop, "CoTrainingModel", both.synchronised_model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Fabric(accelerator="cpu", devices=1)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", both.CASES)
def test_two_processes_have_the_gradient_of_the_whole_batch(
    run: Path, alone: Fabric, case: str
) -> None:
    total, expected = both.gradients(alone, case)
    scale = max(float(value.abs().max()) for value in expected.values())
    for rank in (0, 1):
        found_total, found = torch.load(run / f"process_{rank}.pt")["gradients"][case]
        assert found_total == pytest.approx(total, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * min(scale, 1))


def test_each_step_reports_the_numbers_of_the_whole_batch(
    run: Path, alone: Fabric, scene: Path, tmp_path: Path
) -> None:
    expected: list[dict[str, float]] = []
    loop.train(
        both.config(),
        scene,
        tmp_path,
        fabric=alone,
        report=lambda report: expected.append(both.numbers(report)),
    )
    found = torch.load(run / "process_0.pt")["steps"]
    assert len(found) == len(expected) == both.config().num_steps
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    # AdamW's first steps have the same length for a gradient of 1e-9 as for one of 1.
    for step, numbers in enumerate(expected):
        assert found[step] == pytest.approx(numbers, rel=1e-2, abs=1e-5), step
    assert {"p_positive", "epsilon", "kept", "mode", "motion_iou"} <= found[-1].keys()
    # The second process reports to nobody.
    assert torch.load(run / "process_1.pt")["steps"] == []


def test_two_processes_resume_exactly(run: Path) -> None:
    whole, parts = (checkpoints.load_checkpoint(run / n / "last.pt") for n in ("whole", "parts"))
    assert whole["recipe"] == parts["recipe"]
    for kind in ("networks", "averaged_networks"):
        for network, state in whole[kind].items():
            for name, value in state.items():
                assert torch.equal(parts[kind][network][name], value), f"{network}.{name}"


def test_a_loss_that_is_not_finite_in_one_process_stops_all(run: Path) -> None:
    first, second = (torch.load(run / f"process_{rank}.pt")["message"] for rank in (0, 1))
    assert first.startswith("not finite at step 0: flow_photometric, in another process")
    assert second.startswith("not finite at step 0: flow_photometric; the batch is in ")
    assert [path.name for path in (run / "poisoned").iterdir()] == ["bad_batch_000000_process_1.pt"]


def test_another_number_of_processes_goes_on_and_says_so(
    run: Path, alone: Fabric, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = checkpoints.load_checkpoint(run / "whole" / "last.pt")
    assert content["num_processes"] == 2
    checkpoints.save_checkpoint(tmp_path / "last.pt", {**content, "step": 4})
    loop.train(both.config(), scene, tmp_path, fabric=alone, resume=True)
    assert "resuming in 1 process(es) what 2 began" in capsys.readouterr().out
    assert checkpoints.load_checkpoint(tmp_path / "last.pt")["num_processes"] == 1


def test_a_process_that_fails_ends_all_and_its_error_is_shown(scene: Path, tmp_path: Path) -> None:
    """The second process meets a damaged frame: the first must neither hang nor hide it."""
    # Without a threshold on motion, frames are read first when a batch needs them.
    source = {"kind": "image_folder", "path": "frames", "min_motion": 0.0}
    config = both.config(sources=[source], batch_size=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    plan = BatchPlan(2, config.seed, rank=1, num_processes=2)
    victim = plan.indices(both.NUM_FRAMES - 1, 0)[0][0] + 1
    broken = tmp_path / "data"
    (broken / "frames").mkdir(parents=True)
    for path in (scene / "frames").glob("*.*"):
        (broken / "frames" / path.name).write_bytes(path.read_bytes())
    damaged = broken / "frames" / f"{victim:06d}.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    done = torchrun(
        "-m", "coopnet_core.cli.main", "train", "--config", str(tmp_path / "run.yaml"),
        "--data", str(broken), "--out", str(tmp_path / "out"), "--no-progress", "--threads", "1",
    )  # fmt: skip
    assert done.returncode != 0
    assert "coopnet train: process 1 of 2" in done.stderr
    assert damaged.name in done.stderr
    assert not (tmp_path / "out" / loop.CHECKPOINT_NAME).exists()


def test_processes_share_each_batch_without_overlap() -> None:
    for step in range(6):
        parts = [BatchPlan(6, 3, rank, 3).indices(20, step) for rank in range(3)]
        whole, epoch = batch_indices(20, 6, 3, step)
        assert [index for part, _ in parts for index in part] == whole
        assert {number for _, number in parts} == {epoch}


def test_a_batch_that_cannot_be_split_is_refused(scene: Path, tmp_path: Path) -> None:
    class ThreeProcesses(Fabric):
        world_size = property(lambda _: 3)  # type: ignore[assignment]

    fabric = ThreeProcesses(accelerator="cpu", devices=1)
    with pytest.raises(TrainingError, match="4 cannot be split evenly over 3 processes"):
        loop.train(both.config(), scene, tmp_path, fabric=fabric)


def test_our_batch_norm_is_torchs() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 5, 6, 7)
    ours, theirs = BatchNormOverProcesses(5, eps=1e-3), torch.nn.BatchNorm2d(5, eps=1e-3)
    results = []
    for layer in (ours, theirs):
        leaf = (3 * features + 1).requires_grad_()
        for _ in range(2):
            out = layer(leaf)
        (out**3).sum().backward()
        results.append([out, leaf.grad, layer.weight.grad, *layer.buffers(), layer.eval()(leaf)])
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-4)
