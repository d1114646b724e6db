"""Flow of a bundle against KITTI's flow benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.evaluation import flow_metrics
from coopnet_core.evaluation.baselines import dis_flow
from coopnet_core.evaluation.case_pictures import flow_panels
from coopnet_core.evaluation.flow_metrics import FlowErrors, flow_errors
from coopnet_core.evaluation.runner import Progress, run_flow
from coopnet_core.evaluation.task_protocol_depth import OWN_METHOD
from coopnet_core.evaluation.tasks import Case, Panel, Row, Task
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.preprocess import to_gray
from coopnet_core.inference.runtime import Runtime

Float32 = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FlowExample:
    """A pair of images with true flow.

    Attributes:
        image_tgt: (H, W) or (H, W, 3) RGB uint8; the frame whose pixels the flow belongs to.
        image_src: The next frame, the same size.
        truth_occ: (H, W, 2) pixels, NaN where unknown, with pixels that leave the view.
        truth_noc: The same without them.
        objects: (H, W) integers, over 0 on moving objects; None where nobody marked them.
    """

    image_tgt: Image
    image_src: Image
    truth_occ: Float32
    truth_noc: Float32
    objects: npt.NDArray[np.integer] | None = None


@dataclass(frozen=True)
class FlowSample:
    """A pair with true flow that is read when it is needed.

    Attributes:
        name: What to call it.
        read: Reads it.
    """

    name: str
    read: Callable[[], FlowExample]


@dataclass(frozen=True)
class FlowProtocol:
    """What makes an outlier, and how many pairs there are.

    Attributes:
        description: For the report.
        outlier_relative: Share of the true length that an outlier exceeds, beside 3 pixels.
        num_pairs: Pairs with public truth.
    """

    description: str
    outlier_relative: float
    num_pairs: int


KITTI_2012 = FlowProtocol("outlier: end-point error over 3 px (KITTI 2012)", 0.0, 194)
KITTI_2015 = FlowProtocol(
    "outlier: end-point error over 3 px and over 5 % of the true length (KITTI 2015)", 0.05, 200
)

Errors = dict[str, FlowErrors]


def score_flow(flow: Float32, example: FlowExample, protocol: FlowProtocol) -> Errors:
    """Score a flow field on each set of pixels that a pair knows.

    Args:
        flow: (H', W', 2) pixels of its own grid; resized and rescaled to the truth.
        example: The pair.
        protocol: What makes an outlier.

    Returns:
        Errors by "noc", "occ" and, where objects are marked, "bg" and "fg" (both of occ). A set
        without a pixel is left out.

    Raises:
        DataError: The flow is not finite where the truth is known.
    """
    height, width = example.truth_occ.shape[:2]
    full = flow_metrics.resize_flow(flow, width, height)
    everything = np.ones((height, width), np.bool_)
    sets: dict[str, tuple[Float32, Mask]] = {
        "noc": (example.truth_noc, everything),
        "occ": (example.truth_occ, everything),
    }
    if example.objects is not None:
        is_object = np.asarray(example.objects > 0)
        sets["bg"] = (example.truth_occ, ~is_object)
        sets["fg"] = (example.truth_occ, is_object)
    return {
        name: flow_errors(full, truth, mask, protocol.outlier_relative)
        for name, (truth, mask) in sets.items()
        if (np.isfinite(truth).all(axis=2) & mask).any()
    }


def flow_rows(method: str, per_pair: list[Errors]) -> list[Row]:
    """Make the rows of a flow table: pooled over pixels, and averaged over pairs.

    Args:
        method: First column.
        per_pair: Errors of each pair, one pair or more.

    Returns:
        Two rows. EPE in pixels, Fl as a fraction.
    """
    rows: list[Row] = []
    for name, combine in (
        ("over pixels (devkit)", flow_metrics.pooled_flow_errors),
        ("over pairs", flow_metrics.mean_flow_errors),
    ):
        row: Row = {"method": method, "mean": name}
        for part in ("noc", "occ", "bg", "fg"):
            known = [errors[part] for errors in per_pair if part in errors]
            if known:
                combined = combine(known)
                row[f"epe_{part}_px"] = combined.epe_px
                row[f"fl_{part}"] = combined.outlier_fraction
        row["pairs"] = len(per_pair)
        rows.append(row)
    return rows


def protocol_flow_task(
    bundle: Bundle,
    runtime: Runtime,
    samples: Iterable[FlowSample],
    protocol: FlowProtocol,
    name: str,
    title: str,
    progress: Progress | None = None,
) -> Task | None:
    """Score the flow network of a bundle, with DIS beside it at the same size and at full size.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        samples: Pairs with truth.
        protocol: What makes an outlier.
        name: Key of the table.
        title: Heading of the table.
        progress: Called with one line now and then.

    Returns:
        The table; None when there is no pair.

    Raises:
        DataError: A pair or its truth cannot be read.
    """
    by_name = {sample.name: sample for sample in samples}
    full_size = "DIS, full size"
    scores: dict[str, dict[str, Errors]] = {OWN_METHOD: {}, full_size: {}, "no motion": {}}

    def predict(example: FlowExample) -> Float32:
        return run_flow(bundle, runtime, example.image_tgt, example.image_src)

    def draw(sample: FlowSample) -> list[Panel]:
        example = sample.read()
        return flow_panels(example.image_tgt, predict(example), example.truth_occ)

    for number, sample in enumerate(by_name.values()):
        if progress is not None and number % 20 == 0:
            progress(f"flow: pair {number + 1} of {len(by_name)}")
        example = sample.read()
        flows = {
            OWN_METHOD: predict(example),
            full_size: dis_flow(to_gray(example.image_tgt), to_gray(example.image_src)),
            "no motion": np.zeros_like(example.truth_occ),
        }
        for method, flow in flows.items():
            errors = score_flow(flow, example, protocol)
            if "occ" in errors:
                scores[method][sample.name] = errors
    if not scores[OWN_METHOD]:
        return None
    num = len(scores[OWN_METHOD])
    notes = [
        "noc: pixels that stay in view; occ: all with known truth; bg, fg: occ without and on "
        "moving objects. EPE over pairs is what most papers call EPE-all, Fl over pixels is the "
        "benchmark's."
    ]
    if num != protocol.num_pairs:
        notes.append("Not the whole set: the numbers do not compare with published ones.")
    return Task(
        name=name,
        title=title,
        data=f"{num} of {protocol.num_pairs} training pairs, frame 10 to 11",
        protocol=(
            f"{protocol.description}; computed at {bundle.width}x{bundle.height}, resized and "
            "rescaled to the truth"
        ),
        rows=[
            row
            for method, errors in scores.items()
            for row in flow_rows(method, [*errors.values()])
        ],
        notes=notes,
        cases=[
            Case(pair, errors["occ"].epe_px, lambda pair=pair: draw(by_name[pair]))  # type: ignore[misc]
            for pair, errors in scores[OWN_METHOD].items()
        ],
        case_score="EPE occ, px",
    )
