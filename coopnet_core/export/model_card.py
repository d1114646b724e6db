"""MODEL_CARD.md, written from what ``bundle.json`` says."""

from __future__ import annotations

from coopnet_core.inference.bundle import NETWORK_NAMES, BundleInfo


def render_model_card(info: BundleInfo) -> str:
    """Render the model card of a bundle.

    Args:
        info: The bundle's description.

    Returns:
        Markdown.
    """
    training = info.training
    unit = "metres" if info.depth.metric else "an arbitrary but constant unit (not metres)"
    color = (
        "gray (colour images are turned into luminance)" if info.input.color == "gray" else "RGB"
    )
    lines = [
        f"# {info.name}",
        "",
        info.description or "Depth, optical flow and camera motion from one camera.",
        "",
        "| | |",
        "|---|---|",
        f"| variant | `{info.variant}` |",
        f"| input | {info.input.width}x{info.input.height}, {color} |",
        f"| depth | {unit}; canonical depth from {info.depth.min_canonical:g} to "
        f"{info.depth.max_canonical:g}{_depth_size(info)} |",
        f"| made with | coopnet {info.coopnet_version}, {info.created} |",
        "",
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *[f"| data | {item} |" for item in training.data],
        f"| terms of use | {training.license} |",
        f"| recipe | `{training.recipe}` |",
        *_row("initialisation", training.initialisation),
        f"| steps | {training.steps} |",
        *_row("seed", training.seed),
        *_row("time", _duration(training.duration_s)),
        *_row("hardware", training.hardware),
        *_row("command", training.command and f"`{training.command}`"),
        "",
        "## Networks",
        "",
        "| network | file | MB | parameters | precision | median error against torch | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NETWORK_NAMES:
        network = info.networks[name]
        size = info.files[network.onnx].size_bytes / 1e6
        errors = "| not checked | |"
        if network.check is not None:
            check = network.check
            errors = f"| {check.median_error:.2g} {check.unit} | {check.max_error:.2g} |"
        lines.append(
            f"| {name} | `{network.onnx}` | {size:.1f} | {network.parameters:,} "
            f"| {network.precision} {errors}"
        )
    lines += _precisions(info)
    if info.metrics:
        lines += ["", "## Measured", "", "With `coopnet evaluate`."]
    for scores in info.metrics:
        lines += ["", f"### {scores.title}", "", f"{scores.data}. Protocol: {scores.protocol}.", ""]
        lines += _table(scores.rows)
        lines += ["", *[f"- {note}" for note in scores.notes]] if scores.notes else []
    return "\n".join([*lines, ""])


def _precisions(info: BundleInfo) -> list[str]:
    rows = []
    for name in NETWORK_NAMES:
        network = info.networks[name]
        checks = {"float32": network.check} | {p: e.check for p, e in network.precisions.items()}
        for precision, file in network.files().items():
            check = checks[precision]
            start = f"| {name} | {precision} | `{file}` | {info.files[file].size_bytes / 1e6:.1f} "
            if check is None:
                continue
            rows += [
                f"{start}| {output} | {error.median_error:.2g} {check.unit} "
                f"| {error.max_error:.2g} | {check.reference} |"
                for output, error in check.outputs.items()
            ]
    if all(not network.precisions for network in info.networks.values()):
        return []
    notes = {e.note for n in info.networks.values() for e in n.precisions.values() if e.note}
    return [
        "",
        "## Precisions",
        "",
        "| network | precision | file | MB | output | median error | largest | against |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        *(["", *[f"- int8: {note}" for note in sorted(notes)]] if notes else []),
    ]


def _table(rows: list[dict[str, str | int | float | None]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + [
        "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows
    ]


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(name: str, value: object) -> list[str]:
    return [f"| {name} | {value} |"] if value not in ("", None) else []


def _depth_size(info: BundleInfo) -> str:
    if info.depth.network_width is None:
        return ""
    size = f"{info.depth.network_width}x{info.depth.network_height}"
    return f"; computed at {size} inside `depth.onnx` and enlarged to the input's size"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
