"""The weighted sum of named terms against plain float64 NumPy."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsearch.config import LossConfig
from maxsearch.errors import UsageError
from maxsearch.losses.total import terms_of, total_loss
from maxsearch.models.search import Outputs, ProductVectors
from tests.test_contrastive import sigmoid_reference, softmax_reference

B, E = 6, 5
PAIRS = {
    "query_product": ("query", "product"),
    "query_title": ("query", "title"),
    "query_image": ("query", "image"),
    "title_image": ("title", "image"),
}
CONFIG = LossConfig(query_product=1.0, query_title=0.5, query_image=0.25, title_image=2.0, pair_power=0.5)

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")


def make_vectors(seed: int = 0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(4, B, E))
    x = (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    return dict(zip(("query", "product", "title", "image"), x, strict=True))


def make_batch() -> dict[str, np.ndarray]:
    """Rows 0 and 1 share a product, 2 and 3 a variant group, 4 and 5 a query; 1 lacks its title and 2 its image."""
    title_mask = np.ones((B, 3), bool)
    title_mask[1] = False
    return {
        "product": np.array([1, 1, 2, 3, 4, 5], np.int32),
        "variant": np.array([-1, -1, 7, 7, -1, -1], np.int32),
        "query": np.array([1, 2, 3, 4, 5, 5], np.int32),
        "weight": np.array([1, 4, 9, 16, 0.25, 1], np.float32),
        "title_mask": title_mask,
        "image_present": np.array([1, 1, 0, 1, 1, 1], bool),
    }


def ours(vectors: dict[str, np.ndarray], batch: dict[str, np.ndarray], config: LossConfig) -> tuple[Any, Any]:
    def run(vectors: dict[str, jax.Array], batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        products = ProductVectors(vectors["title"], vectors["image"], vectors["product"], jnp.ones((B, 2)))
        return total_loss(Outputs(vectors["query"], products, jnp.float32(7), jnp.float32(-3)), batch, config)

    return jax.jit(run)(vectors, batch)


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
        "image": batch["image_present"],
    }
    weights = batch["weight"].astype(float) ** config.pair_power

    def mean(left: str, right: str) -> float:
        losses = softmax_reference if config.kind == "softmax" else sigmoid_reference
        valid = np.outer(present[left], present[right])
        rows, has = losses(vectors[left].astype(float), vectors[right].astype(float), positive, valid)
        return float((rows * weights * has).sum() / (weights * has).sum())

    if config.kind == "softmax":
        return {name: (mean(a, b) + mean(b, a)) / 2 for name, (a, b) in PAIRS.items()}
    return {name: mean(a, b) for name, (a, b) in PAIRS.items()}


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_every_term_and_their_sum_equal_the_reference(kind):
    config = replace(CONFIG, kind=kind)
    vectors, batch = make_vectors(), make_batch()
    loss, terms = ours(vectors, batch, config)
    expected = reference(vectors, batch, config)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=2e-5), name
    assert loss == pytest.approx(sum(getattr(config, name) * value for name, value in expected.items()), rel=2e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_vectors_of_a_missing_title_or_image_change_nothing(kind):
    config = replace(CONFIG, kind=kind)
    vectors, batch = make_vectors(), make_batch()
    other = make_vectors(1)
    vectors["title"][1], vectors["image"][2] = other["title"][1], other["image"][2]
    again = make_vectors()
    loss, _ = ours(vectors, batch, config)
    assert loss == ours(again, batch, config)[0]
    vectors["title"][0] = other["title"][0]
    assert loss != ours(vectors, batch, config)[0]


def test_a_batch_without_a_single_image_has_finite_terms():
    batch = make_batch() | {"image_present": np.zeros(B, bool)}
    loss, terms = ours(make_vectors(), batch, CONFIG)
    assert terms["query_image"] == terms["title_image"] == 0
    assert np.isfinite(loss)
    assert loss > 0


def test_pair_power_zero_weighs_all_pairs_alike():
    config = replace(CONFIG, pair_power=0.0)
    vectors, batch = make_vectors(), make_batch()
    alike = batch | {"weight": np.ones(B, np.float32)}
    assert ours(vectors, batch, config)[0] == ours(vectors, alike, config)[0]
    assert ours(vectors, batch, CONFIG)[0] != ours(vectors, alike, CONFIG)[0]


def test_terms_with_weight_zero_are_left_out():
    config = LossConfig(query_product=1.0, query_title=0.0, query_image=0.5)
    assert [(term.name, term.weight) for term in terms_of(config)] == [("query_product", 1.0), ("query_image", 0.5)]
    with pytest.raises(UsageError, match="loss: weights must not be negative and one must be above 0"):
        LossConfig(query_product=0.0, query_title=0.0, query_image=0.0)
