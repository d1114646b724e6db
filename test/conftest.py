"""Puts ``test/support`` on the path: ``from tiny_bundle import ...`` works in every test."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
