"""The weighted sum of named terms against plain float64 NumPy."""

import functools
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from maxsearch.config import LossConfig
from maxsearch.errors import UsageError
from maxsearch.losses.total import total_loss
from tests.loss_context import B, four_sides, make_batch, make_context
from tests.test_contrastive import sigmoid_reference, softmax_reference

GRID = {
    "query_product": 1.0,
    "query_title": 0.5,
    "query_image": 0.25,
    "title_image": 2.0,
    "title_product": 0.75,
    "image_product": 1.5,
}
CONFIG = LossConfig(**GRID, pair_power=0.5)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


@functools.cache
def compiled(config: LossConfig) -> Any:
    return jax.jit(lambda vectors, batch: total_loss(make_context(vectors, batch, config)))


def ours(vectors: dict[str, np.ndarray], batch: dict[str, np.ndarray], config: LossConfig) -> tuple[Any, Any]:
    return compiled(config)(vectors, batch)


def reference(vectors: dict[str, np.ndarray], batch: dict[str, np.ndarray], config: LossConfig) -> dict[str, float]:
    """Every term by its name."""
    product, variant, query = batch["product"], batch["variant"], batch["query"]
    positive = np.array(
        [
            [
                product[i] == product[j] or query[i] == query[j] or (variant[i] == variant[j] and variant[i] >= 0)
                for j in range(B)
            ]
            for i in range(B)
        ]
    )
    present = {
        "query": np.ones(B, bool),
        "product": np.ones(B, bool),
        "title": batch["title_mask"].any(axis=1),
        "image": batch["image_present"].any(axis=1),
    }
    weights = batch["weight"].astype(float) ** config.pair_power

    def mean(left: str, right: str) -> float:
        losses = softmax_reference if config.kind == "softmax" else sigmoid_reference
        valid = np.outer(present[left], present[right])
        rows, has = losses(vectors[left].astype(float), vectors[right].astype(float), positive, valid)
        return float((rows * weights * has).sum() / (weights * has).sum())

    pairs = {name: name.split("_") for name in GRID}
    if config.kind == "softmax":
        return {name: (mean(a, b) + mean(b, a)) / 2 for name, (a, b) in pairs.items()}
    return {name: mean(a, b) for name, (a, b) in pairs.items()}


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_every_term_and_their_sum_equal_the_reference(kind):
    config = replace(CONFIG, kind=kind)
    vectors, batch = four_sides(0), make_batch()
    loss, terms = ours(vectors, batch, config)
    expected = reference(vectors, batch, config)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=2e-5), name
    assert loss == pytest.approx(sum(getattr(config, name) * value for name, value in expected.items()), rel=2e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_vectors_of_a_missing_title_or_image_change_nothing(kind):
    config = replace(CONFIG, kind=kind)
    vectors, batch = four_sides(0), make_batch()
    other = four_sides(1)
    vectors["title"][1], vectors["image"][2] = other["title"][1], other["image"][2]
    again = four_sides(0)
    loss, _ = ours(vectors, batch, config)
    assert loss == ours(again, batch, config)[0]
    vectors["title"][0] = other["title"][0]
    assert loss != ours(vectors, batch, config)[0]


def test_a_batch_without_a_single_image_has_finite_terms():
    batch = make_batch() | {"image_present": np.zeros((B, 1), bool)}
    loss, terms = ours(four_sides(0), batch, CONFIG)
    assert terms["query_image"] == terms["title_image"] == 0
    assert np.isfinite(loss)
    assert loss > 0


def test_pair_power_zero_weighs_all_pairs_alike():
    config = replace(CONFIG, pair_power=0.0)
    vectors, batch = four_sides(0), make_batch()
    alike = batch | {"weight": np.ones(B, np.float32)}
    assert ours(vectors, batch, config)[0] == ours(vectors, alike, config)[0]
    assert ours(vectors, batch, CONFIG)[0] != ours(vectors, alike, CONFIG)[0]


def test_terms_with_weight_zero_are_left_out():
    config = LossConfig(query_product=1.0, query_title=0.0, query_image=0.5)
    assert set(ours(four_sides(0), make_batch(), config)[1]) == {"query_product", "query_image"}
    with pytest.raises(UsageError, match="loss: one weight must be above 0"):
        LossConfig(query_product=0.0, query_title=0.0, query_image=0.0)
    with pytest.raises(UsageError, match=r"loss\.mpm: a weight must not be negative"):
        LossConfig(mpm=-1.0)
