import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.evaluation.comparison import compare, holm, paired_differences, randomisation


def drawn(queries: int, means: list[float], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(means, 0.3, size=(queries, len(means)))


def test_equal_to_plain_resampling() -> None:
    differences = drawn(60, [0.0, 0.08, -0.05], 1)
    rng = np.random.default_rng(5)
    for found, column in zip(paired_differences(differences), differences.T, strict=True):
        means = [np.mean(rng.choice(column, size=len(column))) for _ in range(10_000)]
        flipped = [np.mean(column * rng.choice([-1, 1], size=len(column))) for _ in range(10_000)]
        assert found.mean == pytest.approx(np.mean(column))
        assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)
        assert found.p == pytest.approx(np.mean(np.abs(flipped) >= abs(np.mean(column))), abs=0.015)


def test_p_value_equals_the_enumeration_of_all_signs() -> None:
    column = np.array([0.2, -0.1, 0.4, 0.3, 0.0, 0.15, -0.05, 0.3])
    every = [abs(np.dot(signs, column)) for signs in itertools.product([-1, 1], repeat=len(column))]
    exact = np.mean(np.array(every) >= abs(column.sum()) - 1e-12)
    assert randomisation(column[:, None], resamples=40_000)[0] == pytest.approx(exact, abs=0.006)


def test_no_difference_is_no_evidence_and_one_sided_queries_are_strong() -> None:
    nothing, everything = paired_differences(np.stack([np.zeros(40), np.full(40, 0.1)], axis=1))
    assert (nothing.mean, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    assert (everything.low, everything.high) == pytest.approx((0.1, 0.1))
    assert everything.p == pytest.approx(1 / 10_001)


def test_intervals_cover_and_p_values_are_uniform_without_a_difference() -> None:
    columns = drawn(80, [0.1] * 200 + [0.0] * 200, 3)
    found = paired_differences(columns, resamples=1000)
    covered = [
        difference.low <= truth <= difference.high
        for difference, truth in zip(found, [0.1] * 200 + [0.0] * 200, strict=True)
    ]
    assert 0.91 <= np.mean(covered) <= 0.98
    p = np.array([difference.p for difference in found[200:]])
    assert 0.02 <= (p < 0.05).mean() <= 0.09
    assert abs(p.mean() - 0.5) < 0.07


def test_chunks_of_resamples_are_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from maxsearch.evaluation import comparison

    monkeypatch.setattr(comparison, "CHUNK_DRAWS", 70)
    assert randomisation(np.full((30, 1), 0.5), resamples=999)[0] == 1 / 1000
    assert randomisation(np.zeros((30, 1)), resamples=999)[0] == 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40))
def test_sides_may_be_exchanged(values: list[float]) -> None:
    column = np.array(values)[:, None]
    found, mirrored = (paired_differences(sign * column, resamples=200)[0] for sign in (1.0, -1.0))
    assert mirrored.mean == -found.mean
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert mirrored.p == found.p


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_rule_rejects(p_values: list[float]) -> None:
    corrected, m = holm(p_values), len(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = 0
        for p in sorted(p_values):
            if p * (m - rejected) > level:
                break
            rejected += 1
        assert sum(p <= level for p in corrected) == rejected
    assert all(p <= after <= 1 for p, after in zip(p_values, corrected, strict=True))


def test_systems_are_compared_within_each_metric() -> None:
    ours, better, same = (drawn(60, [mean], 4)[:, 0] for mean in (0.5, 0.8, 0.5))
    values = {
        "ours": {"a": ours, "b": ours, "c": ours},
        "better": {"a": better, "b": better, "c": None},
        "same": {"a": same, "b": ours, "c": ours},
    }
    found = {(one.system, one.metric): one for one in compare(values, "ours", ("a", "b", "c"))}
    assert list(found) == [("better", "a"), ("better", "b"), ("same", "a"), ("same", "b"), ("same", "c")]
    better_a = found["better", "a"]
    assert better_a.against == "ours" and better_a.difference.mean == pytest.approx(0.3)
    assert better_a.p_corrected == pytest.approx(2 * better_a.difference.p)
    assert found["same", "b"].p_corrected == 1
    assert compare({"ours": values["ours"]}, "ours", ("a",)) == []
