"""Similarity distribution matching against plain float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.losses.sdm import sdm_loss
from tests.loss_context import SCALE, B, differences, units

WEIGHTS = np.arange(1.0, B + 1)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")
ours = jax.jit(lambda *arrays: sdm_loss(*arrays, jnp.float32(SCALE)))


def reference(left: np.ndarray, right: np.ndarray, positive: np.ndarray, valid: np.ndarray) -> tuple[Any, Any]:
    losses, has = np.zeros(B), np.zeros(B, bool)
    for i in range(B):
        columns = [j for j in range(B) if valid[i, j]]
        if not any(positive[i, j] for j in columns):
            continue
        p = np.exp([SCALE * float(left[i] @ right[j]) for j in columns])
        q = np.array([float(positive[i, j]) for j in columns])
        p, q = p / p.sum(), q / q.sum()
        losses[i], has[i] = (p * (np.log(p) - np.log(q + 1e-8))).sum(), True
    return losses, has


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    positive = np.eye(B, dtype=bool) | (np.random.default_rng(seed).random((B, B)) < 0.25)
    valid = np.ones((B, B), bool)
    valid[1], valid[:, 4] = False, False
    return positive, valid


def test_rows_equal_the_reference_with_several_positives_and_missing_rows_and_columns():
    for seed in range(4):
        left, right, (positive, valid) = units(seed), units(seed + 100), pairs(seed)
        losses, has = ours(left, right, positive, valid)
        expected, expected_has = reference(left.astype(float), right.astype(float), positive, valid)
        np.testing.assert_allclose(losses, expected, rtol=2e-5)
        np.testing.assert_array_equal(has, expected_has)
        assert not has[1]


def test_a_distribution_equal_to_that_of_the_labels_has_almost_no_loss():
    left = np.eye(B, dtype=np.float32)
    positive = np.eye(B, dtype=bool)
    losses, _ = jax.jit(sdm_loss)(left, left, positive, np.ones((B, B), bool), jnp.float32(100))
    np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_an_invalid_pair_changes_nothing():
    left, right, (positive, valid) = units(0), units(1), pairs(2)

    def total(left: Any, right: Any, positive: Any) -> Any:
        return (ours(left, right, positive, valid)[0] * WEIGHTS).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(left, right, positive)
    assert not np.any(gradients[0][1])
    assert not np.any(gradients[1][4])
    other_left, other_right = left.copy(), right.copy()
    other_left[1], other_right[4] = units(7)[0], units(8)[0]
    again, others = jax.value_and_grad(total, argnums=(0, 1))(other_left, other_right, positive ^ ~valid)
    assert value == again
    np.testing.assert_array_equal(gradients[0], others[0])
    np.testing.assert_array_equal(gradients[1], others[1])


def test_gradient_equals_finite_differences_of_the_reference():
    left, right, (positive, valid) = units(3), units(4), pairs(3)
    found = jax.grad(lambda a, b: (ours(a, b, positive, valid)[0] * WEIGHTS).sum(), argnums=(0, 1))(left, right)
    expected = differences(lambda a, b: float(reference(a, b, positive, valid)[0] @ WEIGHTS), left, right)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000), order=st.permutations(range(B)), ids=st.lists(st.integers(0, 4), min_size=B, max_size=B)
)
def test_permuting_the_batch_permutes_the_rows(seed, order, ids):
    left, right, ids, order = units(seed), units(seed + 1), np.array(ids), np.array(order)
    positive, valid = ids[:, None] == ids[None, :], np.ones((B, B), bool)
    losses, _ = ours(left, right, positive, valid)
    square = np.ix_(order, order)
    moved, _ = ours(left[order], right[order], positive[square], valid[square])
    np.testing.assert_allclose(moved, losses[order], rtol=1e-5, atol=1e-5)
