"""Shared by all tests: puts ``test/support`` on the path, so ``from tiny_bundle import ...`` works."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
