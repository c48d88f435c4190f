"""Triplet ranking against plain float64 NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import LossConfig, RankingConfig
from maxsearch.losses.ranking import ranking_terms, triplet_loss
from tests.loss_context import B, differences, four_sides, make_batch, make_context, permuted, together, units

MARGIN = 0.6
WEIGHTS = np.arange(1.0, B + 1)
DRAWS = pytest.mark.parametrize("draw", ["random", "semi_hard", "hardest"])

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


@functools.cache
def compiled(draw: str) -> Any:
    return jax.jit(lambda anchors, others, negative, key: triplet_loss(anchors, others, negative, MARGIN, draw, key))


def ours(draw: str, anchors: Any, others: Any, negative: Any, seed: int = 0) -> Any:
    return compiled(draw)(anchors, others, negative, jax.random.key(seed))


def reference(draw: str, anchors: np.ndarray, others: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, Any]:
    """Row by row; of a random draw all that may come, as a list of losses for each row."""
    losses, has = [[0.0] for _ in range(B)], np.zeros(B, bool)
    for i in range(B):
        own = float(anchors[i] @ others[i])
        found = sorted(float(anchors[i] @ others[j]) for j in range(B) if negative[i, j])
        if not found:
            continue
        has[i] = True
        if draw == "hardest":
            found = found[-1:]
        elif draw == "semi_hard":
            below = [cosine for cosine in found if cosine < own]
            found = below[-1:] or found[:1]
        losses[i] = [max(0.0, MARGIN - own + cosine) for cosine in found]
    return losses, has


def drawn(seed: int) -> np.ndarray:
    """Negatives: none for row 1, all but the diagonal for row 2."""
    negative = ~np.eye(B, dtype=bool) & (np.random.default_rng(seed).random((B, B)) < 0.7)
    negative[1], negative[2] = False, ~np.eye(B, dtype=bool)[2]
    return negative


@DRAWS
def test_rows_equal_the_reference(draw):
    for seed in range(6):
        anchors, others, negative = units(seed), units(seed + 100), drawn(seed)
        losses, has = ours(draw, anchors, others, negative, seed)
        expected, expected_has = reference(draw, anchors.astype(float), others.astype(float), negative)
        np.testing.assert_array_equal(has, expected_has)
        for i in range(B):
            assert min(abs(float(losses[i]) - loss) for loss in expected[i]) < 1e-6
        assert not has[1]


def test_semi_hard_falls_back_to_the_least_similar_where_all_are_more_similar():
    anchors = np.tile(np.array([1, 0], np.float32), (3, 1))
    others = np.array([[0, 1], [0.6, 0.8], [0.8, 0.6]], np.float32)
    losses, _ = jax.jit(lambda *arrays: triplet_loss(*arrays, MARGIN, "semi_hard", jax.random.key(0)))(
        anchors, others, ~np.eye(3, dtype=bool)
    )
    np.testing.assert_allclose(losses, [MARGIN + 0.6, MARGIN - 0.6 + 0, MARGIN - 0.8 + 0.6], atol=1e-6)


def test_the_random_draw_takes_every_negative_about_as_often():
    anchors, others, negative = units(0), units(1), drawn(0)
    cosines = anchors @ others.T
    keys = jax.random.split(jax.random.key(3), 600)
    losses = jax.vmap(lambda key: compiled("random")(anchors, others, negative, key)[0])(keys)
    columns = np.flatnonzero(negative[2])
    expected = np.maximum(0, MARGIN - cosines[2, 2] + cosines[2, columns])
    counts = [(np.abs(np.asarray(losses)[:, 2] - loss) < 1e-5).sum() for loss in expected[expected > 0]]
    assert len(counts) >= 2
    assert min(counts) > 0.7 * 600 / len(columns)


@DRAWS
def test_what_is_no_negative_changes_nothing(draw):
    anchors, others, negative = units(0), units(1), drawn(0)
    negative[:, 4] = False

    def total(anchors: Any, others: Any) -> Any:
        rows = ours(draw, anchors, others, negative)[0]
        return (rows * np.where(np.arange(B) == 4, 0, WEIGHTS)).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(anchors, others)
    moved = others.copy()
    moved[4] = units(9)[0]
    again, others_gradients = jax.value_and_grad(total, argnums=(0, 1))(anchors, moved)
    assert value == again
    np.testing.assert_array_equal(gradients[0], others_gradients[0])
    assert not np.any(gradients[1][4])
    assert not np.any(gradients[0][1])


@pytest.mark.parametrize("draw", ["semi_hard", "hardest"])
def test_gradient_equals_finite_differences_of_the_reference(draw):
    anchors, others, negative = units(3), units(4), drawn(3)
    found = jax.grad(lambda a, b: (ours(draw, a, b, negative)[0] * WEIGHTS).sum(), argnums=(0, 1))(anchors, others)
    expected = differences(
        lambda a, b: float(np.array([row[0] for row in reference(draw, a, b, negative)[0]]) @ WEIGHTS), anchors, others
    )
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 0.5
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("draw", ["semi_hard", "hardest"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), order=st.permutations(range(B)))
def test_permuting_the_batch_permutes_the_rows(draw, seed, order):
    anchors, others, negative, order = units(seed), units(seed + 1), drawn(seed), np.array(order)
    losses, has = ours(draw, anchors, others, negative)
    moved, moved_has = ours(draw, anchors[order], others[order], negative[np.ix_(order, order)])
    np.testing.assert_allclose(moved, losses[order], atol=1e-5)
    np.testing.assert_array_equal(moved_has, has[order])


@pytest.mark.parametrize("side", ["product", "query", "both"])
def test_the_term_is_the_weighted_mean_over_the_sides_without_known_positives(side):
    config = LossConfig(ranking=1.0, pair_power=0.5, ranking_draw=RankingConfig(MARGIN, "hardest", side))
    vectors, batch = four_sides(1), make_batch()
    found = jax.jit(lambda vectors, batch: ranking_terms(make_context(vectors, batch, config)))(vectors, batch)
    negative, weights = ~together(batch), batch["weight"] ** 0.5
    query, product = vectors["query"].astype(float), vectors["product"].astype(float)

    def mean(anchors: np.ndarray, others: np.ndarray) -> float:
        rows, has = reference("hardest", anchors, others, negative)
        return float((np.array([row[0] for row in rows]) * weights * has).sum() / (weights * has).sum())

    means = {"product": mean(query, product), "query": mean(product, query)}
    expected = sum(means.values()) / 2 if side == "both" else means[side]
    assert found == {"ranking": pytest.approx(expected, rel=1e-5)}
    order = np.array([3, 0, 5, 1, 4, 2])
    again = ranking_terms(
        make_context(jax.tree.map(jnp.asarray, permuted(vectors, order)), permuted(batch, order), config)
    )
    assert again["ranking"] == pytest.approx(expected, rel=1e-5)


def test_without_a_weight_there_is_no_term():
    assert ranking_terms(make_context(four_sides(1), make_batch(), LossConfig())) == {}
