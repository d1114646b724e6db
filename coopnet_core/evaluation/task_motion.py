"""False alarms of the motion mask on static scene, and whether it sees what moves."""

from __future__ import annotations

import numpy as np

from coopnet_core.data.images import read_image
from coopnet_core.evaluation import drive_0002_boxes, motion_metrics
from coopnet_core.evaluation.tasks import Case, Panel, Recorded, Row, Task
from coopnet_core.inference.rendering import render_mask, to_bgr

# A mask on the network's grid spills over by a few of its pixels, which are three of the camera's.
_BOX_MARGIN_PX = 15.0
_LIT_FRACTION = 0.1


def motion_task(static: Recorded | None, drive: Recorded | None) -> Task | None:
    """Score the motion mask.

    Args:
        static: The bundle's outputs where nothing moves by itself (KITTI 03 validation block).
        drive: The bundle's outputs on KITTI raw drive 0002.

    Returns:
        The table, or None when there is no mask at all.
    """
    rows, cases = [], []
    if static is not None:
        rows += _static_rows(static)
        cases += [
            _case(static, place, float(output.motion_mask.mean()))
            for place, output in enumerate(static.outputs)
            if output.motion_mask is not None
        ]
    if drive is not None:
        rows += _drive_rows(drive)
    if not rows:
        return None
    return Task(
        name="motion_mask",
        title="Motion mask",
        data="KITTI 03 validation block, and KITTI raw drive 0002 with two cyclists",
        protocol=(
            "fraction of pixels flagged: false alarms on static scene; on drive 0002 outside "
            f"hand-drawn boxes (grown by {_BOX_MARGIN_PX:.0f} px) around cyclists and a tram of "
            "unknown motion"
        ),
        rows=rows,
        notes=[
            "There is no ground truth: the boxes were drawn by eye and hold background too, so "
            "even a perfect mask flags about half of one. A cyclist is lit where "
            f"{_LIT_FRACTION:.0%} of the box or more is flagged."
        ],
        cases=cases,
        case_score="fraction of a static scene that is flagged",
    )


def _case(run: Recorded, place: int, score: float) -> Case:
    def draw() -> list[Panel]:
        image = to_bgr(read_image(run.sequence.paths[place]))
        mask = run.outputs[place].motion_mask
        return [
            Panel("image", image),
            Panel("motion mask (red); nothing moves here: all is error", render_mask(image, mask)),
        ]

    return Case(f"{run.sequence.name}, frame {run.sequence.indices[place]}", score, draw)


def _static_rows(run: Recorded) -> list[Row]:
    alarms = [float(o.motion_mask.mean()) for o in run.outputs if o.motion_mask is not None]
    return [_row("KITTI 03, static scene", alarms)] if alarms else []


def _drive_rows(run: Recorded) -> list[Row]:
    scores = [
        motion_metrics.motion_score(
            output.motion_mask,
            drive_0002_boxes.CYCLISTS[index],
            drive_0002_boxes.UNKNOWN,
            drive_0002_boxes.IMAGE_SIZE,
            _BOX_MARGIN_PX,
        )
        for index, output in zip(run.sequence.indices, run.outputs, strict=True)
        if output.motion_mask is not None and index in drive_0002_boxes.CYCLISTS
    ]
    if not scores:
        return []
    boxes = np.array([score.box_fractions for score in scores])
    row = _row(
        "KITTI raw 0002, outside the boxes", [score.false_alarm_fraction for score in scores]
    )
    row["far_cyclist_flagged"] = float(boxes[:, 0].mean())
    row["near_cyclist_flagged"] = float(boxes[:, 1].mean())
    row["cyclists_lit"] = f"{int((boxes >= _LIT_FRACTION).sum())} of {boxes.size}"
    return [row]


def _row(scene: str, false_alarms: list[float]) -> Row:
    return {
        "method": scene,
        "frames": len(false_alarms),
        "false_alarms": float(np.mean(false_alarms)),
        "false_alarms_worst": max(false_alarms),
    }
