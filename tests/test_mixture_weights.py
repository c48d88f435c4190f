"""What --data.mixture says, and whose turn each draw is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import DataConfig
from maxsearch.config.mixture import parse_mixture, segments
from maxsearch.data.mixtures.turns import BLOCK, STAIRS, Segment, Turns
from maxsearch.errors import UsageError


def turns(*words: str, batch: int = 1) -> Turns:
    found = segments(parse_mixture(words))
    return Turns([Segment(step * batch, tuple(a.values()), tuple(b.values())) for step, a, b in found])


def counts(schedule: Turns, start: int, end: int) -> list[int]:
    return np.bincount(schedule.of(range(start, end))[0], minlength=2).tolist()


def test_weights_become_shares_between_points():
    assert segments(parse_mixture(["a=3", "b=1"])) == [(0, {"a": 0.75, "b": 0.25}, {"a": 0.75, "b": 0.25})]
    first, second, last = segments(parse_mixture(["a=0.9@10,0.5@20", "b=0.1"]))
    assert (first[0], second[0], last[0]) == (0, 10, 20)
    assert first[1] == first[2] == second[1] == {"a": 0.9, "b": 0.1}
    assert second[2] == last[1] == last[2] == pytest.approx({"a": 5 / 6, "b": 1 / 6})
    jump = segments(parse_mixture(["a=1@0,1@5,0@5", "b=1"]))
    assert [(step, low["a"], high["a"]) for step, low, high in jump] == [(0, 0.5, 0.5), (5, 0.0, 0.0)]
    # A weight has a value where only another one has a point.
    assert segments(parse_mixture(["a=0@0,4@8", "b=1@0,1@4,1@8"]))[1][1] == pytest.approx({"a": 2 / 3, "b": 1 / 3})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shop"], "'shop' is not of the form NAME=WEIGHT"),
        (["a b=1"], "'a b=1' is not of the form"),
        (["a=x"], "'x' in 'a=x' is no weight of at least 0"),
        (["a=-1"], "'-1' in 'a=-1' is no weight"),
        (["a=inf"], "'inf' in 'a=inf' is no weight"),
        (["a=1@-2"], "'1@-2' in 'a=1@-2' is no weight"),
        (["a=1@0.5"], "no weight of at least 0, with @STEP behind it or without"),
        (["a=1@9,2@3"], "the steps of 'a=1@9,2@3' must rise"),
        (["a=1@9,2@9,3@9"], "stand at most twice"),
        (["a=1", "a=2"], "a has two weights"),
        (["a=0", "b=0"], "at step 0 every weight is 0"),
        (["a=1@0,0@7", "b=1@0,1@7,0@7"], "at step 7 every weight is 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        DataConfig(mixture=tuple(words))


weights = st.lists(st.integers(0, 100), min_size=2, max_size=4).filter(any)


@settings(deadline=None, max_examples=50)
@given(weights, st.integers(0, 5))
def test_every_block_has_exactly_the_stated_shares(values, block):
    schedule = turns(*(f"d{i}={value}" for i, value in enumerate(values)))
    drawn = np.bincount(schedule.of(range(block * BLOCK, (block + 1) * BLOCK))[0], minlength=len(values))
    exact = np.array(values) * BLOCK / sum(values)
    assert (np.abs(drawn - exact) < 1).all()
    whole = exact == np.round(exact)
    np.testing.assert_array_equal(drawn[whole], exact[whole])


@settings(deadline=None, max_examples=50)
@given(weights, st.integers(0, 10**9), st.integers(1, 3000))
def test_the_mix_of_any_stretch_is_close_to_the_stated_one(values, start, length):
    schedule = turns(*(f"d{i}={value}" for i, value in enumerate(values)))
    drawn = np.bincount(schedule.of(range(start, start + length))[0], minlength=len(values))
    assert (np.abs(drawn - length * schedule.shares(start)) <= len(values)).all()


points = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), min_size=1, max_size=4, unique_by=lambda p: p[0])
schedules = st.lists(points.map(sorted), min_size=2, max_size=3)


@settings(deadline=None, max_examples=50)
@given(schedules, st.integers(1, 7), st.integers(0, 2500))
def test_each_dataset_gives_its_draws_in_order_and_each_once(parts, batch, asked):
    words = [f"d{i}=" + ",".join(f"{w}@{s}" for s, w in part) for i, part in enumerate(parts)]
    schedule = turns(*words, batch=batch)
    datasets, numbers = schedule.of(range(2500))
    for dataset in range(len(parts)):
        own = numbers[datasets == dataset]
        np.testing.assert_array_equal(own, np.arange(len(own)))
    np.testing.assert_array_equal(schedule.before(asked), np.bincount(datasets[:asked], minlength=len(parts)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**12), max_size=20))
def test_a_turn_does_not_depend_on_those_beside_it(draws):
    schedule = turns("a=1@0,5@1000", "b=2", "c=1@0,1@500,9@500")
    datasets, numbers = schedule.of(draws)
    for draw, dataset, number in zip(draws, datasets, numbers, strict=True):
        assert [x[0] for x in schedule.of([draw])] == [dataset, number]
        assert schedule.before(draw)[dataset] == number


def test_a_moving_share_moves_by_small_stairs():
    schedule = turns("a=1@10,0@1010", "b=0@10,1@1010", batch=100)
    assert counts(schedule, 0, 1000) == [1000, 0]
    assert counts(schedule, 101_000, 102_000) == [0, 1000]
    whole = counts(schedule, 1000, 101_000)
    assert whole == pytest.approx([50_000, 50_000], abs=STAIRS)
    tenths = [counts(schedule, 1000 + 10_000 * i, 11_000 + 10_000 * i)[0] / 10_000 for i in range(10)]
    np.testing.assert_allclose(tenths, np.arange(0.95, 0, -0.1), atol=0.002)


def test_a_rare_dataset_comes_in_short_stairs_too():
    schedule = turns("a=1", "b=0@0,0.004@1000", batch=25)
    assert counts(schedule, 0, 25_000)[1] == pytest.approx(50, abs=10)
