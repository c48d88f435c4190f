"""eSSPR's hinge losses against plain float64 NumPy."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import LossConfig
from maxsearch.losses.esspr import esspr_terms, hinge_loss, locality_loss
from tests.loss_context import B, differences, four_sides, make_batch, make_context, permuted, together, units

WEIGHTS = np.arange(1.0, 13)
CONFIG = LossConfig(ppm=0.8, pdc=0.5, plc=0.5, pair_power=0.5)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")
hinge = jax.jit(lambda *arrays: hinge_loss(*arrays, 0.3))
locality = jax.jit(lambda *arrays: locality_loss(*arrays, 0.05))
terms = jax.jit(lambda vectors, batch: esspr_terms(make_context(vectors, batch, CONFIG)))


def hinge_reference(left: Any, right: Any, pairs: Any, positive: Any, valid: Any, margin: float = 0.3) -> Any:
    rows = len(left)
    losses, has = np.zeros(rows), np.zeros(rows, bool)
    for i in range(rows):
        own = [float(left[i] @ right[j]) for j in range(rows) if pairs[i, j] and valid[i, j]]
        if own:
            each = [
                max(0.0, float(left[i] @ right[j]) - np.mean(own) + margin * (not positive[i, j]))
                for j in range(rows)
                if valid[i, j]
            ]
            losses[i], has[i] = np.mean(each), True
    return losses, has


def locality_reference(whole: Any, part: Any, right: Any, valid: Any, margin: float = 0.05) -> Any:
    rows = len(whole)
    losses, has = np.zeros(rows), np.zeros(rows, bool)
    for i in range(rows):
        nearest = sorted((j for j in range(rows) if valid[i, j]), key=lambda j: -float(whole[i] @ right[j]))[:10]
        if nearest:
            each = [max(0.0, float(whole[i] @ right[j] - part[i] @ right[j]) ** 2 - margin) for j in nearest]
            losses[i], has[i] = np.mean(each), True
    return losses, has


def hinge_case(seed: int) -> tuple[np.ndarray, ...]:
    """Left, right, pairs (none in row 3, several elsewhere), positives and a missing row and column."""
    rng = np.random.default_rng(seed)
    pairs = np.eye(B, dtype=bool) | (rng.random((B, B)) < 0.2)
    pairs[3] = False
    valid = np.ones((B, B), bool)
    valid[1], valid[:, 4] = False, False
    return units(seed), units(seed + 100), pairs, pairs | (rng.random((B, B)) < 0.2), valid


def locality_case(seed: int, rows: int = 12) -> tuple[np.ndarray, ...]:
    """Whole, part and right vectors of more rows than count, and a missing row and column."""
    valid = np.ones((rows, rows), bool)
    valid[1], valid[:, 4] = False, False
    return units(seed, rows), units(seed + 50, rows), units(seed + 100, rows), valid


CASES = {
    "hinge": (hinge, hinge_reference, hinge_case, 2),
    "locality": (locality, locality_reference, locality_case, 3),
}
LOSSES = pytest.mark.parametrize("loss", list(CASES))


@LOSSES
def test_rows_equal_the_reference_and_masked_ones_have_none(loss):
    ours, reference, make, _ = CASES[loss]
    for seed in range(4):
        case = make(seed)
        losses, has = ours(*case)
        expected, expected_has = reference(*(x.astype(float) if x.dtype != bool else x for x in case))
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(has, expected_has)
        assert not has[1]


def test_with_one_pair_each_it_is_the_authors_formula():
    left, right, itself = units(0), units(1), np.eye(B, dtype=bool)
    s = left @ right.T
    expected = np.maximum(0, s - np.diag(s)[:, None] + 0.3 * (1 - itself)).mean(axis=1)
    losses, _ = hinge(left, right, itself, itself, np.ones((B, B), bool))
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)


@LOSSES
def test_an_invalid_pair_changes_nothing(loss):
    ours, _, make, floats = CASES[loss]
    case = make(0)
    arrays, masks = case[:floats], case[floats:]

    def total(*arrays: Any) -> Any:
        rows = ours(*arrays, *masks)[0]
        return (rows * WEIGHTS[: len(rows)]).sum()

    run = jax.value_and_grad(total, argnums=tuple(range(floats)))
    value, gradients = run(*arrays)
    assert not np.any(gradients[0][1])
    assert not np.any(gradients[-1][4])
    other = [x.copy() for x in arrays]
    other[0][1], other[-1][4] = units(7)[0], units(8)[0]
    again, others = run(*other)
    assert value == again
    for one, two in zip(gradients, others, strict=True):
        np.testing.assert_array_equal(one, two)


@LOSSES
def test_gradient_equals_finite_differences_of_the_reference(loss):
    ours, reference, make, floats = CASES[loss]
    case = make(3)
    arrays, masks = case[:floats], case[floats:]
    weights = WEIGHTS[: len(arrays[0])]
    found = jax.grad(lambda *arrays: (ours(*arrays, *masks)[0] * weights).sum(), argnums=tuple(range(floats)))(*arrays)
    expected = differences(lambda *arrays: float(reference(*arrays, *masks)[0] @ weights), *arrays)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@LOSSES
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), order=st.permutations(range(12)))
def test_permuting_the_batch_permutes_the_rows(loss, seed, order):
    ours, _, make, floats = CASES[loss]
    case = make(seed)
    order = np.array([i for i in order if i < len(case[0])])
    losses, _ = ours(*case)
    square = np.ix_(order, order)
    moved, _ = ours(*(x[order] for x in case[:floats]), *(x[square] for x in case[floats:]))
    np.testing.assert_allclose(moved, losses[order], rtol=1e-5, atol=1e-6)


def test_the_terms_are_sums_over_what_may_be_seen_of_the_left_product():
    vectors, batch = four_sides(2), make_batch()
    found = terms(vectors, batch)
    values = {name: value.astype(float) for name, value in vectors.items()}
    joined, positive = values["product"], together(batch)
    other = batch["product"][:, None] != batch["product"][None, :]
    present = {
        "query": np.ones(B, bool),
        "product": np.ones(B, bool),
        "title": batch["title_mask"].any(axis=1),
        "image": batch["image_present"].any(axis=1),
    }
    weights = batch["weight"].astype(float) ** 0.5

    def mean(name: str, rows: np.ndarray, has: np.ndarray) -> float:
        counted = weights * (has & present[name])
        return float((rows * counted).sum() / counted.sum())

    itself, every = np.eye(B, dtype=bool), np.ones((B, B), bool)
    ppm = mean("query", *hinge_reference(values["query"], joined, itself, positive, every))
    ppm += sum(
        mean(name, *hinge_reference(values[name], joined, positive & other, positive, other))
        for name in ("product", "title", "image")
    )
    pdc = sum(mean(a, *hinge_reference(values[a], joined, itself, positive, every, 0.2)) for a in ("title", "image"))
    plc = sum(mean(a, *locality_reference(joined, values[a], joined, other)) for a in ("title", "image"))
    expected = {"ppm": ppm, "pdc": pdc, "plc": plc}
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_a_missing_title_or_image_changes_nothing_and_a_batch_without_partners_is_finite():
    vectors, batch = four_sides(2), make_batch()
    before = terms(vectors, batch)
    vectors["title"][1], vectors["image"][2] = units(70)[0], units(71)[0]
    assert terms(vectors, batch) == before
    alone = batch | {name: np.arange(B, dtype=np.int32) for name in ("product", "query")}
    alone["variant"] = np.full(B, -1, np.int32)
    for value in terms(vectors, alone).values():
        assert np.isfinite(value)


def test_permuting_the_batch_keeps_the_terms():
    vectors, batch, order = four_sides(4), make_batch(), np.array([3, 0, 5, 1, 4, 2])
    found, moved = terms(vectors, batch), terms(permuted(vectors, order), permuted(batch, order))
    assert moved == {name: pytest.approx(float(value), rel=1e-5) for name, value in found.items()}


def test_only_terms_with_a_weight_are_there():
    assert esspr_terms(make_context(four_sides(1), make_batch(), LossConfig())) == {}
    config = LossConfig(plc=0.5)
    assert set(jax.jit(lambda: esspr_terms(make_context(four_sides(1), make_batch(), config)))()) == {"plc"}
