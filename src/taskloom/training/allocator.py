"""Keeps freed memory with the process, so that a training step does not pay for fresh pages each time."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Serves all blocks from a heap that is never trimmed, for the rest of the process.

    By default glibc gives large blocks back to the kernel when they are freed and takes new pages, zeroed
    one fault at a time, on the next allocation. On a CPU that is up to half of the time of a training step
    with large activations (the OPPORTUNITY network of thesis 002: docs/results.md). The price is a process
    that keeps the memory of its largest step. The command line calls it, as its processes train and end;
    in a program of your own it is yours to call, once, before training.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
