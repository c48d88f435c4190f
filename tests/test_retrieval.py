from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.retrieval import Ranking, TopK, top_k
from maxsearch.serving.nearest import FEW_QUERIES, ExactNearest
from maxsearch.topk import budget
from maxsearch.topk.budget import host_sizes, shard_sizes
from maxsearch.topk.candidates import Candidates

AXES = ("replica", "fsdp", "tensor")
Search = Callable[[np.ndarray, int], TopK]


def no_mesh() -> AbstractContextManager[object]:
    return jax.set_mesh(jax.sharding.Mesh(np.empty((), dtype=object), ()))


def explicit_mesh() -> AbstractContextManager[object]:
    kinds = (jax.sharding.AxisType.Explicit,) * 3
    return jax.set_mesh(jax.make_mesh((2, 2, 2), AXES, axis_types=kinds))


def on_host(queries: np.ndarray, k: int) -> TopK:
    return TopK(queries, k)


def on_devices(queries: np.ndarray, k: int) -> TopK:
    return TopK(queries, k, devices=jax.devices())


both = pytest.mark.parametrize("search", [on_host, on_devices], ids=["host", "8 devices"])


@pytest.fixture(params=[no_mesh, explicit_mesh], ids=["no mesh", "explicit mesh"])
def mesh(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.param():
        yield


def small_blocks(patch: pytest.MonkeyPatch, queries: int, products: int, share: int) -> None:
    patch.setattr(budget, "HOST_BLOCKS", ((queries, products),))
    patch.setattr(budget, "DEVICE_BLOCKS", ((queries, share),))


def reference(queries: np.ndarray, products: np.ndarray, k: int) -> np.ndarray:
    scores = queries @ products.T
    order = [np.lexsort((np.arange(len(products)), -row))[:k] for row in scores]
    return np.array(order, dtype=np.int32).reshape(len(queries), min(k, len(products)))


def whole_numbers(rng: np.random.Generator, rows: int, dim: int = 8) -> np.ndarray:
    """Vectors whose inner products are exact, so that ties are ties on every device."""
    return rng.integers(-2, 3, size=(rows, dim)).astype(np.float32)


def blocks(vectors: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size]


def ranked(best: TopK, products: np.ndarray, size: int) -> Ranking:
    for block in blocks(products, size):
        best.add(block)
    return best.ranking()


def equal(ranking: Ranking, queries: np.ndarray, products: np.ndarray, k: int) -> None:
    wanted = reference(queries, products, k)
    np.testing.assert_array_equal(ranking.rows, wanted)
    np.testing.assert_array_equal(ranking.scores, np.take_along_axis(queries @ products.T, wanted, axis=1))


@both
@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_many_ties_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, search: Search, size: int) -> None:
    small_blocks(monkeypatch, queries=4, products=32, share=4)
    rng = np.random.default_rng(size)
    queries, products = whole_numbers(rng, 10), whole_numbers(rng, 301)
    equal(ranked(search(queries, 20), products, size), queries, products, 20)


@both
@pytest.mark.usefixtures("mesh")
def test_real_sizes_while_the_device_lags_behind(search: Search) -> None:
    rng = np.random.default_rng(0)
    queries, products = whole_numbers(rng, 1100), whole_numbers(rng, 9000)
    several = [search(queries, 100) for _ in range(2)]
    for block in blocks(products, 256):
        for best in several:
            best.add(block)
        block[:] = 100  # what was added is the caller's again
    products = whole_numbers(np.random.default_rng(0), 1100 + 9000)[1100:]
    for best in several:
        equal(best.ranking(), queries, products, 100)


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(0, 5),
    products=st.integers(1, 40),
    size=st.integers(1, 50),
    k=st.integers(1, 60),
    copies=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_sizes(queries: int, products: int, size: int, k: int, copies: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, p = whole_numbers(rng, queries), whole_numbers(rng, products)
    if copies:
        p = p[rng.integers(3, size=products) % products]
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, queries=4, products=16, share=2)
        for search in (on_host, on_devices):
            equal(ranked(search(q, k), p, size), q, p, k)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_candidates_keep_the_best_however_the_scores_come(data: st.DataObject) -> None:
    """Rising scores, where all are candidates for ever, and few values, where most are ties."""
    seed, k, spare = (data.draw(st.integers(*span)) for span in ((0, 999), (1, 9), (1, 6)))
    rng = np.random.default_rng(seed)
    queries, groups, count = 5, data.draw(st.sampled_from([1, 2, 8])), data.draw(st.integers(1, 200))
    values = data.draw(st.sampled_from([2, 5, 1000]))
    scores = rng.integers(-values, values, size=(queries, count)).astype(np.float32)
    rising = data.draw(st.integers(0, queries))
    scores[:rising] = np.sort(scores[:rising], axis=1)
    candidates, width = Candidates(queries, k, spare), 16
    for start in range(0, count, width):
        block = np.zeros((queries, width), np.float32)
        there = min(width, count - start)
        block[:, :there] = scores[:, start : start + there]
        peaks = block.reshape(queries, width // groups, groups).max(axis=1)
        candidates.add(block, peaks, start, there)
    ranking = candidates.ranking(min(k, count))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ranking.rows, order)
    np.testing.assert_array_equal(ranking.scores, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize("rising", [1, 64])
def test_scores_that_rise_all_along_for_some_queries_or_for_all(rising: int) -> None:
    rng = np.random.default_rng(1)
    products = whole_numbers(rng, 12_000, 4)
    products[:, 0] = np.arange(12_000) // 3
    queries = whole_numbers(rng, 64, 4)
    queries[:, 0] = 0
    queries[:rising, 0] = 8
    equal(ranked(on_host(queries, 30), products, 5000), queries, products, 30)


@both
def test_zero_of_either_sign_is_one_score(search: Search) -> None:
    products = np.array([[-0.0, 0], [0.0, 0], [-0.0, 0], [1, 0]], dtype=np.float32)
    assert ranked(search(np.ones((1, 2), np.float32), 4), products, 4).rows.tolist() == [[3, 0, 1, 2]]


@both
@pytest.mark.parametrize("width", [96, 101])
def test_equal_products_far_apart_keep_their_order(search: Search, width: int) -> None:
    rng = np.random.default_rng(3)
    vector = rng.standard_normal(width).astype(np.float32)
    products = rng.standard_normal((6000, width)).astype(np.float32) * 0.01
    twins = [5, 700, 4095, 4096, 5999]
    products[twins] = vector
    ranking = ranked(search(vector[None], 5), products, 250)
    assert ranking.rows[0].tolist() == twins
    assert len(set(ranking.scores[0].tolist())) == 1


@both
def test_close_to_double_precision(search: Search) -> None:
    rng = np.random.default_rng(4)
    queries, products = (rng.standard_normal((n, 128)).astype(np.float32) for n in (20, 5000))
    ranking = ranked(search(queries, 50), products, 512)
    exact = np.take_along_axis(queries.astype(float) @ products.astype(float).T, ranking.rows, axis=1)
    np.testing.assert_allclose(ranking.scores, exact, atol=1e-4)


def test_a_ranking_in_between_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    queries, products = whole_numbers(rng, 3), whole_numbers(rng, 50)
    best = TopK(queries, 7)
    best.add(products[:20])
    equal(best.ranking(), queries, products[:20], 7)
    best.add(products[20:])
    equal(best.ranking(), queries, products, 7)
    assert top_k(queries, [products], 7).rows.tolist() == best.ranking().rows.tolist()


def test_sizes_shrink_with_the_memory_that_is_given() -> None:
    assert host_sizes(10_000, 256, 100, None) == host_sizes(10_000, 256, 100, 1 << 40)
    at_ease, tight = (host_sizes(10_000, 256, 100, megabytes * 10**6) for megabytes in (100, 40))
    assert (at_ease.queries, at_ease.products) == (512, 4096)
    assert tight.queries * tight.products < 512 * 4096
    assert shard_sizes(10_000, 256, 100, 10**8).products < shard_sizes(10_000, 256, 100, None).products
    assert host_sizes(3, 8, 5, None).queries == 4


def test_memory_that_is_too_little_is_refused_with_what_would_do() -> None:
    queries = np.ones((2000, 32), np.float32)
    with pytest.raises(UsageError, match=r"^1 MB are too little for an exact search of 2,000 queries") as e:
        TopK(queries, 100, memory=10**6)
    enough = int(str(e.value).split("--search-memory must be ")[1].split(" MB")[0])
    TopK(queries, 100, memory=(enough + 1) * 10**6)


def test_little_memory_finds_the_same() -> None:
    rng = np.random.default_rng(6)
    queries, products = whole_numbers(rng, 300), whole_numbers(rng, 3000)
    equal(top_k(queries, blocks(products, 999), 50, memory=1_500_000), queries, products, 50)


def test_the_search_of_an_index_gives_the_same_for_few_queries_and_for_many() -> None:
    rng = np.random.default_rng(7)
    queries, vectors = whole_numbers(rng, FEW_QUERIES + 1), whole_numbers(rng, 70)
    for k in (20, 75):
        many, few = (ExactNearest(vectors).search(queries[first:], k) for first in (0, 1))
        for all_of_them, some in zip(many, few, strict=True):
            assert all_of_them.dtype == some.dtype
            np.testing.assert_array_equal(all_of_them[1:], some)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(bad: float) -> None:
    products = np.ones((300, 4), np.float32)
    products[260, 2] = bad
    with pytest.raises(MaxsearchError, match="product 261 has a vector with NaN or infinity"):
        top_k(np.ones((1, 4), np.float32), blocks(products, 256), 3)
    with pytest.raises(MaxsearchError, match="query 1 has a vector with NaN or infinity"):
        TopK(np.full((1, 4), bad, np.float32), 3)
