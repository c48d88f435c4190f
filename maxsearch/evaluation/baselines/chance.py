"""Chance: what a ranking that knows nothing reaches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from maxsearch.data.records import Product
from maxsearch.evaluation.rankers import Task
from maxsearch.evaluation.retrieval import Ranking


class Chance:
    """Ranks products drawn evenly, and scores each pair with a draw of its own.

    Args:
      seed: equal seeds give equal rankings.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "random"
        self._seed = seed

    def start(self, task: Task) -> None:
        """As `Ranker`."""
        self._task, self._products = task, 0
        self._there = np.zeros(len(task.judged), bool)

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        self._products += len(products)
        self._there[[self._task.judged[p.product_id] for p in products if p.product_id in self._task.judged]] = True

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return random_ranking(len(self._task.queries), self._products, self._task.k, seed=self._seed)

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        drawn = np.random.default_rng((self._seed, 1)).random(len(pairs), dtype=np.float32)
        return np.where(self._there[pairs[:, 1]], drawn, np.float32(np.nan))


def random_ranking(queries: int, products: int, k: int, *, seed: int = 0) -> Ranking:
    """Ranks k products drawn evenly, without repetition, anew for each query.

    Args:
      queries: number of queries.
      products: size of the catalogue.
      k: number of ranks, cut to the size of the catalogue.
      seed: equal seeds give equal rankings.
    """
    k = min(k, products)
    rng = np.random.default_rng(seed)
    rows = np.empty((queries, k), dtype=np.int32)
    for query in range(queries):
        rows[query] = rng.choice(products, size=k, replace=False)
    scores = np.broadcast_to(-np.arange(k, dtype=np.float32), rows.shape)
    return Ranking(rows=rows, scores=scores.copy())
