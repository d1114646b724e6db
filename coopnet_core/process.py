"""What this process takes of the machine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# Numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def resident_mb() -> float | None:
    """Return the resident memory of this process in MB (10^6 bytes); None outside Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def keep_memory_flat() -> None:
    """Ask glibc not to let the memory of a process that runs for weeks grow in steps.

    By itself it takes ever larger blocks from its heaps, of which every thread may have one, and
    camera images of changing lifetimes leave gaps there. Now blocks from 1 MiB on, such as images,
    go back to the system when they are freed, and threads share two heaps. Elsewhere than with
    glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    # What is smaller comes and goes with each frame: to fetch it anew each time would cost more.
    mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    mallopt(_M_ARENA_MAX, 2)
