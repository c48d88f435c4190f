"""Confidence intervals of means over queries: the percentile bootstrap (Efron, Annals of Statistics 1979).

Letters: Q queries, R resamples, M columns of values.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

RESAMPLES = 10_000
CHUNK_DRAWS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Float64[np.ndarray, "Q M"], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """Percentile bootstrap over queries; every column sees the same resamples.

    Memory: the values, R x M means, and CHUNK_DRAWS draws.

    Args:
      values: one row per query, one column per metric and system; at least one row. NaN where a query is not of the
        column's slice: means are over the others, and so are those of each resample, of whatever size that makes the
        slice. Every column has at least one number.
      resamples: number of resamples.
      seed: equal seeds give equal intervals.
      level: share of resampled means inside the interval.

    Returns:
      one interval per column.
    """
    inside = ~np.isnan(values)
    whole = bool(inside.all())
    table = values if whole else np.where(inside, values, 0.0)
    present = inside.astype(np.float64)
    means = np.empty((resamples, values.shape[1]))
    start = 0
    for counts in resampled(len(values), resamples, seed):
        sums = counts @ table
        sizes = len(values) if whole else counts @ present
        with np.errstate(invalid="ignore"):  # a resample may miss a small slice altogether
            means[start : start + len(counts)] = sums / sizes
        start += len(counts)
    tail = (1 - level) / 2
    low, high = (np.quantile if whole else np.nanquantile)(means, [tail, 1 - tail], axis=0)
    return [
        Interval(mean=float(mean), low=float(bottom), high=float(top))
        for mean, bottom, top in zip(table.sum(axis=0) / present.sum(axis=0), low, high, strict=True)
    ]


def resampled(queries: int, resamples: int, seed: int) -> Iterator[Float64[np.ndarray, "R Q"]]:
    """How often each query is drawn in each resample, in chunks of at most CHUNK_DRAWS draws."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_DRAWS // queries)
    for start in range(0, resamples, chunk):
        R = min(chunk, resamples - start)
        draws = rng.integers(0, queries, size=(R, queries), dtype=np.int32)
        draws += np.arange(0, R * queries, queries, dtype=np.int32)[:, None]
        yield np.bincount(draws.ravel(), minlength=R * queries).reshape(R, queries).astype(np.float64)
