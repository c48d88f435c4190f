"""What it costs to search the rows of a filter in either way, measured where the search will run.

A scan reads the rows that the filter keeps, or all rows in order where it keeps most; over-fetching asks the index for
more results than are wanted and drops those that the filter excludes. Costs are straight lines through two
measurements each; they only have to be right about which way is cheaper.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32

from maxsearch.serving.filters.vector_table import VectorTable
from maxsearch.serving.nearest import Nearest

SCANNED = (256, 16_384)
FETCHED = (100, 3_000)
REPEATS = 7


@dataclass(frozen=True)
class Costs:
    """Microseconds for one query.

    Attributes:
      scan: of any scan.
      scan_row: of each row that is read by itself.
      block_row: of each row that is read in order with all others.
      fetch: of any search of the index.
      fetch_row: of each result that is asked for.
    """

    scan: float
    scan_row: float
    block_row: float
    fetch: float
    fetch_row: float

    def scanning(self, count: int, total: int) -> float:
        """Reading `count` of `total` rows."""
        return self.scan + (total * self.block_row if in_order(count, total) else count * self.scan_row)

    def fetching(self, count: int) -> float:
        """Asking the index for `count` results."""
        return self.fetch + count * self.fetch_row


def in_order(count: int, total: int) -> bool:
    """Whether a scan of `count` of `total` rows reads all of them in order: gathering so many would take longer.

    A row read in order takes a fourth to a sixth of the time of one that is gathered (docs/filters.md).
    """
    return 5 * count > total


def measure(
    vectors: VectorTable, nearest: Nearest, query: Float32[np.ndarray, " D"], *, repeats: int = REPEATS
) -> Costs:
    """Measures an index; takes some hundred milliseconds.

    Args:
      vectors: the segment's vectors.
      nearest: the search over them.
      query: any unit vector like those that will be searched for.
      repeats: measurements of each; the least counts: other work on the machine only ever adds.
    """
    total = len(vectors)
    rng = np.random.default_rng(0)

    def gather(count: int) -> float:
        # Other rows each time: those of the time before are in the processor's cache.
        samples = iter([np.sort(rng.integers(total, size=count)) for _ in range(repeats + 1)])
        return _least(lambda: vectors.take(next(samples)) @ query, repeats)

    few, many = (min(count, total) for count in SCANNED)
    scan, scan_row = _line((few, gather(few)), (many, gather(many)))
    starts = iter(rng.integers(total - many + 1, size=repeats + 1).tolist())
    block_row = _least(lambda: vectors.span(start := next(starts), start + many) @ query, repeats) / many
    asked = [min(count, total) for count in FETCHED]
    times = [_least(partial(nearest.search, query[None], count), repeats) for count in asked]
    fetch, fetch_row = _line((asked[0], times[0]), (asked[1], times[1]))
    return Costs(scan, scan_row, block_row, fetch, fetch_row)


def _line(first: tuple[int, float], second: tuple[int, float]) -> tuple[float, float]:
    """Intercept and slope through two measurements, neither below 0."""
    if second[0] <= first[0]:
        return 0.0, second[1] / second[0]
    slope = max((second[1] - first[1]) / (second[0] - first[0]), 0.0)
    return max(first[1] - slope * first[0], 0.0), slope


def _least(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6
