"""Intervals where queries come in clusters: the captions of one picture, the products of one style.

Queries of a cluster succeed and fail together, so the bootstrap draws clusters, each with all its queries (Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A figure is the sum over queries by their number,
both drawn anew, so that large clusters keep it within its bounds.

Letters: U clusters, M figures, R resamples, n queries.
"""

import numpy as np
from jaxtyping import Float64, Int

from maxsearch.evaluation.bootstrap import CHUNK_DRAWS, RESAMPLES, Interval


def cluster_means(
    sums: Float64[np.ndarray, "U M"], sizes: Float64[np.ndarray, "U M"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float64[np.ndarray, "R M"]:
    """Means over queries when clusters are drawn with replacement.

    Args:
      sums: of each cluster's queries, per figure.
      sizes: the number of each cluster's queries, per figure, at least 1.
      resamples: number of draws.
      seed: equal seeds give equal draws; every figure sees the same ones.
    """
    U, M = sums.shape
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, M))
    chunk = max(1, CHUNK_DRAWS // U)
    for start in range(0, resamples, chunk):
        R = min(chunk, resamples - start)
        draws = rng.integers(0, U, size=(R, U)) + np.arange(R)[:, None] * U
        counts = np.bincount(draws.ravel(), minlength=R * U).reshape(R, U).astype(np.float64)
        means[start : start + R] = (counts @ sums) / (counts @ sizes)
    return means


def cluster_sums(values: Float64[np.ndarray, " n"], cluster: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "U 2"]:
    """The sum and the number of the values of each cluster; clusters are numbered from 0 and none is empty."""
    return np.stack([np.bincount(cluster, values), np.bincount(cluster).astype(np.float64)], axis=1)


def percentile_interval(value: float, draws: Float64[np.ndarray, " R"], *, level: float = 0.95) -> Interval:
    """A figure with the central share of its resampled values."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(mean=float(value), low=float(low), high=float(high))
