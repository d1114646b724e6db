"""Public data for tests that want real files; the tests are skipped where they are not at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data(name: str) -> Path:
    """Return a folder below ``$COOPNET_DATA``; skips the test where it is missing."""
    folder = Path(os.environ.get("COOPNET_DATA", "")) / name
    if "COOPNET_DATA" not in os.environ or not folder.exists():
        pytest.skip(f"{name} is not at hand: COOPNET_DATA names no folder that holds it")
    return folder
