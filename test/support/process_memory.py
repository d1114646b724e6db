"""Memory of another process, and whether it grows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def anonymous_mb(pid: int) -> float:
    """Return the memory that a process has for itself, in MB.

    Neither files nor the segments of DDS are in it: these have a size of their own, and count as
    they are touched.
    """
    return _status_mb(pid, "RssAnon")


def resident_mb(pid: int) -> float:
    """Return the memory of a process with files and shared memory, in MB."""
    return _status_mb(pid, "VmRSS")


def growth_mb(samples_mb: Sequence[float]) -> float:
    """Return how much more the last quarter of samples has than the second one, by their medians.

    The first quarter is left to what is made once.
    """
    quarter = max(1, len(samples_mb) // 4)
    early, late = samples_mb[quarter : 2 * quarter] or samples_mb, samples_mb[-quarter:]
    return float(np.median(late) - np.median(early))


def _status_mb(pid: int, key: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")
