"""Depth of a bundle on single images by the protocols of the field."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from coopnet_core.evaluation.case_pictures import depth_panels
from coopnet_core.evaluation.depth_metrics import mean_depth_metrics
from coopnet_core.evaluation.depth_protocols import (
    DepthExample,
    DepthProtocol,
    DepthSample,
    ScoredImage,
    score_samples,
)
from coopnet_core.evaluation.runner import Progress, run_depth
from coopnet_core.evaluation.tasks import Case, Panel, Row, Task
from coopnet_core.inference.bundle import Bundle
from coopnet_core.inference.runtime import Runtime

Float32 = npt.NDArray[np.float32]

OWN_METHOD = "CoopNet"


def protocol_depth_task(
    bundle: Bundle,
    runtime: Runtime,
    samples: Iterable[DepthSample],
    protocol: DepthProtocol,
    name: str,
    title: str,
    progress: Progress | None = None,
) -> Task | None:
    """Score the depth network of a bundle.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        samples: Images with truth.
        protocol: How they are scored.
        name: Key of the table.
        title: Heading of the table.
        progress: Called with one line now and then.

    Returns:
        The table; None when there is no image with a pixel to score.

    Raises:
        DataError: An image or its truth cannot be read.
    """
    by_name = {sample.name: sample for sample in samples}

    def predict(example: DepthExample) -> Float32:
        return run_depth(bundle, runtime, example.image, example.camera)

    def draw(sample: DepthSample) -> list[Panel]:
        example = sample.read()
        mask = protocol.mask(example.truth)
        return depth_panels(example.image, predict(example), example.truth, mask)

    scored = score_samples(predict, by_name.values(), protocol, progress)
    if not scored:
        return None
    data = f"{len(scored)} images"
    notes = [SCALE_NOTE]
    if not is_complete(protocol, len(scored)):
        data += f" of the test set's {protocol.num_frames}"
        notes.append("Not the whole test set: the numbers do not compare with published ones.")
    if bundle.metric:
        notes.append("Metres: the bundle's depth as it comes.")
    return Task(
        name=name,
        title=title,
        data=data,
        protocol=f"{protocol.description}; one image at a time; mean over images",
        rows=depth_rows(OWN_METHOD, scored, bundle.metric),
        notes=notes,
        cases=[
            Case(s.name, s.median.abs_rel, lambda s=s: draw(by_name[s.name]))  # type: ignore[misc]
            for s in scored
        ],
        case_score="AbsRel with median scaling",
    )


def is_complete(protocol: DepthProtocol, num_scored: int) -> bool:
    """Tell whether a run covers the protocol's whole test set."""
    return protocol.num_frames is None or num_scored == protocol.num_frames


def depth_rows(method: str, scored: list[ScoredImage], is_metric: bool) -> list[Row]:
    """Make the rows of a depth table: with median scaling and, for metric depth, without.

    Args:
        method: First column.
        scored: Scores of the images, one or more.
        is_metric: Whether the prediction claims metres.

    Returns:
        One or two rows.

    Raises:
        DataError: There is no image.
    """
    rows: list[Row] = []
    for scaling in ("median", "none (metres)") if is_metric else ("median",):
        is_median = scaling == "median"
        mean = mean_depth_metrics([s.median if is_median else s.unscaled for s in scored])
        row: Row = {
            "method": method,
            "scaling": scaling,
            "abs_rel": mean.abs_rel,
            "sq_rel": mean.sq_rel,
            "rmse_m": mean.rmse,
            "rmse_log": mean.rmse_log,
            "delta1": mean.delta1,
            "delta2": mean.delta2,
            "delta3": mean.delta3,
        }
        if is_median:
            ratios = np.array([s.median.scale for s in scored])
            row["median_ratio"] = float(np.median(ratios))
            row["median_ratio_std"] = float(np.std(ratios / np.median(ratios)))
        row["images"] = len(scored)
        rows.append(row)
    return rows


SCALE_NOTE = (
    "median_ratio is the median over images of median(truth) / median(prediction), "
    "median_ratio_std the standard deviation of these ratios divided by their median: 0 would be a "
    "scale that never changes."
)
