"""The two contrastive losses against plain float64 NumPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.losses.contrastive import positive_pairs, sigmoid_loss, softmax_loss, weighted_mean

B, E = 6, 5
SCALE, BIAS = np.float32(7), np.float32(-3)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


def softmax_reference(
    left: np.ndarray, right: np.ndarray, positive: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Row by row and pair by pair, as the docstring says it."""
    logits = SCALE * left @ right.T
    losses, has = np.zeros(len(left)), np.zeros(len(left), bool)
    for i in range(len(left)):
        negatives = sum(np.exp(logits[i, j]) for j in range(len(right)) if valid[i, j] and not positive[i, j])
        each = [
            -np.log(np.exp(logits[i, j]) / (np.exp(logits[i, j]) + negatives))
            for j in range(len(right))
            if valid[i, j] and positive[i, j]
        ]
        if each:
            losses[i], has[i] = np.mean(each), True
    return losses, has


def sigmoid_reference(
    left: np.ndarray, right: np.ndarray, positive: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    logits = SCALE * left @ right.T + BIAS
    losses = np.zeros(len(left))
    for i in range(len(left)):
        for j in range(len(right)):
            if valid[i, j]:
                sign = 1 if positive[i, j] else -1
                losses[i] -= np.log(1 / (1 + np.exp(-sign * logits[i, j])))
    return losses, valid.any(axis=1)


REFERENCES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "softmax": softmax_reference,
    "sigmoid": sigmoid_reference,
}
OURS = {
    "softmax": jax.jit(lambda *arrays, scale=SCALE, bias=BIAS: softmax_loss(*arrays, jnp.asarray(scale))),
    "sigmoid": jax.jit(
        lambda *arrays, scale=SCALE, bias=BIAS: sigmoid_loss(*arrays, jnp.asarray(scale), jnp.asarray(bias))
    ),
}
KINDS = pytest.mark.parametrize("kind", ["softmax", "sigmoid"])


def vectors(seed: int) -> np.ndarray:
    """Unit vectors that float32 holds exactly, so that both sides start from the same numbers."""
    x = np.random.default_rng(seed).normal(size=(B, E))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positives with several in a row, and validity that lacks a row and a column."""
    rng = np.random.default_rng(seed)
    positive = np.eye(B, dtype=bool) | (rng.random((B, B)) < 0.25)
    valid = np.ones((B, B), bool)
    valid[1], valid[:, 4] = False, False
    return positive, valid


def test_positives_are_the_same_product_or_variant_or_query():
    found = positive_pairs(jnp.array([7, 8, 9, 7, 3]), jnp.array([1, 1, 2, 3, 4]), jnp.array([-1, 5, 5, -1, -1]))
    expected = np.eye(5, dtype=bool)
    for i, j in [(0, 1), (0, 3), (1, 2)]:  # product 1, query 7, variant 5; -1 is no variant group
        expected[i, j] = expected[j, i] = True
    np.testing.assert_array_equal(found, expected)


@KINDS
def test_rows_equal_the_reference_with_several_positives_and_missing_rows_and_columns(kind):
    for seed in range(5):
        left, right, (positive, valid) = vectors(seed), vectors(seed + 100), pairs(seed)
        losses, has = OURS[kind](left, right, positive, valid)
        expected, expected_has = REFERENCES[kind](left.astype(float), right.astype(float), positive, valid)
        np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(has, expected_has)
        assert losses[1] == 0
        assert not has[1]


def test_softmax_with_one_positive_is_plain_infonce():
    left, right = vectors(0), vectors(1)
    losses, has = OURS["softmax"](left, right, np.eye(B, dtype=bool), np.ones((B, B), bool))
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(SCALE * left @ right.T, jnp.arange(B))
    np.testing.assert_allclose(losses, plain, rtol=1e-5, atol=1e-6)
    assert has.all()


def test_softmax_stays_exact_where_exponentials_overflow():
    left = np.eye(2, E, dtype=np.float32)
    right = left[::-1].copy()
    losses, _ = OURS["softmax"](left, right, np.eye(2, dtype=bool), np.ones((2, 2), bool), scale=np.float32(200))
    np.testing.assert_allclose(losses, [200, 200], rtol=1e-6)


@KINDS
def test_an_invalid_pair_changes_nothing(kind):
    left, right, (positive, valid) = vectors(0), vectors(1), pairs(2)
    weights = jnp.arange(1.0, B + 1)

    def total(left: jax.Array, right: jax.Array, positive: np.ndarray) -> jax.Array:
        return (OURS[kind](left, right, positive, valid)[0] * weights).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(left, right, positive)
    assert not np.any(gradients[0][1])
    assert not np.any(gradients[1][4])
    other_left, other_right = left.copy(), right.copy()
    other_left[1], other_right[4] = vectors(7)[0], vectors(8)[0]
    again, others = jax.value_and_grad(total, argnums=(0, 1))(other_left, other_right, positive ^ ~valid)
    assert value == again
    np.testing.assert_array_equal(gradients[0], others[0])
    np.testing.assert_array_equal(gradients[1], others[1])


@KINDS
def test_gradient_equals_finite_differences_of_the_reference(kind):
    left, right, (positive, valid) = vectors(3), vectors(4), pairs(3)
    weights = np.arange(1.0, B + 1)
    ours = jax.grad(lambda a, b: (OURS[kind](a, b, positive, valid)[0] * weights).sum(), argnums=(0, 1))(left, right)

    def reference(both: np.ndarray) -> float:
        return float(REFERENCES[kind](both[0], both[1], positive, valid)[0] @ weights)

    both = np.stack([left, right]).astype(float)
    expected = np.zeros_like(both)
    for index in np.ndindex(both.shape):
        up, down = both.copy(), both.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        expected[index] = (reference(up) - reference(down)) / 2e-5
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(np.stack(ours), expected, rtol=1e-4, atol=1e-4)


@KINDS
def test_gradients_of_scale_and_bias_equal_finite_differences_of_the_reference(kind):
    left, right, (positive, valid) = vectors(3), vectors(4), pairs(3)
    ours = jax.grad(
        lambda scale, bias: OURS[kind](left, right, positive, valid, scale=scale, bias=bias)[0].sum(), argnums=(0, 1)
    )(SCALE, BIAS)

    def reference(scale: float, bias: float) -> float:
        # Unit vectors with one more coordinate: cosine * scale + bias is what the reference makes of them.
        a = np.hstack([left.astype(float) * (scale / float(SCALE)), np.ones((B, 1))])
        b = np.hstack([right.astype(float), np.full((B, 1), (bias - float(BIAS)) / float(SCALE))])
        return float(REFERENCES[kind](a, b, positive, valid)[0].sum())

    h = 1e-5
    scale, bias = float(SCALE), float(BIAS)
    expected = [
        (reference(scale + h, bias) - reference(scale - h, bias)) / (2 * h),
        (reference(scale, bias + h) - reference(scale, bias - h)) / (2 * h),
    ]
    if kind == "softmax":  # adding one number to every logit changes nothing
        assert ours[1] == 0
        assert abs(expected[1]) < 1e-6
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("positive", "valid", "has"),
    [
        pytest.param(True, True, True, id="no negatives"),
        pytest.param(False, True, False, id="no positives"),
        pytest.param(True, False, False, id="nothing valid"),
    ],
)
def test_a_softmax_row_with_nothing_to_contrast_is_zero_with_zero_gradient(positive, valid, has):
    left, right = vectors(0), vectors(1)
    positives, valids = np.full((B, B), positive), np.full((B, B), valid)

    def total(left: jax.Array, right: jax.Array, scale: jax.Array) -> jax.Array:
        return OURS["softmax"](left, right, positives, valids, scale=scale)[0].sum()

    losses, found = OURS["softmax"](left, right, positives, valids)
    gradients = jax.grad(total, argnums=(0, 1, 2))(left, right, SCALE)
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(found, has)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@KINDS
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    order=st.permutations(range(B)),
    ids=st.lists(st.integers(0, 4), min_size=B, max_size=B),
    present=st.lists(st.booleans(), min_size=B, max_size=B),
)
def test_permuting_the_batch_permutes_the_rows(kind, seed, order, ids, present):
    left, right, ids, order = vectors(seed), vectors(seed + 1), np.array(ids), np.array(order)
    positive = ids[:, None] == ids[None, :]
    valid = np.ones((B, B), bool) & np.array(present)[None, :]
    losses, has = OURS[kind](left, right, positive, valid)
    assert np.isfinite(losses).all()
    assert (losses >= 0).all()
    square = np.ix_(order, order)
    moved, moved_has = OURS[kind](left[order], right[order], positive[square], valid[square])
    np.testing.assert_allclose(moved, losses[order], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(moved_has, has[order])


def test_weighted_mean_counts_masked_rows_by_weight():
    values, mask, weights = jnp.array([1.0, 2.0, 4.0]), jnp.array([True, False, True]), jnp.array([3.0, 100.0, 1.0])
    assert weighted_mean(values, mask, weights) == pytest.approx((3 * 1 + 1 * 4) / 4)
    assert weighted_mean(values, jnp.zeros(3, bool), weights) == 0
