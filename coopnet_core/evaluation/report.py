"""Writing benchmark results: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from coopnet_core.evaluation.tasks import Row, Task

JSON_NAME = "results.json"
MARKDOWN_NAME = "results.md"


def write_report(
    out: Path,
    header: dict[str, str],
    tasks: list[Task],
    skipped: dict[str, str],
    pictures: dict[str, str],
) -> None:
    """Write ``results.json`` and ``results.md``.

    Args:
        out: Folder; made when it is missing.
        header: What was scored, with what: shown on top.
        tasks: The tables.
        skipped: What was left out, and why.
        pictures: Caption by file name, relative to ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        **header,
        "tasks": {
            task.name: {
                "title": task.title,
                "data": task.data,
                "protocol": task.protocol,
                "rows": without_nan(task.rows),
                "notes": task.notes,
                "cases": {
                    "score": task.case_score,
                    "values": without_nan({case.name: case.score for case in task.cases}),
                },
            }
            for task in tasks
        },
        "skipped": skipped,
        "pictures": pictures,
    }
    (out / JSON_NAME).write_text(
        json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    (out / MARKDOWN_NAME).write_text(markdown(header, tasks, skipped, pictures), encoding="utf-8")


def markdown(
    header: dict[str, str], tasks: list[Task], skipped: dict[str, str], pictures: dict[str, str]
) -> str:
    """Return the report as Markdown; arguments as for :func:`write_report`."""
    lines = ["# CoopNet evaluation", ""]
    lines += [f"- {name}: {value}" for name, value in header.items()]
    for task in tasks:
        lines += ["", f"## {task.title}", "", f"{task.data}. Protocol: {task.protocol}.", ""]
        lines += markdown_table(task.rows)
        lines += [""] + [f"- {note}" for note in task.notes]
    if skipped:
        lines += ["", "## Left out", ""] + [f"- {what}: {why}" for what, why in skipped.items()]
    if pictures:
        lines += ["", "## Pictures"]
        for name, caption in pictures.items():
            lines += ["", f"![{caption}]({name})", "", caption]
    return "\n".join(lines) + "\n"


def markdown_table(rows: list[Row]) -> list[str]:
    """Return a table with the keys of all rows as columns, in order of appearance."""
    columns = table_columns(rows)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(key, "")) for key in columns) + " |" for row in rows]
    return lines


def table_columns(rows: list[Row]) -> list[str]:
    """Return the keys of all rows in order of appearance, "source" last."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return sorted(columns, key=lambda key: key == "source")


def cell(value: str | float) -> str:
    """Return a value as tables show it: four digits behind the point, or two from 10 on.

    Three digits stay three, which is how results are published.
    """
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        if abs(value) >= 10:
            return f"{value:.2f}"
        return f"{value:.3f}" if value == round(value, 3) else f"{value:.4f}"
    return str(value)


def without_nan(value: Any) -> Any:
    """Return plain data for JSON: in dicts and lists too, what is not finite becomes None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
