"""Odometry of a bundle over whole sequences, of any length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image
from coopnet_core.data.sequence import Sequence as ImageSequence
from coopnet_core.errors import DataError
from coopnet_core.evaluation import baselines
from coopnet_core.evaluation.odometry_metrics import (
    SEGMENT_START_STEP,
    align,
    path_length,
    relative_to_first,
    segment_errors,
    stands_still,
    trajectory_from_steps,
    usable_lengths,
)
from coopnet_core.evaluation.runner import Progress, iterate_sequence
from coopnet_core.evaluation.snippet_metrics import SNIPPET_LENGTH, snippet_errors
from coopnet_core.evaluation.task_odometry import (
    CONSTANT_VELOCITY,
    GROUND_TRUTH,
    PIPELINE,
    odometry_rows,
)
from coopnet_core.evaluation.tasks import Case, Panel, Row, Task
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.pipeline import Tracking
from coopnet_core.inference.rendering import to_bgr
from coopnet_core.inference.runtime import Runtime

Float64 = npt.NDArray[np.float64]

_CANVAS_PX = (640, 200)


@dataclass(frozen=True)
class TrajectoryRun:
    """What a bundle made of a sequence.

    Attributes:
        poses: (N, 4, 4) in the frame of the first camera, by method; the truth is one of them.
        num_lost: Frames in which the pipeline lost track.
    """

    poses: dict[str, Float64]
    num_lost: int


def run_trajectory(
    bundle: Bundle, runtime: Runtime, sequence: ImageSequence, progress: Progress | None = None
) -> TrajectoryRun:
    """Run the pipeline over a sequence with true poses; images are not kept.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        sequence: The sequence.
        progress: Called with one line now and then.

    Returns:
        The trajectories. Where the pose network was not asked, because the pipeline took the gap
        between two frames for a break, the camera counts as standing still.

    Raises:
        DataError: There are no true poses, or an image cannot be read.
    """
    if sequence.poses is None:
        raise DataError(f"{sequence.name} has no ground truth poses")
    truth = relative_to_first(sequence.poses)
    poses, steps, num_lost = [], [], 0
    for output in iterate_sequence(bundle, runtime, sequence, progress):
        poses.append(output.result.T_odom_cam)
        step = output.T_prev_cur_network
        steps.append(np.eye(4) if step is None else step)
        num_lost += output.result.tracking is Tracking.LOST
    return TrajectoryRun(
        {
            GROUND_TRUTH: truth,
            PIPELINE: np.stack(poses),
            "pose network alone": trajectory_from_steps(np.stack(steps[1:])),
            CONSTANT_VELOCITY: baselines.constant_velocity(
                float(np.linalg.norm(truth[1, :3, 3])), len(truth)
            ),
        },
        num_lost,
    )


def trajectory_tasks(
    sequence: ImageSequence, run: TrajectoryRun, is_metric: bool, key: str
) -> list[Task]:
    """Score a run: the whole trajectory, and snippets of 5 frames.

    Args:
        sequence: The sequence.
        run: From :func:`run_trajectory`.
        is_metric: Whether the bundle's translations are in metres.
        key: End of the tables' names, such as "kitti_09".

    Returns:
        Two tables.
    """
    truth = run.poses[GROUND_TRUTH]
    estimates = {name: poses for name, poses in run.poses.items() if name != GROUND_TRUTH}
    metric = {CONSTANT_VELOCITY} | (set(estimates) if is_metric else set())
    lengths = ", ".join(f"{length:.0f}" for length in usable_lengths(truth))
    protocol = f"KITTI segment errors, starts every 10 frames, lengths of {lengths} m"
    span = f"frames {sequence.indices[0]}-{sequence.indices[-1]}"
    data = f"{len(truth)} frames, {path_length(truth):.1f} m"
    whole = Task(
        name=f"odometry_{key}",
        title=f"Odometry on {sequence.name}, {span}",
        data=data,
        protocol=protocol if lengths else "absolute and relative errors; too short for segments",
        rows=odometry_rows(estimates, truth, metric),
        notes=[
            f"The pipeline lost track in {run.num_lost} of {len(truth)} frames.",
            "Alignment is fitted on the whole trajectory: scale only (Bian's t_err is 7-DoF), a "
            "rigid motion (6-DoF) or a similarity (7-DoF). ate and rpe are root mean squares.",
            "Constant velocity drives straight on at the true speed of the first step.",
        ],
    )
    whole = with_segment_cases(whole, sequence, run.poses[PIPELINE], truth)
    return [whole, snippet_task(run.poses, key, f"{sequence.name}, {span}")]


def snippet_task(poses: dict[str, Float64], key: str, title: str) -> Task:
    """Score snippets of 5 frames.

    Args:
        poses: (N, 4, 4) by method; the truth is one of them; N >= 5.
        key: End of the table's name.
        title: End of its heading.

    Returns:
        The table.
    """
    truth = poses[GROUND_TRUTH]
    rows: list[Row] = []
    for method, estimate in poses.items():
        if method == GROUND_TRUTH:
            continue
        errors = snippet_errors(estimate, truth)
        rows.append(
            {
                "method": method,
                "ate5_m": float(errors.mean()),
                "ate5_std_m": float(errors.std()),
                "snippets": len(errors),
            }
        )
    return Task(
        name=f"snippets_{key}",
        title=f"Odometry, snippets of {SNIPPET_LENGTH} frames: {title}",
        data=f"{len(truth) - SNIPPET_LENGTH + 1} snippets, one from every frame on",
        protocol=(
            "SfMLearner: common first pose, scale fitted per snippet, sqrt(sum of squares) / "
            f"{SNIPPET_LENGTH}; mean and standard deviation over snippets"
        ),
        rows=rows,
        notes=[
            f"The division outside the root makes this sqrt({SNIPPET_LENGTH}) times smaller than a "
            "root mean square; it is how the numbers "
            "that papers call ATE are made."
        ],
    )


def with_segment_cases(
    task: Task, sequence: ImageSequence, estimate: Float64, truth: Float64
) -> Task:
    """Add cases to a table: path segments of the shortest length, after 7-DoF alignment.

    Args:
        task: The table.
        sequence: Images for the pictures.
        estimate: (N, 4, 4), first pose the identity.
        truth: (N, 4, 4), first pose the identity, metres.

    Returns:
        The table with one case per start; segments are a quarter of the path where it is too short
        for others. Without cases when the estimate stands still.
    """
    if stands_still(estimate) or stands_still(truth):
        return task
    aligned, _ = align(estimate, truth, "7dof")
    length = (*usable_lengths(truth), path_length(truth) / 4)[0]
    cases = []
    for start in range(0, len(truth), SEGMENT_START_STEP):
        segments = segment_errors(aligned[start:], truth[start:], (length,), len(truth))
        if not len(segments):
            break

        def draw(start: int = start) -> list[Panel]:
            return _segment_panels(sequence, aligned, truth, start, length)

        name = f"{length:.3g} m from frame {sequence.indices[start]} on"
        cases.append(Case(name, 100 * float(segments[0, 1]), draw))
    return replace(task, cases=cases, case_score="t_err of a segment after 7-DoF alignment, %")


def _segment_panels(
    sequence: ImageSequence, estimate: Float64, truth: Float64, start: int, length: float
) -> list[Panel]:
    distances = np.linalg.norm(np.diff(truth[start:, :3, 3], axis=0), axis=1).cumsum()
    end = start + 1 + int(np.searchsorted(distances, length, side="right"))
    paths = [
        (np.linalg.inv(poses[start]) @ poses[start : end + 1])[:, [0, 2], 3]
        for poses in (truth, estimate)
    ]
    error = np.linalg.norm(paths[1] - paths[0], axis=1)
    worst = float(error.max())
    return [
        Panel("image at the start of the segment", to_bgr(read_image(sequence.paths[start]))),
        Panel(
            f"seen from above, forward is right, {length:.3g} m of path: truth black, estimate "
            f"from blue (no error) to red ({worst:.2g} m)",
            _draw_paths(paths[0], paths[1], error / max(worst, 1e-9)),
        ),
    ]


def _draw_paths(truth: Float64, estimate: Float64, level: Float64) -> npt.NDArray[np.uint8]:
    both = np.concatenate([truth, estimate])
    low, high = both.min(axis=0), both.max(axis=0)
    width, height = _CANVAS_PX
    # Right of the camera is down, forward is right.
    span_x, span_z = high - low
    scale = 0.85 * min(width / max(float(span_z), 1e-9), height / max(float(span_x), 1e-9))
    middle = (low + high) / 2

    def pixel(point: Float64) -> tuple[int, int]:
        x, z = (point - middle) * scale
        return round(width / 2 + z), round(height / 2 + x)

    canvas = np.full((height, width, 3), 255, np.uint8)
    colours = np.asarray(
        cv2.applyColorMap((level * 255).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)
    )[:, 0]
    for a, b in pairwise(truth):
        cv2.line(canvas, pixel(a), pixel(b), (0, 0, 0), 4, cv2.LINE_AA)
    for (a, b), colour in zip(pairwise(estimate), colours[1:], strict=True):
        cv2.line(canvas, pixel(a), pixel(b), tuple(int(c) for c in colour), 2, cv2.LINE_AA)
    return canvas
