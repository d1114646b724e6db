"""The public data sets under a data root, each scored by its protocol where it is there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data import kitti_odometry, rgbd
from coopnet_core.data.kitti_splits import read_split
from coopnet_core.data.sequence import Sequence as ImageSequence
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.evaluation.comparison import (
    cityscapes_comparison,
    depth_comparison,
    flow_comparison,
    odometry_comparison,
)
from coopnet_core.evaluation.depth_protocols import (
    CITYSCAPES,
    EIGEN,
    EIGEN_IMPROVED,
    RGBD,
    STEREO,
    DepthProtocol,
    DepthSample,
)
from coopnet_core.evaluation.public_samples import (
    cityscapes_samples,
    eigen_samples,
    flow_samples,
    rgbd_samples,
    stereo_samples,
)
from coopnet_core.evaluation.runner import Progress
from coopnet_core.evaluation.task_protocol_depth import OWN_METHOD, protocol_depth_task
from coopnet_core.evaluation.task_protocol_flow import (
    KITTI_2012,
    KITTI_2015,
    FlowProtocol,
    protocol_flow_task,
)
from coopnet_core.evaluation.task_trajectory import run_trajectory, trajectory_tasks
from coopnet_core.evaluation.tasks import Row, Task
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.runtime import Runtime

Float64 = npt.NDArray[np.float64]

DEFAULT_SEQUENCES = ("09", "10")
_MIN_POSES = 5


@dataclass
class PublicRun:
    """A run over public data sets, and what it has found so far.

    Attributes:
        bundle: The bundle.
        runtime: Runs its networks.
        root: Folder of data sets.
        sequences: Sequences of KITTI odometry to score whole.
        progress: Called with one line now and then.
        skipped: What was left out, and why.
        tasks: Tables.
        trajectories: Poses (N, 4, 4) by the end of a table's name and by method.
    """

    bundle: Bundle
    runtime: Runtime
    root: Path
    sequences: Sequence[str]
    progress: Progress | None
    skipped: dict[str, str]
    tasks: list[Task] = field(default_factory=list)
    trajectories: dict[str, dict[str, Float64]] = field(default_factory=dict)


def run_public(
    bundle: Bundle,
    runtime: Runtime,
    root: Path,
    wanted: Collection[str],
    sequences: Sequence[str],
    skipped: dict[str, str],
    progress: Progress | None = None,
) -> PublicRun:
    """Score a bundle on the public data sets that are wanted and there.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        root: Folder of data sets, see ``docs/evaluation.md``.
        wanted: Names of tasks, of ``PUBLIC_TASKS``.
        sequences: Sequences of KITTI odometry for "odometry_sequence" and "depth_stereo".
        skipped: Filled with what is missing.
        progress: Called with one line now and then.

    Returns:
        Tables, those that compare with published results last, and trajectories.

    Raises:
        DataError: Data is there but damaged.
    """
    run = PublicRun(bundle, runtime, root, sequences, progress, skipped)
    for name, score in PUBLIC_TASKS.items():
        if name in wanted:
            score(run, name)
    run.tasks += _comparisons(run)
    return run


def _eigen(run: PublicRun, name: str, protocol: DepthProtocol, split: str, truth: str) -> None:
    needed = [run.root / "kitti_raw"] + [run.root / truth] * (truth == "kitti_depth")
    if _is_missing(run, name, *needed):
        return
    samples = list(eigen_samples(run.root, read_split(split), truth == "kitti_depth"))
    _score_depth(
        run, name, "Depth on KITTI, Eigen test split, " + _TRUTHS[truth], samples, protocol
    )


_TRUTHS = {"kitti_raw": "against Velodyne scans", "kitti_depth": "against the improved truth"}


def _cityscapes(run: PublicRun, name: str) -> None:
    root = run.root / "cityscapes"
    if _is_missing(run, name, root / "disparity" / "test", root / "camera" / "test"):
        return
    samples = cityscapes_samples(root)
    _score_depth(run, name, "Depth on Cityscapes against stereo", samples, CITYSCAPES)


def _rgbd_depth(run: PublicRun, name: str) -> None:
    for sequence in _rgbd_sequences(run, name):
        if sequence.depth_paths is None:
            run.skipped[f"{name} on {sequence.name}"] = "it has no depth images"
            continue
        samples = rgbd_samples(sequence)
        key = sequence.name.rpartition("/")[2]
        title = f"Depth on {sequence.name} against the depth camera"
        _score_depth(run, f"{name}_{key}", title, samples, RGBD)


def _rgbd_odometry(run: PublicRun, name: str) -> None:
    for sequence in _rgbd_sequences(run, name):
        if sequence.poses is None or len(sequence) < _MIN_POSES:
            run.skipped[f"{name} on {sequence.name}"] = "it has no pose for every frame"
            continue
        _score_trajectory(run, sequence, "rgbd_" + sequence.name.rpartition("/")[2])


def _rgbd_sequences(run: PublicRun, name: str) -> list[ImageSequence]:
    folders = [
        folder
        for parent in (run.root, run.root / "rgbd")
        if parent.is_dir()
        for folder in sorted(parent.iterdir())
        if (folder / "rgb.txt").is_file() or any(folder.glob("frame-*.color.*"))
    ]
    if not folders:
        run.skipped[name] = "no folder of the data root or of its rgbd is TUM RGB-D or 7-Scenes"
    sequences = []
    for folder in folders:
        # Found by the look of it: what is not meant for this must not stop the rest.
        try:
            sequences.append(rgbd.read_sequence(folder))
        except (CalibrationError, DataError) as error:
            run.skipped[f"{name} on {folder.name}"] = str(error)
    return sequences


def _sequences(run: PublicRun, name: str) -> None:
    root = run.root / "kitti_odometry"
    for number in run.sequences:
        images, poses = root / "sequences" / number, root / "poses" / f"{number}.txt"
        if not _is_missing(run, f"{name}_{number}", images, poses):
            sequence = kitti_odometry.read_sequence(root, number)
            _score_trajectory(run, sequence, f"sequence_{number}")


def _stereo(run: PublicRun, name: str) -> None:
    root = run.root / "kitti_odometry"
    for number in run.sequences:
        key = f"{name}_{number}"
        if _is_missing(run, key, *(root / "sequences" / number / f"image_{k}" for k in (0, 1))):
            continue
        sequence = kitti_odometry.read_sequence(root, number)
        samples = stereo_samples(sequence)
        title = f"Depth on {sequence.name} against stereo"
        _score_depth(run, key, title, samples, STEREO)


def _score_trajectory(run: PublicRun, sequence: ImageSequence, key: str) -> None:
    result = run_trajectory(run.bundle, run.runtime, sequence, run.progress)
    run.trajectories[key] = result.poses
    run.tasks += trajectory_tasks(sequence, result, run.bundle.metric, key)


def _flow(run: PublicRun, name: str, protocol: FlowProtocol) -> None:
    root = run.root / name.removeprefix("flow_").replace("kitti", "kitti_flow")
    if _is_missing(run, name, root / "training"):
        return
    samples = flow_samples(root)
    year = name.rpartition("_")[2]
    task = protocol_flow_task(
        run.bundle, run.runtime, samples, protocol, name, f"Flow on KITTI {year}", run.progress
    )
    if task is None:
        run.skipped[name] = f"{root / 'training'} has no pair of frames 10 and 11"
    else:
        run.tasks.append(task)


def _score_depth(
    run: PublicRun, name: str, title: str, samples: list[DepthSample], protocol: DepthProtocol
) -> None:
    task = protocol_depth_task(
        run.bundle, run.runtime, samples, protocol, name, title, run.progress
    )
    if task is None:
        run.skipped[name] = "no image of the test set, with truth, is in the data root"
    else:
        run.tasks.append(task)


def _is_missing(run: PublicRun, name: str, *paths: Path) -> bool:
    missing = [str(path.relative_to(run.root)) for path in paths if not path.exists()]
    if missing:
        run.skipped[name] = f"{', '.join(missing)} not in the data root"
    return bool(missing)


def _comparisons(run: PublicRun) -> list[Task]:
    """Put what was measured beside published results."""
    by_name = {task.name: task for task in run.tasks}
    info = run.bundle.info
    trained_on, size = "; ".join(info.training.data), f"{run.bundle.width}x{run.bundle.height}"
    name = f"{OWN_METHOD} {run.bundle.version}"
    tables = []
    if "depth_kitti_eigen" in by_name:
        task = by_name["depth_kitti_eigen"]
        lacking = _lacking(task.rows, "images", EIGEN.num_frames)
        for refined in (False, True):
            rows = [] if refined else task.rows
            tables.append(depth_comparison(rows, name, trained_on, size, lacking, refined))
    if "depth_cityscapes" in by_name:
        rows = by_name["depth_cityscapes"].rows
        lacking = _lacking(rows, "images", CITYSCAPES.num_frames)
        tables.append(cityscapes_comparison(rows, name, trained_on, size, lacking))
    if "flow_kitti_2015" in by_name:
        rows = [row for row in by_name["flow_kitti_2015"].rows if row["method"] == OWN_METHOD]
        lacking = _lacking(rows, "pairs", KITTI_2015.num_pairs)
        tables.append(flow_comparison(rows, name, trained_on, lacking))
    segments, snippets = (
        {
            number: by_name[f"{kind}_sequence_{number}"].rows
            for number in DEFAULT_SEQUENCES
            if f"{kind}_sequence_{number}" in by_name
        }
        for kind in ("odometry", "snippets")
    )
    if segments:
        tables.append(odometry_comparison(segments, snippets, name, trained_on))
    return tables


def _lacking(rows: Sequence[Row], unit: str, whole: int | None) -> str:
    num = int(rows[0][unit])
    return "" if num == whole else f"{num} of {whole} {unit}"


PUBLIC_TASKS: dict[str, Callable[[PublicRun, str], None]] = {
    "depth_kitti_eigen": partial(_eigen, protocol=EIGEN, split="eigen_test", truth="kitti_raw"),
    "depth_kitti_improved": partial(
        _eigen, protocol=EIGEN_IMPROVED, split="eigen_test_improved", truth="kitti_depth"
    ),
    "depth_cityscapes": _cityscapes,
    "depth_rgbd": _rgbd_depth,
    "depth_stereo": _stereo,
    "odometry_sequence": _sequences,
    "odometry_rgbd": _rgbd_odometry,
    "flow_kitti_2012": partial(_flow, protocol=KITTI_2012),
    "flow_kitti_2015": partial(_flow, protocol=KITTI_2015),
}
"""What scores each public task; the key is the table's name, or its beginning."""
