"""What may still be among the K best products of each query, while blocks of scores pass.

Each query keeps K + `spare` keys and a threshold: its K-th best score when its keys were last cut down to K. What does
not beat the threshold is never looked at again, and once some blocks have passed hardly anything does.

Letters: Q queries, K ranks kept, N products of a block, W groups of a block.
"""

import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.topk.ranking import EMPTY, Ranking, keys_of, ranking_of, scores_of

DENSE_KEYS = 1 << 17
"""How many keys are made at once where whole rows of scores are taken: 1 MiB."""


class Candidates:
    """The candidates of some queries.

    Args:
      queries: number of queries.
      k: ranks kept.
      spare: how many more keys a query collects before they are cut down to K.
    """

    def __init__(self, queries: int, k: int, spare: int) -> None:
        self._k, self._spare = k, spare
        self._keys = np.full((queries, k + spare), EMPTY, dtype=np.int64)
        self._filled = np.zeros(queries, dtype=np.int64)
        self.threshold = np.full(queries, -np.inf, dtype=np.float32)

    def add(
        self, scores: Float32[np.ndarray, "Q N"], peaks: Float32[np.ndarray, "Q W"], start: int, count: int
    ) -> None:
        """Takes the scores of a block of products.

        Args:
          scores: of every query and product of the block.
          peaks: the largest score of each group of products: group w holds the products w, w + W, w + 2 W, ...
          start: catalogue position of the block's first product.
          count: how many products of the block are there; the scores behind them do not count.
        """
        groups = peaks.shape[1]
        query, group = np.divmod(np.flatnonzero(peaks > self.threshold[:, None]), groups)
        if len(query) * 4 > peaks.size:
            self._take_all(np.arange(len(scores)), scores[:, :count], start)
            return
        members = group[:, None] + np.arange(0, scores.shape[1], groups)
        near = scores[query[:, None], members]
        chosen = np.flatnonzero(near > self.threshold[query][:, None])
        query, product, value = query[chosen // near.shape[1]], members.ravel()[chosen], near.ravel()[chosen]
        if count < scores.shape[1]:
            there = product < count
            query, product, value = query[there], product[there], value[there]
        fresh = np.bincount(query, minlength=len(scores))
        if fresh.max(initial=0) > self._spare:
            crowded = fresh > self._spare
            self._take_all(np.flatnonzero(crowded), scores[:, :count], start)
            left = ~crowded[query]
            query, product, value = query[left], product[left], value[left]
            fresh[crowded] = 0
        self._append(query, keys_of(value, product + start), fresh)

    def ranking(self, k: int) -> Ranking:
        """The best `k` of each query, at most K."""
        return ranking_of(self._keys, k)

    def _append(self, query: Int64[np.ndarray, " C"], keys: Int64[np.ndarray, " C"], fresh: np.ndarray) -> None:
        """Appends keys, ordered by query, `fresh` of each one and at most `spare`."""
        full = np.flatnonzero(self._filled + fresh > self._keys.shape[1])
        if len(full):
            self._settle(full, self._keys[full])
        before = np.cumsum(fresh) - fresh
        place = np.arange(len(query)) + (self._filled - before)[query]
        self._keys[query, place] = keys
        self._filled += fresh

    def _take_all(self, queries: Int64[np.ndarray, " C"], scores: Float32[np.ndarray, "Q N"], start: int) -> None:
        """Takes whole rows of scores, a few queries at a time: where most are candidates, picking costs more."""
        rows = np.arange(start, start + scores.shape[1])
        at_once = max(1, DENSE_KEYS // (len(rows) + self._keys.shape[1]))
        for part in (queries[i : i + at_once] for i in range(0, len(queries), at_once)):
            self._settle(part, np.concatenate([self._keys[part], keys_of(scores[part], rows)], axis=1))

    def _settle(self, queries: Int64[np.ndarray, " C"], keys: Int64[np.ndarray, "C M"]) -> None:
        """Keeps the K best of these keys for these queries."""
        cut = keys.shape[1] - self._k
        keys.partition(cut, axis=1)
        self._keys[queries, : self._k] = keys[:, cut:]
        self._keys[queries, self._k :] = EMPTY
        self._filled[queries] = self._k
        self.threshold[queries] = scores_of(keys[:, cut])
