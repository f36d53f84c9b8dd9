# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the C library keeps memory in a process that runs a network on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Have glibc keep the memory of one layer for the next; call it before any thread starts.

    By default it returns blocks of this size to the kernel, which zeroes them again at every layer: measured, 8.4 s of
    21 s of processor time for six LiteMedSAM slices, 0.2 s with this. No other C library is touched.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # No block outside the one heap that all threads share, and that heap never shrinks.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give back to the kernel what was freed and kept: after a model or a volume was let go of."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
