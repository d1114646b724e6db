"""Tables that put measured scores beside published ones, refined and plain ones apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coopnet_core.evaluation.published import (
    CITYSCAPES,
    DEPTH,
    FLOW_2015,
    ODOMETRY,
    SUPPLEMENT,
    PublishedDepth,
)
from coopnet_core.evaluation.tasks import Row, Task

MEASURED = "measured here"
_DEPTH_KEYS = ("abs_rel", "sq_rel", "rmse_m", "rmse_log", "delta1", "delta2", "delta3")
_DEPTH_NAMES = ("AbsRel", "SqRel", "RMSE", "RMSElog", "δ1", "δ2", "δ3")
_CAVEAT = (
    "Published rows come from other networks, input sizes, pre-training and data: beside them one "
    "sees an order of magnitude, not which loss is better."
)


def depth_comparison(
    measured: Sequence[Row], name: str, trained_on: str, size: str, incomplete: str, refined: bool
) -> Task:
    """Put depth on the Eigen split beside published numbers, columns as in the supplement.

    Args:
        measured: Rows of a depth table with "method", "scaling" and the scores.
        name: What the measured method is called.
        trained_on: Its training data.
        size: Its input size.
        incomplete: Why the measured rows do not compare, such as "4 of 697 images"; "" if they do.
        refined: Whether the networks were tuned on each test image (Struct2Depth, GLNet); only
            published rows that did the same stand in the table.

    Returns:
        The table.
    """
    rows = _depth_rows(measured, name, size, incomplete)
    order = sorted(DEPTH, key=lambda p: (p.source != SUPPLEMENT, p.trained_on != "CS+K"))
    rows += [_published_depth(entry) for entry in order if entry.is_refined == refined]
    kind = "refined" if refined else "plain"
    notes = [_CAVEAT, _training_note(name, trained_on)] if measured else [_CAVEAT]
    if refined:
        notes.append(
            f"{SUPPLEMENT}: the caption says that all its rows are refined; Bian's equals the "
            "unrefined row of its own README to two digits, so take the table with care."
        )
    return Task(
        name=f"compare_depth_{kind}",
        title="Depth beside published results, "
        + ("refined on each test image" if refined else "plain (no refinement on test images)"),
        data="KITTI, Eigen test split, 697 images",
        protocol="raw Velodyne truth, Garg crop, 80 m, median scaling unless it says otherwise",
        rows=rows,
        notes=notes,
    )


def cityscapes_comparison(
    measured: Sequence[Row], name: str, trained_on: str, size: str, incomplete: str
) -> Task:
    """Put depth on Cityscapes beside published numbers; arguments as :func:`depth_comparison`."""
    rows = _depth_rows(measured, name, size, incomplete)
    return Task(
        name="compare_depth_cityscapes",
        title="Depth on Cityscapes beside published results",
        data="Cityscapes, 1,525 test images",
        protocol="truth from SGM stereo, middle of the image, 80 m, median scaling unless it says "
        "otherwise",
        rows=[*rows, *(_published_depth(entry) for entry in CITYSCAPES)],
        notes=[_CAVEAT, _training_note(name, trained_on)],
    )


def flow_comparison(measured: Sequence[Row], name: str, trained_on: str, incomplete: str) -> Task:
    """Put flow on KITTI 2015 beside published numbers.

    Args:
        measured: The two rows of a method: means over pixels and over pairs.
        name: What the measured method is called.
        trained_on: Its training data.
        incomplete: Why the rows do not compare; "" if they do.

    Returns:
        The table.
    """
    rows = [
        _own(f"{name}, mean {row['mean']}", incomplete)
        | {"EPE-all": row["epe_occ_px"], "Fl-all": row["fl_occ"]}
        for row in measured
    ]
    for published in FLOW_2015:
        line: Row = {"method": published.method, "from": "published", "EPE-all": published.epe_px}
        if published.fl is not None:
            line["Fl-all"] = published.fl
        rows.append({**line, "source": published.source})
    return Task(
        name="compare_flow_2015",
        title="Flow beside published results of unsupervised methods",
        data="KITTI 2015, 200 training pairs",
        protocol="all pixels with known truth; Fl is a fraction",
        rows=rows,
        notes=[
            _CAVEAT,
            _training_note(name, trained_on),
            "Published EPE are means over pairs in most code, Fl over pixels.",
        ],
    )


def odometry_comparison(
    segments: Mapping[str, Sequence[Row]],
    snippets: Mapping[str, Sequence[Row]],
    name: str,
    trained_on: str,
) -> Task:
    """Put odometry on KITTI 09 and 10 beside published numbers.

    Args:
        segments: Rows of the whole trajectory by sequence ("09", "10"), with "method",
            "alignment", "t_err_percent" and "r_err_deg_per_100m".
        snippets: Rows of the snippets by sequence, with "ate5_m" and "ate5_std_m".
        name: What the measured bundle is called.
        trained_on: Its training data.

    Returns:
        The table.
    """
    rows: dict[tuple[str, str], Row] = {}
    for sequence, lines in segments.items():
        for line in lines:
            key = (str(line["method"]), str(line["alignment"]))
            row = rows.setdefault(key, _own(f"{name}: {key[0]}", ""))
            row["alignment"] = key[1]
            row[f"t_err {sequence} %"] = line["t_err_percent"]
            row[f"r_err {sequence} °/100m"] = line["r_err_deg_per_100m"]
            for snippet in snippets.get(sequence, ()):
                if snippet["method"] == line["method"]:
                    row[f"ATE-5 {sequence}"] = _spread(snippet["ate5_m"], snippet["ate5_std_m"])
    published: list[Row] = []
    for entry in ODOMETRY:
        row = {"method": entry.method, "from": "published"}
        for place, sequence in enumerate(("09", "10")):
            if entry.segments is not None:
                row[f"t_err {sequence} %"], row[f"r_err {sequence} °/100m"] = entry.segments[place]
            if entry.ate5 is not None:
                row[f"ATE-5 {sequence}"] = _spread(*entry.ate5[place])
        published.append({**row, "source": entry.source})
    return Task(
        name="compare_odometry",
        title="Odometry beside published results",
        data="KITTI odometry 09 and 10, whole sequences",
        protocol="segments of 100 to 800 m; ATE-5: mean ± standard deviation over 5-frame snippets",
        rows=[*rows.values(), *published],
        notes=[
            _CAVEAT,
            _training_note(name, trained_on),
            "Published t_err is after an alignment that its source must name (Bian's is 7-DoF); "
            "compare it with the 7-DoF or the scale-only row. ATE-5 fits a scale per snippet.",
        ],
    )


def _depth_rows(measured: Sequence[Row], name: str, size: str, incomplete: str) -> list[Row]:
    rows = []
    for row in measured:
        scores = dict(zip(_DEPTH_NAMES, (row[key] for key in _DEPTH_KEYS), strict=True))
        scaled = "" if row["scaling"] == "median" else ", metres, not scaled"
        rows.append(_own(f"{name}{scaled}", incomplete, size) | scores)
    return rows


def _published_depth(entry: PublishedDepth) -> Row:
    line: Row = {
        "method": entry.method,
        "from": "published",
        "trained on": entry.trained_on,
        "input": entry.size,
    }
    line.update(zip(_DEPTH_NAMES, entry.scores, strict=False))
    return {**line, "source": entry.source}


def _own(method: str, incomplete: str, size: str = "") -> Row:
    origin = f"{MEASURED}, {incomplete}: does not compare" if incomplete else MEASURED
    row: Row = {"method": f"**{method}**", "from": origin}
    return {**row, "trained on": "see below", "input": size} if size else row


def _training_note(name: str, trained_on: str) -> str:
    return f"{name} was trained on {trained_on}."


def _spread(mean: str | float, deviation: str | float) -> str:
    return f"{float(mean):.4f} ± {float(deviation):.4f}"
