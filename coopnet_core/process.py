"""What this process takes of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def resident_mb() -> float | None:
    """Return the resident memory of this process in MB (10^6 bytes); None outside Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
