"""What it costs to search the rows of a filter in either way, measured where the search will run.

A scan reads the rows that the filter keeps, or all rows in order where it keeps most; over-fetching asks the index for
more results than are wanted and drops those that the filter excludes. Costs are straight lines through two
measurements each; they only have to be right about which way is cheaper. An index that was tuned for its first hundred
results may find far fewer of the true next thousands, so it is also measured how deep it can be asked.

Letters: Q queries, N rows, D vector size.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from jaxtyping import Float32

from maxsearch.serving.filters.vector_table import VectorTable
from maxsearch.serving.nearest import Nearest

SCANNED = (256, 16_384)
FETCHED = (100, 3_000)
REPEATS = 7
DEPTHS = (100, 400, 1600, 6400)
DEEP_RECALL = 0.97
SPAN = 65_536
"""Rows whose exact scores are computed at a time."""
TIE = 1e-5
"""Scores that differ by less count as equal: equal vectors can stand for one another."""


@dataclass(frozen=True)
class Costs:
    """Microseconds for one query.

    Attributes:
      scan: of any scan.
      scan_row: of each row that is read by itself.
      block_row: of each row that is read in order with all others.
      fetch: of any search of the index.
      fetch_row: of each result that is asked for.
      depth: the most results that the index may be asked for on a filter's account, so that it misses little.
    """

    scan: float
    scan_row: float
    block_row: float
    fetch: float
    fetch_row: float
    depth: int

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
    vectors: VectorTable, nearest: Nearest, queries: Float32[np.ndarray, "Q D"], *, repeats: int = REPEATS
) -> Costs:
    """Measures an index; takes about a second for a million vectors and 20 queries.

    Args:
      vectors: the segment's vectors, at least one.
      nearest: the search over them.
      queries: some unit vectors like those that will be searched for, at least one.
      repeats: measurements of each; the least counts: other work on the machine only ever adds.
    """
    query = queries[0]
    total = len(vectors)
    rng = np.random.default_rng(0)

    def gather(count: int) -> float:
        # Other rows each time, as other queries below: those of the time before are in the processor's cache.
        samples = iter([np.sort(rng.integers(total, size=count)) for _ in range(repeats + 1)])
        return _least(lambda: vectors.take(next(samples)) @ query, repeats)

    few, many = (min(count, total) for count in SCANNED)
    scan, scan_row = _line((few, gather(few)), (many, gather(many)))
    starts = iter(rng.integers(total - many + 1, size=repeats + 1).tolist())
    block_row = _least(lambda: vectors.span(start := next(starts), start + many) @ query, repeats) / many
    asked = [min(count, total) for count in FETCHED]
    turns = cycle(queries)
    times = [_least(partial(_ask, nearest, turns, count), repeats) for count in asked]
    fetch, fetch_row = _line((asked[0], times[0]), (asked[1], times[1]))
    return Costs(scan, scan_row, block_row, fetch, fetch_row, trusted_depth(vectors, nearest, queries))


def trusted_depth(vectors: VectorTable, nearest: Nearest, queries: Float32[np.ndarray, "Q D"]) -> int:
    """The most of DEPTHS for which recall is DEEP_RECALL, or about what it is for the first hundred; N if for all."""
    total = len(vectors)
    scores = np.concatenate([queries @ vectors.span(at, at + SPAN).T for at in range(0, total, SPAN)], axis=1)
    trusted, wanted = min(DEPTHS[0], total), DEEP_RECALL
    for depth in DEPTHS:
        if depth >= total:
            return total
        least = np.partition(scores, -depth, axis=1)[:, -depth, None]
        found = float((nearest.search(queries, depth)[1] >= least - TIE).sum(axis=1).clip(max=depth).mean()) / depth
        if depth == DEPTHS[0]:
            wanted = min(wanted, found - 0.01)
        if found < wanted:
            return trusted
        trusted = depth
    return total


def _ask(nearest: Nearest, turns: Iterator[Float32[np.ndarray, " D"]], count: int) -> None:
    nearest.search(next(turns)[None], count)


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
