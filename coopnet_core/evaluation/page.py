"""The HTML page of an evaluation: tables, and pictures of the best, median and worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from coopnet_core.errors import DataError
from coopnet_core.evaluation.report import cell, table_columns
from coopnet_core.evaluation.tasks import Panel, Row, Task

PAGE_NAME = "index.html"
CASES_NAME = "cases"
_PANEL_WIDTH = 640
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1400px; padding: 0 1em;
  color: #1c2430; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5em; border-top: 1px solid #d5dbe3;
  padding-top: 1em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25em .7em; border-bottom: 1px solid #e3e8ee; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, td.text { text-align: left; }
th { background: #f3f6f9; } tr.own td { background: #fff8e1; }
p.protocol, ul.notes, figcaption { color: #4a5666; } figcaption { font-size: 13px; }
.case { display: grid; gap: .8em;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
nav a { margin-right: 1.2em; }
"""


def write_page(
    out: Path,
    header: dict[str, str],
    tasks: Sequence[Task],
    skipped: dict[str, str],
    pictures: dict[str, str],
) -> Path:
    """Write ``index.html`` and the pictures of its cases into ``cases/``.

    Args:
        out: Folder; made when it is missing.
        header: What was scored, with what.
        tasks: The tables with their cases.
        skipped: What was left out, and why.
        pictures: Caption by file name of pictures that are already in ``out``.

    Returns:
        The page.

    Raises:
        DataError: A picture cannot be made or written.
    """
    (out / CASES_NAME).mkdir(parents=True, exist_ok=True)
    parts = ["<h1>CoopNet evaluation</h1>", "<ul>"]
    parts += [f"<li>{escape(key)}: {escape(value)}</li>" for key, value in header.items()]
    parts += ["</ul>", "<nav>"]
    parts += [f'<a href="#{escape(task.name)}">{escape(task.title)}</a>' for task in tasks]
    parts.append("</nav>")
    for task in tasks:
        parts += _section(task, out)
    if pictures:
        parts.append("<h2>More pictures</h2>")
        parts += [_figure(name, caption) for name, caption in pictures.items()]
    if skipped:
        parts += ["<h2>Left out</h2>", "<ul>"]
        parts += [f"<li>{escape(what)}: {escape(why)}</li>" for what, why in skipped.items()]
        parts.append("</ul>")
    page = out / PAGE_NAME
    page.write_text(
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>CoopNet evaluation</title>\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n",
        encoding="utf-8",
    )
    return page


def _section(task: Task, out: Path) -> list[str]:
    parts = [
        f'<h2 id="{escape(task.name)}">{escape(task.title)}</h2>',
        f'<p class="protocol">{escape(task.data)}. Protocol: {escape(task.protocol)}.</p>',
        *_table(task.rows),
        '<ul class="notes">',
        *(f"<li>{escape(note)}</li>" for note in task.notes),
        "</ul>",
    ]
    for rank, case in task.extremes().items():
        score = f"{task.case_score}: {cell(case.score)}"
        parts.append(f"<h3>{rank.capitalize()}: {escape(case.name)} ({escape(score)})</h3>")
        parts.append('<div class="case">')
        for number, panel in enumerate(case.draw()):
            name = f"{CASES_NAME}/{task.name}_{rank}_{number}.jpg"
            _save(out / name, panel)
            parts.append(_figure(name, panel.caption))
        parts.append("</div>")
    return parts


def _table(rows: list[Row]) -> list[str]:
    columns = table_columns(rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    parts = ['<div class="scroll"><table>', f"<tr>{head}</tr>"]
    for row in rows:
        # Emphasis of the bundle's own row, which Markdown writes with stars.
        is_own = str(row.get("method", "")).startswith("**")
        cells = []
        for column in columns:
            value = row.get(column, "")
            kind = ' class="text"' if isinstance(value, str) else ""
            cells.append(f"<td{kind}>{escape(cell(value).strip('*'))}</td>")
        opening = '<tr class="own">' if is_own else "<tr>"
        parts.append(f"{opening}{''.join(cells)}</tr>")
    return [*parts, "</table></div>"]


def _figure(name: str, caption: str) -> str:
    return (
        f'<figure><img src="{escape(name)}" alt="{escape(caption)}" loading="lazy">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _save(path: Path, panel: Panel) -> None:
    picture = panel.picture
    height, width = picture.shape[:2]
    if width > _PANEL_WIDTH:
        size = (_PANEL_WIDTH, round(height * _PANEL_WIDTH / width))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    if not cv2.imwrite(str(path), picture, _JPEG):
        raise DataError(f"cannot write {path}; is the disk full?")
