"""Flow of a bundle beside OpenCV's DIS, without and with ground truth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data import middlebury
from coopnet_core.data.images import read_image
from coopnet_core.evaluation import baselines, flow_metrics
from coopnet_core.evaluation.case_pictures import flow_panels, warp_panels
from coopnet_core.evaluation.runner import run_flow, run_flow_in_strips
from coopnet_core.evaluation.tasks import Case, Panel, Recorded, Row, Task
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.preprocess import to_gray
from coopnet_core.inference.runtime import Runtime

Float32 = npt.NDArray[np.float32]


def flow_task(name: str, run: Recorded) -> Task:
    """Score flow without ground truth on a sequence.

    Args:
        name: End of the task's name.
        run: The bundle's outputs on the sequence.

    Returns:
        The table.
    """
    values: dict[str, list[list[float]]] = {"CoopNet": [], "DIS": [], "no motion": []}
    cases = []
    for place, (prev, cur) in enumerate(pairwise(run.outputs), start=1):
        if cur.flow_cur_prev is None or cur.flow_prev_cur is None:
            continue
        pairs = {
            "CoopNet": (cur.flow_cur_prev, cur.flow_prev_cur),
            "DIS": (
                baselines.dis_flow(cur.gray, prev.gray),
                baselines.dis_flow(prev.gray, cur.gray),
            ),
            "no motion": (np.zeros_like(cur.flow_cur_prev), np.zeros_like(cur.flow_cur_prev)),
        }
        common = np.logical_and.reduce([flow_metrics.in_view(flow) for flow, _ in pairs.values()])
        target, source = (
            np.asarray(image / np.float32(255), np.float32) for image in (cur.gray, prev.gray)
        )
        for method, (forward, backward) in pairs.items():
            warped = flow_metrics.warp_errors(target, source, forward, common)
            agreement = flow_metrics.consistency(forward, backward)
            values[method].append(
                [
                    warped.photometric,
                    warped.absolute,
                    agreement.median_px,
                    agreement.consistent_fraction,
                    agreement.in_view_fraction,
                ]
            )
        score = values["CoopNet"][-1][0]
        cases.append(_case(run, place, pairs["CoopNet"][0], pairs["DIS"][0], score))
    keys = ("photometric", "abs_difference", "fb_median_px", "fb_consistent", "in_view")
    rows: list[Row] = []
    for method, numbers in values.items():
        means = np.mean(numbers, axis=0)
        row: Row = {"method": method}
        row.update({key: float(mean) for key, mean in zip(keys, means, strict=True)})
        rows.append(row)
    height, width = run.outputs[0].gray.shape
    return Task(
        name=f"flow_{name}",
        title=f"Flow on {run.sequence.name}, frames {run.span}",
        data=f"{len(values['CoopNet'])} pairs of neighbours: validation block",
        protocol=(
            f"at {width}x{height}, gray; warp errors over pixels that all methods keep in view: "
            "photometric = .85 (1 - SSIM) / 2 + .15 |a - b|; fb = forward-backward"
        ),
        rows=rows,
        notes=[
            "DIS is OpenCV's, preset MEDIUM, at the same size. No motion is trivially consistent."
        ],
        cases=cases,
        case_score="photometric error",
    )


def _case(run: Recorded, place: int, flow: Float32, other: Float32, score: float) -> Case:
    def draw() -> list[Panel]:
        prev, cur = run.outputs[place - 1].gray, run.outputs[place].gray
        source = np.asarray(prev / np.float32(255), np.float32)
        error = np.abs(
            np.asarray(cur / np.float32(255), np.float32) - flow_metrics.warp(source, flow)
        )
        # Shown as motion since the frame before, which is what people expect to see.
        return warp_panels(cur, -flow, -other, error)

    return Case(f"frame {run.sequence.indices[place]}", score, draw)


def rubberwhale_task(bundle: Bundle, runtime: Runtime, folder: Path) -> Task:
    """Score flow against ground truth on Middlebury's RubberWhale.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        folder: Folder with frame10.png, frame11.png and flow10.flo.

    Returns:
        The table.

    Raises:
        DataError: A file is missing or damaged.
    """
    target, source = read_image(folder / "frame10.png"), read_image(folder / "frame11.png")
    truth = middlebury.read_flow(folder / "flow10.flo")
    height, width = truth.shape[:2]
    squeezed = (bundle.width, bundle.height)
    scaled = (bundle.width, round(height * bundle.width / width))

    def dis(size: tuple[int, int]) -> Float32:
        pair = [
            np.asarray(cv2.resize(to_gray(image), size, interpolation=cv2.INTER_AREA), np.uint8)
            for image in (target, source)
        ]
        return baselines.dis_flow(pair[0], pair[1])

    flows = {
        f"CoopNet, {_size(squeezed)}": run_flow(bundle, runtime, target, source),
        f"CoopNet, strips at {_size(scaled)}": run_flow_in_strips(bundle, runtime, target, source),
        f"DIS, {_size(squeezed)}": dis(squeezed),
        f"DIS, {_size(scaled)}": dis(scaled),
        f"DIS, {_size((width, height))}": dis((width, height)),
        "no motion": np.zeros_like(truth),
    }
    rows: list[Row] = []
    for method, flow in flows.items():
        score = flow_metrics.flow_errors(flow_metrics.resize_flow(flow, width, height), truth)
        rows.append({"method": method, "epe_px": score.epe_px, "fl": score.outlier_fraction})
    own = f"CoopNet, {_size(squeezed)}"
    case = Case("frame10", float(rows[0]["epe_px"]), lambda: flow_panels(target, flows[own], truth))
    return Task(
        name="flow_rubberwhale",
        title="Flow on Middlebury RubberWhale",
        data=f"1 pair, {width}x{height}, frame 10 to 11; never trained on",
        protocol=(
            "computed at the size named, resized and rescaled to full size; mean end-point error "
            "in full-size pixels, Fl = share of pixels off by more than 3 px and 5 %"
        ),
        rows=rows,
        notes=[
            f"The network's input is {_size(squeezed)}, which squeezes a picture of another shape; "
            "strips keep the shape: overlapping parts of full width, each scaled to the input."
        ],
        cases=[case],
        case_score="EPE, px",
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
