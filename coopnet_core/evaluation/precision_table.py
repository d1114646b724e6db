"""What a precision costs: one number per task, beside that of the first precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coopnet_core.evaluation.tasks import Row, Task

SCORES = {
    "depth_kitti_raw_0002": "abs_rel",
    "depth_karlsruhe": "abs_rel",
    "flow_rubberwhale": "epe_px",
    "odometry_kitti_03": "t_err_percent",
}
"""Score by task; lower is better in all of them."""


def precision_table(results: Mapping[str, Sequence[Task]]) -> Task:
    """Put the bundle's scores of several precisions side by side.

    Args:
        results: The tables by precision; the first is the reference of the others.

    Returns:
        A table with one row per precision: each score, and how much larger it is than that of the
        first precision, in percent.
    """
    rows: list[Row] = []
    for precision, tasks in results.items():
        row: Row = {"method": precision}
        for task in tasks:
            score = SCORES.get(task.name)
            if score is None:
                continue
            column = f"{score} {task.name}"
            value = float(_of_bundle(task)[score])
            reference = float(rows[0][column]) if rows else value
            row[column] = value
            row[f"{column} %"] = 100 * (value / reference - 1) if reference else 0.0
        rows.append(row)
    return Task(
        name="precisions",
        title="Precisions",
        data="as in the report of each precision",
        protocol="first row of the bundle in each task; % = larger than the first precision",
        rows=rows,
    )


def _of_bundle(task: Task) -> Row:
    return next(row for row in task.rows if str(row["method"]).startswith("CoopNet"))
