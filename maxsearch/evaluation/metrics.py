"""How good a ranking is: nDCG@10, recall@10, recall@100 and MRR, with bootstrap intervals.

nDCG uses the gain 2^grade - 1 and the discount 1/log2(rank + 1). Recall and MRR count a product as relevant from a
chosen grade on (1 unless told otherwise). A query that gets no ranking scores 0. All equal trec_eval's and
ir_measures' figures (nDCG there with the gains spelled out, or with dcg="exp-log2").

Letters: Q queries, K ranks, J judgments, I the best grades kept, R resamples, M columns of values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr")
IDEAL_DEPTH = 10
RESAMPLES = 10_000
CHUNK_DRAWS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Relevance:
    """The judgments of Q queries over one catalogue, ready for look-up.

    Attributes:
      keys: query position * catalogue size + catalogue position of every product with a grade above 0, sorted.
      grades: their grades.
      ideal: per query, the highest grades in descending order, filled up with 0.
      relevant: per query, the number of relevant products.
      catalogue_size: number of products.
      relevant_grade: the lowest grade that counts as relevant.
    """

    keys: Int64[np.ndarray, " J"]
    grades: Int64[np.ndarray, " J"]
    ideal: Int64[np.ndarray, "Q I"]
    relevant: Int64[np.ndarray, " Q"]
    catalogue_size: int
    relevant_grade: int

    @classmethod
    def build(cls, judged: Sequence[Mapping[int, int]], catalogue_size: int, *, relevant_grade: int = 1) -> "Relevance":
        """Packs judgments.

        Args:
          judged: per query, grade per catalogue position.
          catalogue_size: number of products.
          relevant_grade: the lowest grade that counts as relevant, at least 1.
        """
        pairs = sorted(
            (query * catalogue_size + row, grade)
            for query, grades in enumerate(judged)
            for row, grade in grades.items()
            if grade > 0
        )
        ideal = np.zeros((len(judged), IDEAL_DEPTH), dtype=np.int64)
        for query, grades in enumerate(judged):
            best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:IDEAL_DEPTH]
            ideal[query, : len(best)] = best
        return cls(
            keys=np.array([key for key, _ in pairs], dtype=np.int64),
            grades=np.array([grade for _, grade in pairs], dtype=np.int64),
            ideal=ideal,
            relevant=np.array(
                [sum(grade >= relevant_grade for grade in grades.values()) for grades in judged], dtype=np.int64
            ),
            catalogue_size=catalogue_size,
            relevant_grade=relevant_grade,
        )

    def grades_of(self, rows: Int[np.ndarray, "Q K"]) -> Int64[np.ndarray, "Q K"]:
        """Grade of each ranked product; 0 for unjudged ones and where nothing stands (row -1)."""
        if not len(self.keys):
            return np.zeros(rows.shape, dtype=np.int64)
        wanted = np.arange(len(rows), dtype=np.int64)[:, None] * self.catalogue_size + rows
        found = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((rows >= 0) & (self.keys[found] == wanted), self.grades[found], 0)


def ndcg(grades: Int[np.ndarray, "Q K"], ideal: Int[np.ndarray, "Q J"], k: int) -> Float64[np.ndarray, " Q"]:
    """Normalised discounted cumulative gain of the first k ranks, gain 2^grade - 1; 0 where no grade is above 0.

    Args:
      grades: grades of the ranked products, best rank first.
      ideal: the query's highest grades, descending; at least k of them, or all.
      k: cut-off.
    """
    best = _dcg(ideal[:, :k])
    return np.divide(_dcg(grades[:, :k]), best, out=np.zeros(len(grades)), where=best > 0)


def _dcg(grades: Int[np.ndarray, "Q K"]) -> Float64[np.ndarray, " Q"]:
    discounts = 1 / np.log2(np.arange(2, grades.shape[1] + 2))
    return (np.exp2(np.maximum(grades, 0).astype(np.float64)) - 1) @ discounts


def recall(
    grades: Int[np.ndarray, "Q K"], relevant: Int[np.ndarray, " Q"], k: int, *, relevant_grade: int = 1
) -> Float64[np.ndarray, " Q"]:
    """Share of a query's relevant products that stand in the first k ranks; 0 where there are none.

    Args:
      grades: grades of the ranked products.
      relevant: number of relevant products per query.
      k: cut-off.
      relevant_grade: the lowest grade that counts as relevant.
    """
    found = (grades[:, :k] >= relevant_grade).sum(axis=1)
    return np.divide(found, relevant, out=np.zeros(len(grades)), where=relevant > 0)


def reciprocal_rank(grades: Int[np.ndarray, "Q K"], *, relevant_grade: int = 1) -> Float64[np.ndarray, " Q"]:
    """One over the rank of the first relevant product; 0 where none is ranked."""
    if not grades.shape[1]:
        return np.zeros(len(grades))
    hits = grades >= relevant_grade
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1.0), 0.0)


def score(rows: Int[np.ndarray, "Q K"], relevance: Relevance) -> dict[str, Float64[np.ndarray, " Q"]]:
    """Every metric of METRICS per query.

    Args:
      rows: ranked catalogue positions, best first; -1 where nothing stands or what stands is not in the catalogue.
      relevance: the judgments of the same queries.
    """
    grades, least = relevance.grades_of(rows), relevance.relevant_grade
    return {
        "ndcg@10": ndcg(grades, relevance.ideal, 10),
        "recall@10": recall(grades, relevance.relevant, 10, relevant_grade=least),
        "recall@100": recall(grades, relevance.relevant, 100, relevant_grade=least),
        "mrr": reciprocal_rank(grades, relevant_grade=least),
    }


def bootstrap(
    values: Float64[np.ndarray, "Q M"], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """Percentile bootstrap over queries; every column sees the same resamples.

    Args:
      values: one row per query, one column per metric and system; at least one row.
      resamples: number of resamples.
      seed: equal seeds give equal intervals.
      level: share of resampled means inside the interval.

    Returns:
      one interval per column.
    """
    Q, M = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, M))
    chunk = max(1, CHUNK_DRAWS // Q)
    for start in range(0, resamples, chunk):
        R = min(chunk, resamples - start)
        draws = rng.integers(0, Q, size=(R, Q)) + np.arange(R)[:, None] * Q
        counts = np.bincount(draws.ravel(), minlength=R * Q).reshape(R, Q)
        means[start : start + R] = counts @ values / Q
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [
        Interval(mean=float(mean), low=float(bottom), high=float(top))
        for mean, bottom, top in zip(values.mean(axis=0), low, high, strict=True)
    ]
