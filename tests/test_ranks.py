"""Exact ranks and clustered intervals beside plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.evaluation import ranks
from maxsearch.evaluation.bootstrap import bootstrap
from maxsearch.evaluation.clusters import cluster_means, cluster_sums, percentile_interval
from maxsearch.evaluation.ranks import best_ranks


def by_sorting(queries: np.ndarray, items: np.ndarray, relevant: np.ndarray, skipped: np.ndarray) -> list[int]:
    found = []
    for query, vector in enumerate(queries):
        scores = [sum(float(a) * float(b) for a, b in zip(vector, item, strict=True)) for item in items]
        order = sorted((-score, row) for row, score in enumerate(scores) if row != skipped[query])
        wanted = {item for asked, item in relevant if asked == query}
        found.append(next(rank for rank, (_, row) in enumerate(order, start=1) if row in wanted))
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 11), st.integers(0, 10**6))
def test_ranks_are_those_of_sorting(Q: int, N: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that scores tie often, and exactly.
    queries, items = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (Q, N))
    skipped = rng.integers(-1, N, Q)
    first = (np.maximum(skipped, 0) + rng.integers(1, N, Q)) % N
    more = np.stack([rng.integers(0, Q, 5), rng.integers(0, N, 5)], axis=1)
    relevant = np.concatenate([np.stack([np.arange(Q), first], axis=1), more[skipped[more[:, 0]] != more[:, 1]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "QUERY_BLOCK", 4)
        patch.setattr(ranks, "ITEM_BLOCK", 4)
        patch.setattr(ranks, "SMALLEST_ROOM", 2)
        found = best_ranks(queries, items, relevant, skipped=skipped)
    assert found.tolist() == by_sorting(queries, items, relevant, skipped)


def test_equal_vectors_rank_by_position_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = np.random.default_rng(0).normal(size=(1, 37)).astype(np.float32)
    items = np.repeat(vector, 300, axis=0)
    relevant = np.stack([np.arange(5), np.arange(5) * 70], axis=1)
    for block in (4096, 64):
        monkeypatch.setattr(ranks, "ITEM_BLOCK", block)
        assert best_ranks(np.repeat(vector, 5, axis=0), items, relevant).tolist() == [1, 71, 141, 211, 281]


def test_clusters_of_one_size_are_resampled_as_queries_are() -> None:
    values = np.random.default_rng(0).random((40, 2))
    draws = cluster_means(values * 3, np.full((40, 2), 3.0), seed=5)
    for column, wanted in enumerate(bootstrap(values, seed=5)):
        found = percentile_interval(values[:, column].mean(), draws[:, column])
        assert (found.mean, found.low, found.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))


def test_a_large_cluster_widens_the_interval_and_keeps_it_a_share() -> None:
    cluster = np.repeat(np.arange(11), [90, *[1] * 10])
    values = (cluster == 0).astype(np.float64)
    parts = cluster_sums(values, cluster)
    assert parts[:2].tolist() == [[90, 90], [0, 1]]
    draws = cluster_means(parts[:, :1], parts[:, 1:], seed=0)[:, 0]
    found = percentile_interval(values.mean(), draws)
    assert found.low == 0 and 0.9 < found.high <= 1 and found.mean == 0.9
