"""Keep freed memory in the process, for the next training step.

glibc maps new pages for each large block and unmaps them when the block is freed. A training step frees and allocates
gigabytes, so the kernel clears the same gigabytes of pages at every step: up to half of its time (docs/log.md).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Make malloc take large blocks from its heap too, and never shrink the heap (mallopt(3)).

    This holds for the whole process until it ends. Returns whether the C library accepted it: False, and no change,
    without glibc.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    set_option.argtypes, set_option.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(set_option(M_MMAP_MAX, 0) and set_option(M_TRIM_THRESHOLD, -1))
