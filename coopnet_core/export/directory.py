"""A bundle's directory appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coopnet_core.errors import ExportError
from coopnet_core.export.model_card import render_model_card
from coopnet_core.inference.bundle import BUNDLE_FILE, BundleInfo, FileInfo, sha256_of

MODEL_CARD_FILE = "MODEL_CARD.md"


@contextmanager
def new_directory(out_dir: Path) -> Iterator[Path]:
    """Give a temporary directory beside ``out_dir``, which takes its place in the end.

    After an exception nothing is left of it, and what was in ``out_dir`` is still there.

    Args:
        out_dir: Directory of the bundle: a bundle, empty, or not there.

    Yields:
        The directory to write into.

    Raises:
        ExportError: ``out_dir`` is something else than a bundle.
    """
    if out_dir.exists() and not _is_replaceable(out_dir):
        raise ExportError(
            f"{out_dir} exists and is not a bundle: choose another directory, or remove it yourself"
        )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work_dir = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        yield work_dir
        work_dir.chmod(0o755)
        _replace_directory(work_dir, out_dir)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def write_description(info: BundleInfo, directory: Path) -> None:
    """Write the model card and ``bundle.json``."""
    (directory / MODEL_CARD_FILE).write_text(render_model_card(info), encoding="utf-8")
    (directory / BUNDLE_FILE).write_text(
        info.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8"
    )


def describe_file(path: Path) -> FileInfo:
    """Return size and SHA-256 of a file."""
    return FileInfo(sha256=sha256_of(path), size_bytes=path.stat().st_size)


def _is_replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / BUNDLE_FILE).is_file() or not any(path.iterdir()))


def _replace_directory(new: Path, target: Path) -> None:
    """Put ``new`` in the place of ``target``; a failure leaves the old directory there."""
    if not target.exists():
        new.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    try:
        new.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
