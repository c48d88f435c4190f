"""Nearest neighbours by inner product: the protocol, and the exact search that every faster one is checked against.

Letters: Q queries, N items, D vector size, K results.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.topk import top_k

SCORES_AT_ONCE = 1 << 24  # 64 MiB of float32
FEW_QUERIES = 32
"""Up to here NumPy alone is faster: it reads the vectors in place, where blocks are copied."""
BLOCK = 1 << 16  # items handed over at a time, read from disk where they are mapped

Rows = Int64[np.ndarray, "Q K"]
Scores = Float32[np.ndarray, "Q K"]


@runtime_checkable
class Nearest(Protocol):
    """Finds the items with the largest inner product."""

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """Finds each query's best items, best first; equal scores are ordered by row.

        Args:
          queries: finite vectors.
          k: how many, at least 1.

        Returns:
          Rows and scores; row -1 and score -inf where fewer than `k` items were found.
        """
        ...


class ExactNearest:
    """Scores every item."""

    def __init__(self, vectors: Float32[np.ndarray, "N D"]) -> None:
        self._vectors = vectors

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """See `Nearest`; at most `SCORES_AT_ONCE` scores, or one query's, are held at a time."""
        rows, scores = no_results(len(queries), k)
        if len(queries) > FEW_QUERIES:
            best = top_k(queries, self._blocks(), k)
            rows[:, : best.rows.shape[1]], scores[:, : best.rows.shape[1]] = best.rows, best.scores
            return rows, scores
        block = max(1, SCORES_AT_ONCE // len(self._vectors))
        for start in range(0, len(queries), block):
            for i, found in enumerate(queries[start : start + block] @ self._vectors.T, start):
                near = largest(found, k)
                rows[i, : len(near)], scores[i, : len(near)] = near, found[near]
        return rows, scores

    def _blocks(self) -> Iterator[Float32[np.ndarray, "n D"]]:
        return (self._vectors[start : start + BLOCK] for start in range(0, len(self._vectors), BLOCK))


def largest(scores: Float32[np.ndarray, " N"], k: int) -> Int64[np.ndarray, " K"]:
    """Rows of the `k` largest scores, or of all when there are fewer, best first; equal scores by row."""
    candidates = np.arange(len(scores))
    if k < len(scores):
        # All rows that tie with the k-th stay candidates: a partition alone would pick among them at random.
        candidates = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


def no_results(queries: int, k: int) -> tuple[Rows, Scores]:
    """Rows of -1 and scores of -inf, to be filled."""
    return np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32)
