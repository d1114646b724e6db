"""The report as one HTML file that needs no network: player, plots, tables."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
:root {
  color-scheme: light dark;
  --bg: #f7f8fa; --card: #ffffff; --text: #1b1f24; --dim: #5b6572; --edge: #dde2e8;
  --grid: #e8ebef; --accent: #1f6feb;
  --c1: #1f6feb; --c2: #c2570c; --c3: #1a7f4b; --c4: #9a4fc4; --c5: #6b7682;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #0e1116; --card: #161b22; --text: #e6e9ed; --dim: #96a0ab; --edge: #2a313a;
    --grid: #232a33; --accent: #6aa7ff;
    --c1: #6aa7ff; --c2: #ff9d57; --c3: #56d08f; --c4: #d29bf2; --c5: #8b96a3;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--bg); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1320px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 15px; margin: 0 0 10px; }
p { margin: 6px 0; }
a { color: var(--accent); }
.sub, .note { color: var(--dim); }
.note { font-size: 13px; }
.card {
  background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: 16px 18px; min-width: 0;
}
.numbers { display: grid; gap: 12px; margin: 20px 0 14px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.numbers .card { padding: 12px 16px; }
.numbers b { display: block; font-size: 23px; line-height: 1.3; font-weight: 600;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers b small { font-size: 14px; font-weight: 400; color: var(--dim); }
.numbers span { color: var(--dim); font-size: 13px; }
.columns { display: grid; gap: 14px; margin-top: 14px; grid-template-columns: 1fr 1fr; }
@media (max-width: 820px) { .columns, .panels { grid-template-columns: 1fr !important; } }
.wide { grid-column: 1 / -1; }
.panels { display: grid; gap: 10px; grid-template-columns: 1fr 1fr; }
figure { margin: 0; min-width: 0; }
figure canvas { display: block; width: 100%; height: auto; border-radius: 6px;
  background: var(--grid); aspect-ratio: var(--aspect); }
figcaption { display: flex; align-items: center; gap: 8px; min-height: 30px; font-size: 13px;
  color: var(--dim); }
figcaption b { color: var(--text); font-weight: 600; }
figcaption .push { margin-left: auto; }
figcaption img { border-radius: 3px; display: block; }
.patch { width: 12px; height: 12px; border-radius: 3px; background: #ff2828; }
.player { display: flex; align-items: center; gap: 12px; margin-top: 12px; }
.player button, .player select {
  font: inherit; color: var(--text); background: var(--bg); border: 1px solid var(--edge);
  border-radius: 7px; padding: 5px 12px; cursor: pointer;
}
.player button { min-width: 82px; }
.player input { flex: 1; min-width: 60px; accent-color: var(--accent); }
.player output { font-variant-numeric: tabular-nums; color: var(--dim); white-space: nowrap;
  min-width: 128px; text-align: right; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--edge);
  white-space: nowrap; }
th { font-weight: 600; font-size: 13px; color: var(--dim); }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
table.facts td:last-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--dim); width: 1%; vertical-align: top; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
svg.plot { display: block; width: 100%; height: auto; font-size: 12px; fill: var(--dim); }
svg .grid { stroke: var(--grid); }
svg .label { fill: var(--dim); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.dashed { stroke-dasharray: 5 5; }
.line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); }
.dot { stroke: var(--card); stroke-width: 2; }
.dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); } .dot.c5 { fill: var(--c5); }
.start { fill: none; stroke: var(--dim); stroke-width: 1.5; }
.ref { stroke: var(--dim); stroke-dasharray: 2 4; }
.ref-text { fill: var(--dim); font-size: 11px; }
.cursor { stroke: var(--text); opacity: 0.45; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 6px 0 0 58px; font-size: 13px;
  color: var(--dim); }
.key { display: inline-flex; align-items: center; gap: 6px; }
.swatch { width: 22px; height: 8px; }
footer { margin-top: 22px; color: var(--dim); font-size: 13px; }
@media print { .player { display: none; } .card { break-inside: avoid; } }
"""

# The player draws decoded pictures on canvases, so that no picture flickers while it loads, and
# moves the cursors of the plots and the dots of the trajectory along.
_SCRIPT = """
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const canvases = [...document.querySelectorAll("canvas[data-panel]")];
  const pictures = canvases.map((canvas) => run.panels[canvas.dataset.panel].map((url) => {
    const picture = new Image(); picture.src = url; return picture;
  }));
  const slider = document.getElementById("frame");
  const button = document.getElementById("play");
  const speed = document.getElementById("speed");
  const clock = document.getElementById("clock");
  const cursors = [...document.querySelectorAll(".cursor")];
  const dots = [...document.querySelectorAll(".dot")].map((dot) => ({
    dot, points: dot.dataset.points.split(" ").map((point) => point.split(","))
  }));
  const count = run.seconds.length;
  let frame = 0, playing = false, anchor = 0, anchorSeconds = 0;

  const draw = (index) => {
    const picture = pictures[index][frame];
    const canvas = canvases[index];
    const paint = () => {
      if (picture !== pictures[index][frame]) return;
      canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
      canvas.getContext("2d").drawImage(picture, 0, 0);
    };
    if (picture.complete) paint(); else picture.addEventListener("load", paint, { once: true });
  };
  const nearest = (values, wanted) => {
    let best = 0;
    values.forEach((value, i) => {
      if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i;
    });
    return best;
  };
  const show = (next) => {
    frame = Math.max(0, Math.min(count - 1, next));
    canvases.forEach((_, index) => draw(index));
    const seconds = run.seconds[frame];
    slider.value = frame;
    clock.textContent = `${seconds.toFixed(1)} s, ${frame + 1} of ${count}`;
    cursors.forEach((line) => {
      const { low, high, first, last } = line.dataset;
      const x = +first + (seconds - low) / (high - low) * (last - first);
      line.setAttribute("x1", x); line.setAttribute("x2", x);
    });
    if (run.poseSeconds.length) {
      const at = nearest(run.poseSeconds, seconds);
      dots.forEach(({ dot, points }) => {
        const [x, y] = points[Math.min(at, points.length - 1)];
        dot.setAttribute("cx", x); dot.setAttribute("cy", y);
      });
    }
  };
  const setPlaying = (value) => {
    playing = value;
    button.textContent = playing ? "Pause" : "Play";
    if (!playing) return;
    if (frame === count - 1) show(0);
    anchor = performance.now(); anchorSeconds = run.seconds[frame];
    requestAnimationFrame(tick);
  };
  const tick = (now) => {
    if (!playing) return;
    let seconds = anchorSeconds + (now - anchor) / 1000 * speed.value;
    if (seconds > run.seconds[count - 1] + 0.5) {
      anchor = now; anchorSeconds = seconds = run.seconds[0];
    }
    let next = 0;
    while (next + 1 < count && run.seconds[next + 1] <= seconds) next++;
    if (next !== frame) show(next);
    requestAnimationFrame(tick);
  };
  button.addEventListener("click", () => setPlaying(!playing));
  slider.addEventListener("input", () => { setPlaying(false); show(+slider.value); });
  speed.addEventListener("change", () => { if (playing) setPlaying(true); });
  document.addEventListener("keydown", (event) => {
    if (["SELECT", "INPUT"].includes(event.target.tagName) && event.key !== " ") return;
    if (event.key === " ") { event.preventDefault(); setPlaying(!playing); }
    else if (event.key === "ArrowRight") { setPlaying(false); show(frame + 1); }
    else if (event.key === "ArrowLeft") { setPlaying(false); show(frame - 1); }
  });
  show(run.first);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (count > 1 && !still && !location.hash.includes("still")) setPlaying(true);
})();
"""


@dataclass(frozen=True)
class Panel:
    """One picture of the player.

    Attributes:
        name: Heading.
        note: A few words on how to read it.
        urls: One ``data:`` URL per frame.
        legend: HTML at the right end of the caption.
        size: Width and height of the pictures.
    """

    name: str
    note: str
    urls: Sequence[str]
    legend: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Heading.
        header: Column names; empty for a list of facts.
        rows: Cells as text.
        note: A sentence below it.
        wide: Whether it takes the whole width.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Page:
    """What the report shows.

    Attributes:
        title: Heading.
        subtitle: A sentence below it.
        numbers: Value, unit and meaning of each headline number.
        panels: Pictures of the player.
        seconds: Time of each frame of the player.
        first_frame: Frame that is shown before the player starts.
        pose_seconds: Time of each point of the trajectory.
        plots: Title, HTML and note of each plot.
        tables: Tables.
        footer: HTML at the end.
    """

    title: str
    subtitle: str
    numbers: Sequence[tuple[str, str, str]]
    panels: Sequence[Panel]
    seconds: Sequence[float]
    first_frame: int
    pose_seconds: Sequence[float]
    plots: Sequence[tuple[str, str, str]]
    tables: Sequence[Table]
    footer: str = ""


def render(page: Page) -> str:
    """Return the page as HTML."""
    data = {
        "panels": [list(panel.urls) for panel in page.panels],
        "seconds": [round(value, 4) for value in page.seconds],
        "first": page.first_frame,
        "poseSeconds": [round(value, 4) for value in page.pose_seconds],
    }
    # "</" would end the script element early.
    payload = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    title = html.escape(page.title)
    plots = "".join(_plot(*plot) for plot in page.plots)
    tables = "".join(_table(table) for table in page.tables)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="sub">{html.escape(page.subtitle)}</p>\n'
        f'<div class="numbers">{"".join(_number(*number) for number in page.numbers)}</div>\n'
        f"{_player(page)}\n"
        f'<div class="columns">{plots}</div>\n<div class="columns">{tables}</div>\n'
        f"<footer>{page.footer}</footer>\n</main>\n"
        f'<script type="application/json" id="run">{payload}</script>\n'
        f"{f'<script>{_SCRIPT}</script>' if page.panels else ''}\n</body>\n</html>\n"
    )


def _number(value: str, unit: str, meaning: str) -> str:
    small = f" <small>{html.escape(unit)}</small>" if unit else ""
    return (
        f'<div class="card"><b>{html.escape(value)}{small}</b>'
        f"<span>{html.escape(meaning)}</span></div>"
    )


def _player(page: Page) -> str:
    if not page.panels:
        return ""
    figures = "".join(
        f'<figure><canvas data-panel="{index}" width="{panel.size[0]}" height="{panel.size[1]}" '
        f'role="img" aria-label="{html.escape(panel.name)}"></canvas>'
        f"<figcaption><b>{html.escape(panel.name)}</b><span>{html.escape(panel.note)}</span>"
        f'<span class="push"></span>{panel.legend}</figcaption></figure>'
        for index, panel in enumerate(page.panels)
    )
    speeds = "".join(
        f'<option value="{value}"{" selected" if value == 1 else ""}>{value} x</option>'
        for value in (0.25, 0.5, 1, 2)
    )
    return (
        f'<section class="card"><div class="panels" style="--aspect: {page.panels[0].size[0]} / '
        f'{page.panels[0].size[1]}">{figures}</div>'
        '<div class="player"><button id="play" type="button">Play</button>'
        f'<input id="frame" type="range" min="0" max="{len(page.seconds) - 1}" value="0" '
        'aria-label="frame">'
        f'<select id="speed" aria-label="speed">{speeds}</select><output id="clock"></output>'
        "</div></section>"
    )


def _plot(title: str, content: str, note: str) -> str:
    below = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f'<section class="card"><h2>{html.escape(title)}</h2>{content}{below}</section>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    kind = "" if table.header else ' class="facts"'
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<section class="card{" wide" if table.wide else ""}"><h2>{html.escape(table.title)}</h2>'
        '<div class="scroll">'
        f"<table{kind}>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{rows}</tbody>"
        f"</table></div>{note}</section>"
    )
