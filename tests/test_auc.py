import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.evaluation.auc import Pairs, auc_values, with_negatives
from maxsearch.evaluation.bootstrap import bootstrap

SCORES = st.one_of(st.integers(-2, 2).map(float), st.just(float("nan")))


def by_pairs(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Every positive against every negative, one by one; NaN below every number, equal to itself."""
    weights = np.ones(len(scores)) if weights is None else weights
    wins = total = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            a, b = (-np.inf if np.isnan(scores[k]) else scores[k] for k in (i, j))
            wins += weights[i] * weights[j] * ((a > b) + (a == b) / 2)
            total += weights[i] * weights[j]
    return wins / total


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 4)), min_size=2, max_size=25))
def test_mean_over_queries_is_the_auc_of_all_pairs(pairs: list[tuple[float, bool, int]]) -> None:
    scores, positive, query = (np.array(column) for column in zip(*pairs, strict=True))
    if positive.all() or not positive.any():
        positive[0] = not positive[0]
    found = auc_values(scores.astype(np.float32), positive, query, 5)
    assert found.shape == (5,)
    assert found.mean() == pytest.approx(by_pairs(scores, positive), abs=1e-6)


def test_interval_is_near_that_of_drawing_queries_anew() -> None:
    rng = np.random.default_rng(0)
    query = np.repeat(np.arange(40), 12)
    positive = rng.random(480) < 0.4
    # Queries differ in how well they are answered, and in the height of their scores.
    scores = (rng.normal(size=480) + positive * rng.exponential(1.0, 40)[query] + rng.normal(0, 0.5, 40)[query]).round(
        1
    )
    drawn = []
    for _ in range(300):
        counts = np.bincount(rng.integers(0, 40, 40), minlength=40)[query]
        chosen = np.repeat(np.arange(480), counts)
        drawn.append(auc_values(scores[chosen], positive[chosen], query[chosen], 40).mean())
    (interval,) = bootstrap(auc_values(scores, positive, query, 40)[:, None], resamples=2000)
    assert interval.mean == pytest.approx(by_pairs(scores, positive))
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)


def judged(*products: set[int]) -> Pairs:
    pairs = [(query, product) for query, own in enumerate(products) for product in sorted(own)]
    query, product = np.array(pairs, np.int64).T
    return Pairs(query, product, np.ones(len(pairs), np.bool_))


def test_drawn_negatives_are_products_of_other_queries() -> None:
    own = [{0, 1, 2}, {2, 3, 4, 5, 6, 7}, {8}, {0, 1, 2, 3, 4, 5, 6, 7}]
    pairs = with_negatives(judged(*own), seed=0)
    assert pairs.mixed and pairs.positive.sum() == 18
    for query, products in enumerate(own):
        drawn = pairs.product[~pairs.positive & (pairs.query == query)]
        assert len(drawn) == min(len(products), 9 - len(products))
        assert set(drawn.tolist()) <= set(range(9)) - products
    again, other = (with_negatives(judged(*own), seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(pairs.product, again.product)
    assert (pairs.product != other.product).any()


def test_where_every_query_has_every_product_there_is_no_negative() -> None:
    assert not with_negatives(judged({0, 1}, {0, 1}), seed=0).mixed
