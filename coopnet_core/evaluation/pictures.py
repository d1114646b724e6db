"""Pictures of a benchmark run, for judging by eye what numbers hide."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image
from coopnet_core.errors import DataError, RuntimeUnavailableError
from coopnet_core.evaluation import baselines, drive_0002_boxes
from coopnet_core.evaluation.benchmark import Results
from coopnet_core.evaluation.odometry_metrics import write_kitti_poses
from coopnet_core.evaluation.runner import FrameOutput
from coopnet_core.evaluation.scale_run import ScaleRun
from coopnet_core.evaluation.task_odometry import GROUND_TRUTH
from coopnet_core.evaluation.tasks import Recorded
from coopnet_core.inference.metric_scale import ScaleStatus
from coopnet_core.inference.rendering import render_depth, render_flow, render_mask, to_bgr

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise RuntimeUnavailableError(
        f"evaluation draws trajectories with matplotlib, which cannot be imported ({error}): "
        "install it with 'pip install matplotlib'"
    ) from error

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

_PANEL_WIDTH = 640
_NEAR_M, _FAR_M = 4.0, 60.0
_BOX_BGR = (0, 255, 255)
_NUM_ROWS = 5


def write_pictures(results: Results, out: Path) -> dict[str, str]:
    """Write PNG pictures of what was scored.

    Args:
        results: Results of the benchmark.
        out: Folder; made when it is missing.

    Returns:
        Caption by file name.

    Raises:
        DataError: A picture cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    captions: dict[str, str] = {}

    def save(name: str, picture: Picture, caption: str) -> None:
        if not cv2.imwrite(str(out / name), picture):
            raise DataError(f"cannot write {out / name}; is the disk full?")
        captions[name] = caption

    for name, truths in results.truths.items():
        save(
            f"depth_{name}.png",
            _depth_panels(results.recorded[name], truths),
            f"Depth on {results.recorded[name].sequence.name}: image, CoopNet, truth "
            f"(magma, {_NEAR_M:.0f} to {_FAR_M:.0f} m, scaled by medians)",
        )
    for name, run in results.recorded.items():
        if len(run.outputs) > 1:
            save(
                f"flow_{name}.png",
                _flow_panels(run),
                f"Flow on {run.sequence.name}: image, CoopNet, DIS (motion since the frame before)",
            )
    if "kitti_raw_0002" in results.recorded:
        save(
            "motion_kitti_raw_0002.png",
            _drive_masks(results.recorded["kitti_raw_0002"]),
            "Motion mask (red) on KITTI raw drive 0002, with the hand-drawn boxes",
        )
    if "kitti_03" in results.recorded:
        save(
            "motion_kitti_03.png",
            _static_masks(results.recorded["kitti_03"]),
            "Motion mask on static scene (KITTI 03): the frames with the most false alarms",
        )
    for name, trajectories in results.sequences.items():
        _save_trajectories(trajectories, out / f"odometry_{name}.png")
        captions[f"odometry_{name}.png"] = (
            f"Odometry, {name.replace('_', ' ')}, seen from above, as it comes (not aligned)"
        )
    if results.trajectories:
        _save_trajectories(results.trajectories, out / "odometry_kitti_03.png")
        captions["odometry_kitti_03.png"] = (
            "Odometry on the KITTI 03 validation block, seen from above, as it comes (not aligned)"
        )
    if results.scaled:
        run = results.recorded["kitti_03"]
        _save_scales(run, results.scaled, out / "scale_kitti_03.png")
        captions["scale_kitti_03.png"] = (
            "Metric scale on the KITTI 03 validation block: what each source says, with one "
            "standard deviation, and the truth"
        )
    return captions


def write_trajectories(results: Results, out: Path) -> None:
    """Write every trajectory that was scored as a KITTI pose file, for evo and other tools.

    Args:
        results: Results of the benchmark.
        out: Folder; files are ``trajectories/SEQUENCE/METHOD.txt``, the truth beside them.

    Raises:
        DataError: A file cannot be written.
    """
    for name, trajectories in {"kitti_03": results.trajectories, **results.sequences}.items():
        folder = out / "trajectories" / name
        for method, poses in trajectories.items():
            folder.mkdir(parents=True, exist_ok=True)
            write_kitti_poses(folder / f"{re.sub('[^a-z0-9]+', '_', method.lower())}.txt", poses)


def _depth_panels(run: Recorded, truths: list[Float32]) -> Picture:
    rows = []
    for place in _spread(range(len(run.outputs))):
        depth, truth = run.outputs[place].depth, truths[place]
        height, width = truth.shape
        on_truth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        is_known = truth > 0
        scale = np.float32(1)
        if is_known.any():
            scale = np.float32(np.median(truth[is_known]) / np.median(on_truth[is_known]))
        # LiDAR points are single pixels: grown, or they vanish in the smaller picture.
        grown = truth
        if is_known.mean() < 0.2:
            inverse = np.divide(1, truth, out=np.zeros_like(truth), where=is_known)
            inverse = np.asarray(cv2.dilate(inverse, np.ones((5, 5), np.uint8)), np.float32)
            grown = np.divide(1, inverse, out=np.zeros_like(truth), where=inverse > 0)
        rows.append(
            _row(
                _image(run, place),
                render_depth(depth * scale, _NEAR_M, _FAR_M),
                render_depth(np.where(grown > 0, grown, np.float32(np.nan)), _NEAR_M, _FAR_M),
            )
        )
    return np.vstack(rows)


def _flow_panels(run: Recorded) -> Picture:
    rows = []
    for place in _spread(range(1, len(run.outputs))):
        cur, prev = run.outputs[place], run.outputs[place - 1]
        if cur.flow_cur_prev is None:
            continue
        other = baselines.dis_flow(cur.gray, prev.gray)
        length = float(np.quantile(np.linalg.norm(other, axis=2), 0.98)) + 1e-3
        rows.append(
            _row(
                _image(run, place),
                render_flow(-cur.flow_cur_prev, length),
                render_flow(-other, length),
            )
        )
    return np.vstack(rows) if rows else np.zeros((1, 1, 3), np.uint8)


def _drive_masks(run: Recorded) -> Picture:
    panels = []
    for place in range(1, len(run.outputs)):
        index = run.sequence.indices[place]
        picture = render_mask(_image(run, place), run.outputs[place].motion_mask)
        for box in drive_0002_boxes.CYCLISTS.get(index, ()) + drive_0002_boxes.UNKNOWN:
            left, top, right, bottom = (int(value) for value in box)
            cv2.rectangle(picture, (left, top), (right, bottom), _BOX_BGR, 2)
        panels.append(_panel(picture))
    return _grid(panels)


def _static_masks(run: Recorded) -> Picture:
    def flagged(output: FrameOutput) -> float:
        return -1.0 if output.motion_mask is None else float(output.motion_mask.mean())

    order = sorted(range(len(run.outputs)), key=lambda place: -flagged(run.outputs[place]))
    return _grid(
        [
            _panel(render_mask(_image(run, place), run.outputs[place].motion_mask))
            for place in sorted(order[: 2 * _NUM_ROWS])
        ]
    )


def _save_trajectories(trajectories: dict[str, Float64], path: Path) -> None:
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    for name, poses in trajectories.items():
        is_truth = name == GROUND_TRUTH
        axes.plot(
            poses[:, 0, 3],
            poses[:, 2, 3],
            label=name,
            color="black" if is_truth else None,
            linewidth=3.0 if is_truth else 1.5,
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x, right [m]")
    axes.set_ylabel("z, forward [m]")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    figure.savefig(path, dpi=120)


def _save_scales(run: Recorded, scaled: dict[str, ScaleRun], path: Path) -> None:
    figure = Figure(figsize=(9, 4 * len(scaled)), layout="constrained")
    frames = np.array(run.sequence.indices)
    for number, (name, result) in enumerate(scaled.items(), start=1):
        axes = figure.add_subplot(len(scaled), 1, number)
        factor = np.array([state.factor for state in result.states])
        sigma = np.array([state.relative_sigma for state in result.states])
        is_held = np.array([state.status is not ScaleStatus.UPDATED for state in result.states])
        axes.fill_between(
            frames, result.truth * 0.95, result.truth * 1.05, color="black", alpha=0.15, lw=0
        )
        axes.plot(frames, result.truth, color="black", label="truth, with 5 % around it")
        axes.plot(frames, factor, color="tab:blue", label=name)
        axes.fill_between(
            frames,
            factor * np.exp(-sigma),
            factor * np.exp(sigma),
            color="tab:blue",
            alpha=0.2,
            lw=0,
        )
        axes.plot(
            frames[is_held], factor[is_held], ".", color="tab:orange", label="waiting or held"
        )
        axes.set_ylabel("metres per unit of depth")
        axes.grid(alpha=0.3)
        axes.legend()
    axes.set_xlabel("frame")
    figure.savefig(path, dpi=100)


def _image(run: Recorded, place: int) -> Picture:
    return to_bgr(read_image(run.sequence.paths[place]))


def _spread(places: range) -> list[int]:
    count = min(_NUM_ROWS, len(places))
    return [places[round(i * (len(places) - 1) / max(1, count - 1))] for i in range(count)]


def _panel(picture: Picture) -> Picture:
    height = round(picture.shape[0] * _PANEL_WIDTH / picture.shape[1])
    return np.asarray(
        cv2.resize(picture, (_PANEL_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8
    )


def _row(image: Picture, *others: Picture) -> Picture:
    first = _panel(image)
    size = (first.shape[1], first.shape[0])
    resized = [cv2.resize(other, size, interpolation=cv2.INTER_LINEAR) for other in others]
    return np.asarray(np.hstack([first, *resized]), np.uint8)


def _grid(panels: list[Picture]) -> Picture:
    if not panels:
        return np.zeros((1, 1, 3), np.uint8)
    if len(panels) % 2:
        panels = [*panels, np.zeros_like(panels[0])]
    return np.vstack([np.hstack(panels[i : i + 2]) for i in range(0, len(panels), 2)])
