"""Freed memory stays with the process, for the next step to use.

glibc gives each large block pages of its own and unmaps them when it is freed. A training step frees and asks for
gigabytes, so the kernel clears the same gigabytes of pages again at each: up to half of a step (docs/log.md).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Have malloc take large blocks from its heap too, and keep the heap as large as it once was (mallopt(3)).

    For the whole process and until it ends. Returns whether the C library took it: others than glibc have their own
    ways and are left alone.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    set_option.argtypes, set_option.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(set_option(M_MMAP_MAX, 0) and set_option(M_TRIM_THRESHOLD, -1))
