"""How the C library of this process treats memory that is freed."""

import ctypes
import sys

# mallopt(3), malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Makes the C library keep what is freed for what is asked for next, instead of giving it back at once.

    XLA takes the temporaries of every step anew. By default each is fresh memory, whose pages the system clears one by
    one as they are touched: a tenth of a training step on CPU, and more. The price is that the process never shrinks.
    Threads that run already keep the heaps that they have.

    Returns:
      Whether it does so now: it is glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Everything from one heap, which is never trimmed: heaps of other threads are given back whatever the threshold.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_ARENA_MAX: 1}
    return sum(mallopt(name, value) for name, value in settings.items()) == len(settings)
