"""The benchmark: one bundle, every task that is wanted, baselines beside it, in one run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data import karlsruhe, kitti_odometry, kitti_raw
from coopnet_core.data.sequence import Sequence as ImageSequence
from coopnet_core.errors import DataError
from coopnet_core.evaluation.baselines import DepthProfile, fit_depth_profile
from coopnet_core.evaluation.public_sets import DEFAULT_SEQUENCES, PUBLIC_TASKS, run_public
from coopnet_core.evaluation.runner import Progress, run_sequence
from coopnet_core.evaluation.scale_run import ScaleRun, scale_task
from coopnet_core.evaluation.stereo_depth import stereo_depth
from coopnet_core.evaluation.task_covariance import covariance_task
from coopnet_core.evaluation.task_depth import lidar_task, stereo_task
from coopnet_core.evaluation.task_flow import flow_task, rubberwhale_task
from coopnet_core.evaluation.task_motion import motion_task
from coopnet_core.evaluation.task_odometry import (
    GROUND_TRUTH,
    PIPELINE,
    odometry_task,
    scale_runs,
    trajectories_of,
)
from coopnet_core.evaluation.task_trajectory import snippet_task, with_segment_cases
from coopnet_core.evaluation.tasks import Recorded, Task
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.runtime import Runtime

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

TASKS = (
    "depth_kitti_raw_0002",
    "depth_karlsruhe",
    "odometry_kitti_03",
    "flow_kitti_03",
    "flow_karlsruhe",
    "flow_rubberwhale",
    "motion_mask",
    *PUBLIC_TASKS,
)
"""What can be asked for; one task may give more than one table."""

KARLSRUHE_DRIVE = "2010_03_09_drive_0019"
RAW_DATE, RAW_DRIVE = "2011_09_26", "0002"
# Contiguous blocks: neighbours in time are nearly the same picture.
KITTI_VALIDATION = range(650, 801)
KARLSRUHE_TRAINING = range(260)
KARLSRUHE_VALIDATION = range(270, 373)
KITTI_00_TRAINING = range(100)
# Medians do not need every frame; neighbours say the same.
_PROFILE_STRIDE = 4


@dataclass(frozen=True)
class Results:
    """Everything that a run of the benchmark found.

    Attributes:
        tasks: The tables.
        skipped: What was left out, and why.
        recorded: What was run, by "kitti_raw_0002", "karlsruhe" and "kitti_03".
        trajectories: Poses (N, 4, 4) on KITTI 03 by method; "ground truth" is one of them.
        sequences: The same for whole sequences, by the end of their tables' names.
        scaled: Metric scale on KITTI 03 by its source.
        truths: Depth truth images (H, W), 0 unknown, by the names of ``recorded``.
    """

    tasks: list[Task]
    skipped: dict[str, str]
    recorded: dict[str, Recorded]
    trajectories: dict[str, Float64]
    sequences: dict[str, dict[str, Float64]]
    scaled: dict[str, ScaleRun]
    truths: dict[str, list[Float32]]


def select_tasks(words: Sequence[str]) -> frozenset[str]:
    """Return the tasks whose names are, or begin with, one of the words; all for no word.

    Raises:
        DataError: A word fits no task; the message lists them.
    """
    for word in words:
        if not any(name.startswith(word) for name in TASKS):
            raise DataError(
                f"unknown task {word!r}: choose from, or beginnings of, {', '.join(TASKS)}"
            )
    return frozenset(name for name in TASKS if not words or name.startswith(tuple(words)))


def run_benchmark(
    bundle: Bundle,
    runtime: Runtime,
    data_root: Path,
    progress: Progress | None = None,
    wanted: Collection[str] = TASKS,
    sequences: Sequence[str] = DEFAULT_SEQUENCES,
) -> Results:
    """Score a bundle on everything that is wanted and that the data root holds.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        data_root: Folder of data sets, see ``docs/evaluation.md``; what is missing is skipped and
            named.
        progress: Called with one line now and then.
        wanted: Names of tasks, of ``TASKS``.
        sequences: Sequences of KITTI odometry for "odometry_sequence" and "depth_stereo".

    Returns:
        The results.

    Raises:
        DataError: Nothing to score is there, or data is damaged.
    """
    if not data_root.is_dir():
        raise DataError(f"data root {data_root} does not exist")
    skipped: dict[str, str] = {}
    blocks = dict(_available_sequences(data_root, skipped, wanted))
    needs_profiles = not {"depth_kitti_raw_0002", "depth_karlsruhe"}.isdisjoint(wanted)
    profiles = _profiles(data_root, skipped, progress) if needs_profiles else {}
    recorded = {
        name: Recorded(sequence, run_sequence(bundle, runtime, sequence, progress))
        for name, sequence in blocks.items()
    }
    tasks: list[Task] = []
    trajectories: dict[str, Float64] = {}
    scaled: dict[str, ScaleRun] = {}
    truths: dict[str, list[Float32]] = {}
    if "kitti_raw_0002" in recorded and "depth_kitti_raw_0002" in wanted:
        run = recorded["kitti_raw_0002"]
        truths["kitti_raw_0002"] = _lidar(data_root, run.sequence)
        tasks.append(lidar_task(run, truths["kitti_raw_0002"], profiles, bundle.metric))
    if "karlsruhe" in recorded and "depth_karlsruhe" in wanted:
        run = recorded["karlsruhe"]
        truths["karlsruhe"] = [stereo_depth(run.sequence, i) for i in range(len(run.sequence))]
        tasks.append(stereo_task(run, truths["karlsruhe"], profiles, bundle.metric))
    if "kitti_03" in recorded and "odometry_kitti_03" in wanted:
        run = recorded["kitti_03"]
        scaled = scale_runs(run, bundle.metric)
        trajectories = trajectories_of(run, scaled)
        truth = trajectories[GROUND_TRUTH]
        table = odometry_task(run, trajectories, bundle.metric)
        tasks.append(with_segment_cases(table, run.sequence, trajectories[PIPELINE], truth))
        tasks.append(snippet_task(trajectories, "kitti_03", f"KITTI 03, frames {run.span}"))
        tasks.append(scale_task(run, truth, scaled, bundle.metric))
        tasks.append(covariance_task(run, truth, scaled, bundle.metric))
    for name in ("kitti_03", "karlsruhe"):
        if name in recorded and f"flow_{name}" in wanted:
            tasks.append(flow_task(name, recorded[name]))
    rubberwhale = data_root / "flow" / "middlebury_rubberwhale"
    if "flow_rubberwhale" in wanted and rubberwhale.is_dir():
        tasks.append(rubberwhale_task(bundle, runtime, rubberwhale))
    elif "flow_rubberwhale" in wanted:
        skipped["flow on RubberWhale"] = "flow/middlebury_rubberwhale is not in the data root"
    if "motion_mask" in wanted:
        motion = motion_task(recorded.get("kitti_03"), recorded.get("kitti_raw_0002"))
        tasks += [] if motion is None else [motion]
    public = run_public(bundle, runtime, data_root, wanted, sequences, skipped, progress)
    tasks += public.tasks
    if not tasks:
        reasons = "; ".join(f"{what}: {why}" for what, why in skipped.items())
        raise DataError(f"{data_root} holds nothing to score ({reasons}); see docs/evaluation.md")
    return Results(tasks, skipped, recorded, trajectories, public.trajectories, scaled, truths)


def _available_sequences(
    root: Path, skipped: dict[str, str], wanted: Collection[str]
) -> Iterator[tuple[str, ImageSequence]]:
    def is_needed(*tasks: str) -> bool:
        return not set(tasks).isdisjoint(wanted)

    if not is_needed("depth_kitti_raw_0002", "motion_mask"):
        pass
    elif (root / "kitti_raw").is_dir():
        yield (
            "kitti_raw_0002",
            kitti_raw.read_sequence(root / "kitti_raw", RAW_DATE, RAW_DRIVE),
        )
    else:
        skipped["depth and motion mask on KITTI raw 0002"] = "kitti_raw is not in the data root"
    if not is_needed("depth_karlsruhe", "flow_karlsruhe"):
        pass
    elif (root / "karlsruhe").is_dir():
        yield (
            "karlsruhe",
            karlsruhe.read_sequence(root / "karlsruhe", KARLSRUHE_DRIVE, KARLSRUHE_VALIDATION),
        )
    else:
        skipped["depth and flow on Karlsruhe"] = "karlsruhe is not in the data root"
    if not is_needed("odometry_kitti_03", "flow_kitti_03", "motion_mask"):
        pass
    elif (root / "kitti_odometry" / "sequences" / "03").is_dir():
        yield (
            "kitti_03",
            kitti_odometry.read_sequence(root / "kitti_odometry", "03", KITTI_VALIDATION),
        )
    else:
        skipped["odometry, flow and motion mask on KITTI 03"] = (
            "kitti_odometry/sequences/03 is not in the data root"
        )


def _profiles(
    root: Path, skipped: dict[str, str], progress: Progress | None
) -> dict[str, DepthProfile]:
    """Fit depth profiles on training frames: on each stereo camera, and on both together."""
    samples: dict[str, list[tuple[Float32, Intrinsics]]] = {}
    readers: dict[str, tuple[Path, Callable[[], ImageSequence]]] = {
        "KITTI 00": (
            root / "kitti_odometry" / "sequences" / "00" / "image_1",
            lambda: kitti_odometry.read_sequence(root / "kitti_odometry", "00", KITTI_00_TRAINING),
        ),
        "Karlsruhe": (
            root / "karlsruhe" / KARLSRUHE_DRIVE / "right",
            lambda: karlsruhe.read_sequence(
                root / "karlsruhe", KARLSRUHE_DRIVE, KARLSRUHE_TRAINING
            ),
        ),
    }
    for name, (needed, read) in readers.items():
        if not needed.is_dir():
            skipped[f"depth profile of {name}"] = f"{needed.relative_to(root)} is not there"
            continue
        if progress is not None:
            progress(f"depth profile of {name}")
        sequence = read()
        samples[name] = [
            (stereo_depth(sequence, place), sequence.intrinsics)
            for place in range(0, len(sequence), _PROFILE_STRIDE)
        ]
    profiles = {name: fit_depth_profile(value) for name, value in samples.items()}
    if len(samples) > 1:
        both = [sample for value in samples.values() for sample in value]
        profiles["KITTI 00 and Karlsruhe"] = fit_depth_profile(both)
    return profiles


def _lidar(root: Path, sequence: ImageSequence) -> list[Float32]:
    camera = sequence.intrinsics
    return [
        kitti_raw.read_lidar_depth(
            root / "kitti_raw", RAW_DATE, RAW_DRIVE, index, camera.width, camera.height
        )
        for index in sequence.indices
    ]
