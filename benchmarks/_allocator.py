"""Keeps freed memory with the process, so that a step does not pay for the kernel's fresh pages each time.

By default glibc gives large blocks back on free and takes new pages, zeroed one fault at a time, on the next
allocation. On a CPU that is up to half of the time of a training step on the thesis' OPPORTUNITY network, and
how much of it a step pays depends on what ran before it: networks that take turns would be compared by the
state of the heap instead of by their work.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Serves all blocks from a heap that is never trimmed; returns False where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
