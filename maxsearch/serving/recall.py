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


def fitted(
    nearest: ScannNearest,
    vectors: StoredVectors,
    leaves: int,
    queries: Float32[np.ndarray, "Q D"],
    target: float,
) -> tuple[Effort, ...]:
    """For each of `DEPTHS`, the least work, by steps, that reaches the target; every item where no step does."""
    efforts = []
    for depth in DEPTHS:
        truth = vectors.exact().search(queries, min(depth, len(vectors)))[1]
        efforts.append(_fit(nearest, vectors, leaves, queries, truth, depth, target))
    return tuple(efforts)


def measured(nearest: Nearest, true: StoredVectors, queries: Float32[np.ndarray, "Q D"]) -> dict[str, float]:
    """A search's recall at `DEPTHS`, against the exact search of the true vectors."""
    found = {}
    for depth in (min(depth, len(true)) for depth in DEPTHS):
        found[depth] = recall_of(
            nearest.search(queries, depth)[0], queries, true, true.exact().search(queries, depth)[1]
        )
    return {f"recall@{depth}": round(found[min(depth, len(true))], 4) for depth in DEPTHS}


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
