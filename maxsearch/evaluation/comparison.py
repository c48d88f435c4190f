"""Whether one ranking is better than another: differences of the same queries, with intervals and p-values.

Both systems answer the same queries, and a query that is hard for one is hard for the other. So the difference of each
query is resampled, which tells more than two intervals side by side: the paired bootstrap (Sakai, SIGIR 2006) and the
paired randomisation test (Smucker, Allan and Carterette, CIKM 2007).

Letters: Q queries, M columns of differences, R resamples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from maxsearch.evaluation.metrics import CHUNK_DRAWS, RESAMPLES, bootstrap

# Sums in another order differ in the last digits, and a tie with what was observed has to count.
TIE = 1e-9


@dataclass(frozen=True)
class Difference:
    """A mean difference over queries, its confidence interval, and the two-sided p-value against no difference."""

    mean: float
    low: float
    high: float
    p: float


def paired_differences(
    differences: Float64[np.ndarray, "Q M"], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> list[Difference]:
    """The mean of every column with its paired bootstrap interval and p-value.

    What varies in both is the draw of queries. Where a difference is a mean over seeds, the seeds stand as they are:
    other seeds may move it further than the interval says.

    Args:
      differences: one value per query; per column, one pair of systems and one metric. At least one row.
      resamples: of the bootstrap, and of the randomisation test.
      seed: equal seeds give equal results.
      level: share of resampled means inside the interval.

    Returns:
      one difference per column.
    """
    intervals = bootstrap(differences, resamples=resamples, seed=seed, level=level)
    p_values = randomisation(differences, resamples=resamples, seed=seed)
    return [
        Difference(interval.mean, interval.low, interval.high, float(p))
        for interval, p in zip(intervals, p_values, strict=True)
    ]


def randomisation(
    differences: Float64[np.ndarray, "Q M"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float64[np.ndarray, " M"]:
    """Two-sided p-values: how often a mean is as far from 0 when each query's sign is drawn anew.

    The observed signs count as one of the draws, so that no p-value is below 1 / (resamples + 1).

    Args:
      differences: one row per query, one column per pair of systems and metric; every column sees the same signs.
      resamples: number of draws.
      seed: equal seeds give equal values.
    """
    Q, M = differences.shape
    rng = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    least = observed - TIE * np.abs(differences).sum(axis=0)
    extreme = np.ones(M)
    chunk = max(1, CHUNK_DRAWS // Q)
    for start in range(0, resamples, chunk):
        R = min(chunk, resamples - start)
        signs = rng.integers(0, 2, size=(R, Q), dtype=np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ differences) >= least).sum(axis=0)
    return extreme / (resamples + 1)
