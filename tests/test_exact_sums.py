import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.prepare.totals import ExactSum

weights = st.lists(st.floats(min_value=5e-324, max_value=1e300), min_size=1, max_size=40)


@given(weights, st.randoms(use_true_random=False), st.integers(0, 40))
def test_the_sum_is_exactly_rounded_in_any_order_and_grouping(
    values: list[float], chance: random.Random, cut: int
) -> None:
    exact = float(sum(map(Fraction, values)))
    chance.shuffle(values)
    first, second = ExactSum(values[:cut]), ExactSum(values[cut:])
    first.merge(second)
    assert ExactSum(values).value == first.value == exact == math.fsum(values)


def test_it_keeps_what_plain_addition_loses() -> None:
    values = [1e16, 1.0, 1.0, 0.1] * 10
    assert sum(values) != math.fsum(values) == ExactSum(values).value


def test_nothing_is_zero() -> None:
    assert ExactSum().value == 0.0


def test_a_number_that_makes_the_sum_infinite_is_refused_and_not_added() -> None:
    total = ExactSum([1e308, 0.1])
    with pytest.raises(OverflowError):
        total.add(1e308)
    assert total.value == math.fsum([1e308, 0.1])
    total.add(1e292)
    assert total.value == math.fsum([1e308, 0.1, 1e292])
    with pytest.raises(OverflowError):
        total.merge(ExactSum([1.7e308]))
