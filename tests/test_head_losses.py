"""The losses of the heads against plain float64 NumPy: masked words and patches, keywords, matching."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.losses.keywords import keyword_loss
from maxsearch.losses.masked import masked_patch_loss, masked_word_loss
from maxsearch.losses.matching import draw_negatives, matching_loss
from maxsearch.losses.rows import row_mean

B, M, V, D = 5, 3, 7, 4
SCALE = 6.0

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


def words_reference(logits: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    losses = np.zeros(mask.shape)
    for b, m in zip(*np.nonzero(mask), strict=True):
        p = np.exp(logits[b, m]) / np.exp(logits[b, m]).sum()
        losses[b, m] = -np.log(p[targets[b, m]])
    return losses, mask


def patches_reference(
    predicted: np.ndarray, true: np.ndarray, present: np.ndarray, distinct: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    R = len(true)
    losses = np.zeros(true.shape[:2])
    for r in np.flatnonzero(present):
        others = [true[s, 0] for s in range(R) if distinct[r, s] and present[s]]
        for m in range(M):
            candidates = [*true[r], *others]
            e = np.exp([SCALE * cosine(predicted[r, m], candidate) for candidate in candidates])
            losses[r, m] = -np.log(e[m] / e.sum())
    return losses, np.repeat(present[:, None], M, axis=1)


def keywords_reference(logits: np.ndarray, target: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    losses, has = np.zeros(len(logits)), np.zeros(len(logits), bool)
    for b in range(len(logits)):
        found = [k for k in range(V) if target[b, k] and counted[b, k]]
        if found:
            p = 1 / (1 + np.exp(-logits[b]))
            terms = [-np.log(p[k] if target[b, k] else 1 - p[k]) for k in range(V) if counted[b, k]]
            losses[b], has[b] = sum(terms) / len(found), True
    return losses, has


def matching_reference(logits: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-logits))
    return np.where(mask, -np.log(np.stack([p[:, 0], 1 - p[:, 1], 1 - p[:, 2]], axis=1)), 0), mask


def inputs(seed: int) -> dict[str, tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    """What each loss is differentiated by, and its other arguments."""
    rng = np.random.default_rng(seed)
    product = rng.integers(0, 3, B)
    true = rng.normal(size=(B, M, D)).astype(np.float32)
    present = np.arange(B) != rng.integers(B)
    return {
        "words": (rng.normal(size=(B, M, V)), (rng.integers(0, V, (B, M)), rng.random((B, M)) < 0.6)),
        "patches": (rng.normal(size=(B, M, D)), (true, present, product[:, None] != product)),
        "keywords": (
            rng.normal(size=(B, V)),
            ((rng.random((B, V)) < 0.4) & present[:, None], rng.random((B, V)) < 0.8),
        ),
        "matching": (rng.normal(size=(B, 3)), (rng.random((B, 3)) < 0.7,)),
    }


REFERENCES: dict[str, Callable[..., Any]] = {
    "words": words_reference,
    "patches": patches_reference,
    "keywords": keywords_reference,
    "matching": matching_reference,
}
OURS: dict[str, Callable[..., Any]] = {
    "words": jax.jit(masked_word_loss),
    "patches": jax.jit(lambda *arrays: masked_patch_loss(*arrays, SCALE)),
    "keywords": jax.jit(keyword_loss),
    "matching": jax.jit(matching_loss),
}
LOSSES = pytest.mark.parametrize("loss", list(OURS))


@LOSSES
def test_values_equal_the_reference(loss):
    for seed in range(4):
        x, rest = inputs(seed)[loss]
        x = x.astype(np.float32)
        values, mask = OURS[loss](x, *rest)
        expected, expected_mask = REFERENCES[loss](x.astype(float), *rest)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(mask, expected_mask)
        assert 0 < np.asarray(mask).sum() < mask.size


@LOSSES
def test_gradient_equals_finite_differences_of_the_reference(loss):
    x, rest = inputs(1)[loss]
    weights = np.random.default_rng(9).uniform(1, 2, OURS[loss](x.astype(np.float32), *rest)[0].shape)
    ours = jax.grad(lambda x: (OURS[loss](x, *rest)[0] * weights).sum())(x.astype(np.float32))
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        difference = (REFERENCES[loss](up, *rest)[0] - REFERENCES[loss](down, *rest)[0]) * weights
        expected[index] = difference.sum() / 2e-5
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


@LOSSES
def test_what_is_masked_changes_nothing_and_gets_no_gradient(loss):
    x, rest = inputs(2)[loss]
    x = x.astype(np.float32)
    rest = [np.array(part) for part in rest]
    # The masked part: slots, pictures, keywords, or one of the three pairs.
    off = ~rest[1] if loss in ("words", "keywords", "patches") else ~rest[0]
    other, others = x.copy(), [part.copy() for part in rest]
    other[off] = 50.0
    if loss == "words":
        others[0][off] = (others[0][off] + 1) % V
    elif loss == "patches":
        others[0][off] = np.random.default_rng(3).normal(size=others[0][off].shape)
    elif loss == "keywords":
        others[0][off] = ~others[0][off]

    def total(x: jax.Array, *rest: jax.Array) -> jax.Array:
        return OURS[loss](x, *rest)[0].sum()

    value, gradient = jax.value_and_grad(total)(x, *rest)
    again, changed = jax.value_and_grad(total)(other, *others)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[off], 0)
    np.testing.assert_allclose(gradient, changed, rtol=1e-6, atol=1e-7)
    assert np.abs(gradient).max() > 0.01


@LOSSES
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), order=st.permutations(range(B)))
def test_permuting_the_batch_permutes_the_rows(loss, seed, order):
    x, rest = inputs(seed)[loss]
    x, order = x.astype(np.float32), np.array(order)
    values, mask = OURS[loss](x, *rest)
    assert np.isfinite(values).all()
    assert (np.asarray(values) >= 0).all()
    square = [part[np.ix_(order, order)] if part.shape == (B, B) else part[order] for part in rest]
    moved, moved_mask = OURS[loss](x[order], *square)
    np.testing.assert_allclose(moved, np.asarray(values)[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved_mask, np.asarray(mask)[order])


def test_true_patches_get_no_gradient_and_a_lone_picture_is_told_apart_within_itself():
    x, (true, _, _) = inputs(0)["patches"]
    x, all_present, none_distinct = x.astype(np.float32), np.ones(B, bool), np.zeros((B, B), bool)
    gradient = jax.grad(lambda true: OURS["patches"](x, true, all_present, none_distinct)[0].sum())(true)
    np.testing.assert_array_equal(gradient, 0)
    perfect, _ = OURS["patches"](true, true, all_present, none_distinct)
    assert 0 < perfect.max() < np.log(M) < OURS["patches"](x, true, all_present, none_distinct)[0].max()


def test_a_keyword_loss_starts_at_the_logarithm_of_the_vocabulary():
    """With the head's prior, log odds of -log K, whatever the number of keywords to be found."""
    target = np.arange(1024) < np.array([[1], [8], [40]])
    values, _ = jax.jit(keyword_loss)(jnp.full((3, 1024), -np.log(1024.0)), target, np.ones_like(target))
    np.testing.assert_allclose(values, np.log(1024), atol=1.1)


def test_hard_negatives_are_drawn_from_the_softmax_of_the_allowed():
    similarity = np.array([[9.0, 1.0, 0.0, 0.5], [2.0, 9.0, 2.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    allowed = np.array([[0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    repeat = 3000
    drawn, has = jax.jit(draw_negatives)(
        jax.random.key(0), np.tile(similarity, (repeat, 1)).astype(np.float32), np.tile(allowed, (repeat, 1))
    )
    drawn, has = np.asarray(drawn).reshape(repeat, 3), np.asarray(has).reshape(repeat, 3)
    np.testing.assert_array_equal(has, np.tile([True, True, False], (repeat, 1)))
    for row in range(2):
        e = np.where(allowed[row], np.exp(similarity[row]), 0)
        shares = np.bincount(drawn[:, row], minlength=4) / repeat
        np.testing.assert_allclose(shares, e / e.sum(), atol=0.03)
        assert (shares[~allowed[row]] == 0).all()


def test_row_mean_is_over_the_parts_that_count():
    values, mask = jnp.array([[1.0, 5.0, 9.0], [1.0, 2.0, 3.0]]), jnp.array([[True, False, True], [False] * 3])
    rows, has = row_mean(values, mask)
    np.testing.assert_array_equal(rows, [5.0, 0.0])
    np.testing.assert_array_equal(has, [True, False])
