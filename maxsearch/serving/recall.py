"""What a search finds of the true results, and the least work with which ScaNN finds enough of them.

Letters: Q queries, N items, D vector size, K results.
"""

import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.serving.nearest import Nearest, Scores
from maxsearch.serving.scann_index import Effort, ScannNearest
from maxsearch.serving.vectors import StoredVectors

DEPTHS = (10, 100)
"""How many results a search is fitted and judged for."""
FIRST_LEAVES = 8
REORDERED = (100, 300, 1000, 3000)


def recall_of(
    rows: Int64[np.ndarray, "Q R"],
    queries: Float32[np.ndarray, "Q D"],
    vectors: StoredVectors,
    truth: Scores,
    tolerance: float = 1e-5,
) -> float:
    """Share of the true top K that was found, judged by the true scores of what was found.

    Products with equal vectors are interchangeable, so ids are not compared.

    Args:
      rows: what was found, at least K per query, best first; -1 where nothing was.
      queries: the queries.
      vectors: the true vectors.
      truth: the scores of the exact search.
      tolerance: how far two sums of the same products may lie apart.
    """
    k = truth.shape[1]
    reached = 0
    for query, found, best in zip(queries, rows[:, :k], truth, strict=True):
        scores = vectors[np.maximum(found, 0)] @ query
        reached += min(k, int(((scores >= best[-1] - tolerance) & (found >= 0)).sum()))
    return reached / truth.size


def truth_of(vectors: StoredVectors, queries: Float32[np.ndarray, "Q D"]) -> Scores:
    """Scores of the exact search, as deep as the deepest of `DEPTHS`."""
    return vectors.exact().search(queries, min(DEPTHS[-1], len(vectors)))[1]


def fitted(
    nearest: ScannNearest,
    vectors: StoredVectors,
    leaves: int,
    queries: Float32[np.ndarray, "Q D"],
    truth: Scores,
    target: float,
) -> tuple[Effort, ...]:
    """For each of `DEPTHS`, the least work, by steps, that reaches the target; every item where no step does.

    Args:
      nearest: the search.
      vectors: what it searches.
      leaves: how many partitions it has.
      queries: what to ask it.
      truth: `truth_of` its vectors and the queries.
      target: the recall to reach.
    """
    return tuple(_fit(nearest, vectors, leaves, queries, truth[:, :depth], depth, target) for depth in DEPTHS)


def measured(
    nearest: Nearest, true: StoredVectors, queries: Float32[np.ndarray, "Q D"], truth: Scores
) -> dict[str, float]:
    """A search's recall at `DEPTHS`.

    Args:
      nearest: the search.
      true: the vectors by whose scores it is judged.
      queries: what to ask it.
      truth: `truth_of` the true vectors and the queries.
    """
    found = {}
    for depth in DEPTHS:
        best = truth[:, :depth]
        rows, _ = nearest.search(queries, best.shape[1])
        found[f"recall@{depth}"] = round(recall_of(rows, queries, true, best), 4)
    return found


def _fit(
    nearest: ScannNearest,
    vectors: StoredVectors,
    leaves: int,
    queries: Float32[np.ndarray, "Q D"],
    truth: Float32[np.ndarray, "Q K"],
    depth: int,
    target: float,
) -> Effort:
    width = min(FIRST_LEAVES, leaves)
    while True:
        for reordered in REORDERED:
            effort = Effort(depth, width, reordered, 1.0)
            rows, _ = nearest.search_with(queries, truth.shape[1], effort)
            recall = recall_of(rows, queries, vectors, truth)
            if recall >= target:
                return Effort(depth, width, reordered, round(recall, 4))
        if width == leaves:
            return Effort(depth, 0, 0, 1.0)
        width = min(2 * width, leaves)
