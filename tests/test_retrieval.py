from collections.abc import Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.errors import MaxsearchError
from maxsearch.evaluation import retrieval
from maxsearch.evaluation.retrieval import Ranking, TopK, top_k

AXES = ("replica", "fsdp", "tensor")


def no_mesh() -> AbstractContextManager[object]:
    return jax.set_mesh(jax.sharding.Mesh(np.empty((), dtype=object), ()))


def explicit_mesh() -> AbstractContextManager[object]:
    kinds = (jax.sharding.AxisType.Explicit,) * 3
    return jax.set_mesh(jax.make_mesh((1, 1, 1), AXES, axis_types=kinds, devices=jax.devices()[:1]))


@pytest.fixture(params=[no_mesh, explicit_mesh], ids=["no mesh", "explicit mesh"])
def mesh(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.param():
        yield


def reference(queries: np.ndarray, products: np.ndarray, k: int) -> np.ndarray:
    scores = queries @ products.T
    order = [np.lexsort((np.arange(len(products)), -row))[:k] for row in scores]
    return np.array(order, dtype=np.int32).reshape(len(queries), min(k, len(products)))


def whole_numbers(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Vectors whose inner products are exact, so that ties are ties on every device."""
    return rng.integers(-2, 3, size=(rows, 8)).astype(np.float32)


def blocks(vectors: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size]


def equal(ranking: Ranking, queries: np.ndarray, products: np.ndarray, k: int) -> None:
    wanted = reference(queries, products, k)
    np.testing.assert_array_equal(ranking.rows, wanted)
    np.testing.assert_array_equal(ranking.scores, np.take_along_axis(queries @ products.T, wanted, axis=1))


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_many_ties_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(retrieval, "PRODUCT_BLOCK", 32)
    monkeypatch.setattr(retrieval, "QUERY_BLOCK", 4)
    rng = np.random.default_rng(size)
    queries, products = whole_numbers(rng, 10), whole_numbers(rng, 301)
    equal(top_k(queries, blocks(products, size), 20), queries, products, 20)


@pytest.mark.usefixtures("mesh")
def test_real_sizes_while_the_device_lags_behind() -> None:
    rng = np.random.default_rng(0)
    queries, products = whole_numbers(rng, 1100), whole_numbers(rng, 9000)
    several = [TopK(queries, 100) for _ in range(3)]
    for block in blocks(products, 256):
        for best in several:
            best.add(block)
    for best in several:
        equal(best.ranking(), queries, products, 100)


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(0, 5),
    products=st.integers(1, 40),
    size=st.integers(1, 50),
    k=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_any_sizes(queries: int, products: int, size: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, p = whole_numbers(rng, queries), whole_numbers(rng, products)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "PRODUCT_BLOCK", 16)
        patch.setattr(retrieval, "QUERY_BLOCK", 4)
        equal(top_k(q, blocks(p, size), k), q, p, k)


def test_zero_of_either_sign_is_one_score() -> None:
    products = np.array([[-0.0, 0], [0.0, 0], [-0.0, 0], [1, 0]], dtype=np.float32)
    assert top_k(np.ones((1, 2), np.float32), [products], 4).rows.tolist() == [[3, 0, 1, 2]]


def test_equal_products_far_apart_keep_their_order() -> None:
    rng = np.random.default_rng(3)
    vector = rng.standard_normal(96).astype(np.float32)
    products = rng.standard_normal((6000, 96)).astype(np.float32) * 0.01
    twins = [5, 700, 4095, 4096, 5999]
    products[twins] = vector
    ranking = top_k(vector[None], blocks(products, 250), 5)
    assert ranking.rows[0].tolist() == twins
    assert len(set(ranking.scores[0].tolist())) == 1


def test_close_to_double_precision() -> None:
    rng = np.random.default_rng(4)
    queries, products = (rng.standard_normal((n, 128)).astype(np.float32) for n in (20, 5000))
    ranking = top_k(queries, blocks(products, 512), 50)
    exact = np.take_along_axis(queries.astype(float) @ products.astype(float).T, ranking.rows, axis=1)
    np.testing.assert_allclose(ranking.scores, exact, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(bad: float) -> None:
    products = np.ones((300, 4), np.float32)
    products[260, 2] = bad
    with pytest.raises(MaxsearchError, match="product 261 has a vector with NaN or infinity"):
        top_k(np.ones((1, 4), np.float32), blocks(products, 256), 3)
    with pytest.raises(MaxsearchError, match="query 1 has a vector with NaN or infinity"):
        TopK(np.full((1, 4), bad, np.float32), 3)
