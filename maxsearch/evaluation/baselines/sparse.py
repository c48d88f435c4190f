"""Exact ranking by inner product of sparse vectors of words, a bounded number of scores at a time.

Letters: Q queries, N products, V words.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int
from scipy import sparse

from maxsearch.evaluation.retrieval import Ranking

BLOCK = 1 << 22  # sums of a word's weight that one block of queries may take: some 100 MB


def rank(queries: sparse.csr_matrix, weights: sparse.csr_matrix, k: int) -> Ranking:
    """Ranks the products that share a word with a query; equal scores keep the catalogue's order.

    Args:
      queries: weights of the queries' words (Q, V).
      weights: weights of the products' words (N, V), above 0.
      k: number of ranks, cut to the number of products.
    """
    Q, k = queries.shape[0], min(k, weights.shape[0])
    rows, scores = np.full((Q, k), -1, np.int32), np.full((Q, k), -np.inf, np.float32)
    by_word = weights.T.tocsr()
    for start, stop in _blocks(queries, by_word):
        found = queries[start:stop] @ by_word
        for query, (first, last) in enumerate(zip(found.indptr, found.indptr[1:], strict=False), start):
            best = _best(found.indices[first:last], found.data[first:last], k)
            rows[query, : len(best)] = found.indices[first:last][best]
            scores[query, : len(best)] = found.data[first:last][best]
    return Ranking(rows=rows, scores=scores)


def pair_scores(
    queries: sparse.csr_matrix, weights: sparse.csr_matrix, pairs: Int[np.ndarray, "n 2"]
) -> Float32[np.ndarray, " n"]:
    """The score of each (query, row of the weights); NaN where the row is -1."""
    values = np.full(len(pairs), np.nan, np.float32)
    there = np.flatnonzero(pairs[:, 1] >= 0)
    for part in (there[start : start + BLOCK // 64] for start in range(0, len(there), BLOCK // 64)):
        query, product = pairs[part].T
        values[part] = queries[query].multiply(weights[product]).sum(axis=1).A1
    return values


def _blocks(queries: sparse.csr_matrix, by_word: sparse.csr_matrix) -> Iterator[tuple[int, int]]:
    """Runs of queries of at most BLOCK sums each, and of one query at least."""
    products = np.append(np.diff(by_word.indptr)[queries.indices].astype(np.int64), 0)
    done = np.append(0, np.cumsum(products))[queries.indptr]
    start = 0
    while start < queries.shape[0]:
        stop = max(start + 1, int(np.searchsorted(done, done[start] + BLOCK, side="right")) - 1)
        yield start, stop
        start = stop


def _best(positions: Int[np.ndarray, " n"], scores: Float32[np.ndarray, " n"], k: int) -> Int[np.ndarray, " k"]:
    hits = np.arange(len(scores))
    if len(hits) > k:
        least = np.partition(scores, len(hits) - k)[len(hits) - k]
        hits = hits[scores >= least]
    return hits[np.lexsort((positions[hits], -scores[hits]))][:k]
