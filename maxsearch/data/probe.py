"""How many batches are worth preparing ahead, found by preparing a few."""

import math
import time
from collections.abc import Callable, Mapping

import numpy as np

PROBES = 4
LEAST, MOST = 2, 16
MEMORY = 2**30  # bytes of batches that a process holds ahead at most


def probe_prefetch(load: Callable[[int], Mapping[str, np.ndarray]], batch: int) -> int:
    """Batches that a process should hold ahead: as many as are used up while one takes the longest.

    A stream that keeps up on average starves its chips when single batches take longer than others: large pictures,
    a cold disk. Of some batches in a row, the slowest is taken to be twice as slow again, at an average pace of use.
    The first is not counted, since it opens files and fills caches.

    Args:
      load: prepares a batch by its number.
      batch: the first to be prepared.

    Returns:
      From 2 to 16, fewer when the batches would need more than 1 GiB, but 1 at least.
    """
    seconds, size = [], 1
    for number in range(PROBES + 1):
        started = time.perf_counter()
        loaded = load(batch + number)
        seconds.append(time.perf_counter() - started)
        size = sum(array.nbytes for array in loaded.values())
    return batches_ahead(seconds[1:], size)


def batches_ahead(seconds: list[float], size: int) -> int:
    """What `probe_prefetch` gives when batches of `size` bytes took these times."""
    wanted = math.ceil(2 * max(seconds) * len(seconds) / max(sum(seconds), 1e-9))
    return max(min(max(wanted, LEAST), MOST, MEMORY // max(size, 1)), 1)
