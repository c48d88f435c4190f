"""Whether one ranking is better than another: differences of the same queries, with intervals and p-values.

Both systems answer the same queries, and a query that is hard for one is hard for the other. So the difference of each
query is resampled, which tells more than two intervals side by side: the paired bootstrap (Sakai, SIGIR 2006) and the
paired randomisation test (Smucker, Allan and Carterette, CIKM 2007). Who compares many systems finds some difference by
chance: Holm's correction (Scandinavian Journal of Statistics 1979) holds the chance of one false finding down.

Letters: Q queries, M columns of differences, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from maxsearch.evaluation.bootstrap import CHUNK_DRAWS, RESAMPLES, bootstrap

# Sums in another order differ in the last digits, and a tie with what was observed has to count.
TIE = 1e-9


@dataclass(frozen=True)
class Difference:
    """A mean difference over queries, its confidence interval, and the two-sided p-value against no difference."""

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """One system less another in one metric.

    Attributes:
      system, against: their names.
      metric: the metric.
      difference: of the means, over the same queries.
      p_corrected: its p-value after Holm's correction over all systems that are compared in this metric.
    """

    system: str
    against: str
    metric: str
    difference: Difference
    p_corrected: float


def compare(
    values: Mapping[str, Mapping[str, Float64[np.ndarray, " Q"] | None]],
    against: str,
    metrics: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compares every other system with one of them, metric by metric.

    Args:
      values: per system and metric, one value per query; None where a system does not have the metric.
      against: the system that the others are compared with.
      metrics: which to compare.
      resamples: of the bootstrap, and of the randomisation test.
      seed: equal seeds give equal results.

    Returns:
      system by system, metric by metric; none for a metric that either of the two does not have.
    """
    base = values[against]
    columns = {
        (system, metric): theirs - ours
        for system, of in values.items()
        for metric in metrics
        if system != against and (theirs := of[metric]) is not None and (ours := base[metric]) is not None
    }
    if not columns:
        return []
    table = np.stack(list(columns.values()), axis=1)
    found = dict(zip(columns, paired_differences(table, resamples=resamples, seed=seed), strict=True))
    corrected: dict[tuple[str, str], float] = {}
    for metric in metrics:
        family = [key for key in columns if key[1] == metric]
        corrected |= zip(family, holm([found[key].p for key in family]), strict=True)
    return [Comparison(key[0], against, key[1], found[key], corrected[key]) for key in columns]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down rule (1979): reject where one is at most the level.

    Args:
      p_values: of all comparisons of one family.
    """
    m, corrected, highest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(m), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (m - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


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
    total = differences.sum(axis=0)
    least = np.abs(total) - TIE * np.abs(differences).sum(axis=0)
    extreme = np.ones(M)
    chunk = max(1, CHUNK_DRAWS // Q)
    for start in range(0, resamples, chunk):
        R = min(chunk, resamples - start)
        kept = rng.integers(0, 2, size=(R, Q), dtype=np.int8).astype(np.float64)
        extreme += (np.abs(2 * (kept @ differences) - total) >= least).sum(axis=0)
    return extreme / (resamples + 1)
