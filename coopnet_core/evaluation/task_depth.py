"""Depth of a bundle against truth, beside profiles that ignore the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image
from coopnet_core.evaluation.baselines import DepthProfile
from coopnet_core.evaluation.case_pictures import depth_panels
from coopnet_core.evaluation.depth_metrics import (
    MAX_DEPTH_M,
    depth_metrics,
    eigen_mask,
    mean_depth_metrics,
    resize_depth,
)
from coopnet_core.evaluation.stereo_depth import MAX_STEREO_DEPTH_M
from coopnet_core.evaluation.tasks import Case, Panel, Recorded, Row, Task

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def lidar_task(
    run: Recorded, truths: list[Float32], profiles: dict[str, DepthProfile], is_metric: bool
) -> Task:
    """Score depth on KITTI raw drive 0002 against LiDAR.

    Args:
        run: The bundle's outputs on the drive.
        truths: True depth of each frame, (H, W) metres at the camera's size, 0 where unknown.
        profiles: Depth profiles by the name of what they were fitted to.
        is_metric: Whether the bundle's depth is in metres.

    Returns:
        The table.
    """
    return Task(
        name="depth_kitti_raw_0002",
        title="Depth on KITTI raw 2011_09_26 drive 0002 against LiDAR",
        data=f"{len(truths)} frames, camera 2; never trained on",
        protocol="Eigen: projected Velodyne scan, Garg crop, 80 m, mean over images",
        rows=_depth_rows(run, truths, profiles, MAX_DEPTH_M, is_metric),
        notes=[_PROFILE_NOTE, _SCALE_NOTE],
        cases=_cases(run, truths, MAX_DEPTH_M),
        case_score=_CASE_SCORE,
    )


def stereo_task(
    run: Recorded, truths: list[Float32], profiles: dict[str, DepthProfile], is_metric: bool
) -> Task:
    """Score depth on the Karlsruhe validation block against stereo.

    Args:
        run: The bundle's outputs on the block.
        truths: True depth of each frame, (H, W) metres at the camera's size, 0 where unknown.
        profiles: Depth profiles by the name of what they were fitted to.
        is_metric: Whether the bundle's depth is in metres.

    Returns:
        The table.
    """
    return Task(
        name="depth_karlsruhe",
        title="Depth on Karlsruhe against stereo",
        data=f"{run.sequence.name}, frames {run.span}: validation block",
        protocol=(
            "pseudo-truth from semi-global stereo matching (SGBM) with left-right check; otherwise "
            f"as Eigen, Garg crop, {MAX_STEREO_DEPTH_M:.0f} m"
        ),
        rows=_depth_rows(run, truths, profiles, MAX_STEREO_DEPTH_M, is_metric),
        notes=[_PROFILE_NOTE, _SCALE_NOTE],
        cases=_cases(run, truths, MAX_STEREO_DEPTH_M),
        case_score=_CASE_SCORE,
    )


_CASE_SCORE = "AbsRel with median scaling"
_PROFILE_NOTE = (
    "Row profile: median depth per viewing angle (v - cy) / fy, fitted to stereo depth of the "
    "training frames (KITTI 00 0-99, Karlsruhe 0-259, every 4th); it does not look at the picture."
)
_SCALE_NOTE = (
    "scale is the mean of median(truth) / median(prediction) over images, scale_spread its "
    "standard deviation relative to that mean."
)


def _depth_rows(
    run: Recorded,
    truths: list[Float32],
    profiles: dict[str, DepthProfile],
    max_depth_m: float,
    is_metric: bool,
) -> list[Row]:
    camera = run.sequence.intrinsics
    predictions: dict[str, Sequence[Float32]] = {
        "CoopNet": [resize_depth(o.depth, camera.width, camera.height) for o in run.outputs]
    }
    for name, profile in profiles.items():
        predictions[f"row profile ({name})"] = [profile.depth(camera)] * len(truths)
    rows = []
    for name, depths in predictions.items():
        has_metres = is_metric or name != "CoopNet"
        for median_scaling in (True, False) if has_metres else (True,):
            per_image = [
                depth_metrics(
                    depth, truth, eigen_mask(truth, max_depth_m), median_scaling, max_depth_m
                )
                for depth, truth in zip(depths, truths, strict=True)
            ]
            mean = mean_depth_metrics(per_image)
            row: Row = {
                "method": name,
                "scaling": "median" if median_scaling else "none (metres)",
                "abs_rel": mean.abs_rel,
                "sq_rel": mean.sq_rel,
                "rmse_m": mean.rmse,
                "rmse_log": mean.rmse_log,
                "delta1": mean.delta1,
                "delta2": mean.delta2,
                "delta3": mean.delta3,
            }
            if median_scaling:
                row["scale"] = mean.scale
                row["scale_spread"] = float(np.std([m.scale for m in per_image])) / mean.scale
            rows.append(row)
    return rows


def _cases(run: Recorded, truths: list[Float32], max_depth_m: float) -> list[Case]:
    cases = []
    for place, (output, truth) in enumerate(zip(run.outputs, truths, strict=True)):
        mask = eigen_mask(truth, max_depth_m)
        depth = resize_depth(output.depth, truth.shape[1], truth.shape[0])
        score = depth_metrics(depth, truth, mask, True, max_depth_m).abs_rel

        def draw(place: int = place, mask: Mask = mask) -> list[Panel]:
            image = read_image(run.sequence.paths[place])
            return depth_panels(image, run.outputs[place].depth, truths[place], mask)

        cases.append(Case(f"frame {run.sequence.indices[place]}", score, draw))
    return cases
