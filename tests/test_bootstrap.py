import numpy as np
import pytest

from maxsearch.evaluation.bootstrap import bootstrap


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(60, 400))
    inside = [interval.low < 1 < interval.high for interval in bootstrap(samples, resamples=1000)]
    assert 0.88 < np.mean(inside) < 0.97


def test_bootstrap_width_is_that_of_the_normal_interval() -> None:
    values = np.random.default_rng(1).random((1000, 1))
    (interval,) = bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert interval.mean == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_is_repeatable_and_does_not_depend_on_the_other_columns() -> None:
    values = np.random.default_rng(2).random((3000, 2))
    both = bootstrap(values, resamples=2000)
    assert both == bootstrap(values, resamples=2000)
    alone = bootstrap(values[:, 1:], resamples=2000)[0]
    assert (both[1].low, both[1].high) == pytest.approx((alone.low, alone.high))
    assert bootstrap(values, resamples=2000, seed=1) != both


def test_bootstrap_of_one_query() -> None:
    (interval,) = bootstrap(np.array([[0.25]]))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_bootstrap_of_a_slice_is_that_of_its_queries_alone() -> None:
    values = np.random.default_rng(3).random((400, 2))
    inside = np.arange(400) % 4 == 0
    sliced = np.where(inside[:, None], values, np.nan)
    found, alone = bootstrap(sliced), bootstrap(values[inside])
    for one, other in zip(found, alone, strict=True):
        assert one.mean == pytest.approx(other.mean)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.01)


def test_a_slice_of_one_query_that_resamples_often_miss() -> None:
    values = np.full((50, 1), np.nan)
    values[7] = 0.25
    (interval,) = bootstrap(values, resamples=200)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)
