"""The training loss: a weighted sum of named contrastive terms.

B global batch, E vector size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maxsearch.config import LossConfig
from maxsearch.losses.contrastive import positive_pairs, sigmoid_loss, softmax_loss, weighted_mean
from maxsearch.mesh import gathered
from maxsearch.models.search import Outputs


@dataclass(frozen=True)
class Term:
    """One named term: which two vectors it compares, and how much it counts."""

    name: str
    left: str
    right: str
    weight: float


def terms_of(config: LossConfig) -> list[Term]:
    """The terms whose weight is above 0, in a fixed order."""
    terms = [
        Term("query_product", "query", "product", config.query_product),
        Term("query_title", "query", "title", config.query_title),
        Term("query_image", "query", "image", config.query_image),
        Term("title_image", "title", "image", config.title_image),
    ]
    return [term for term in terms if term.weight > 0]


def total_loss(
    outputs: Outputs, batch: Mapping[str, Array], config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum, and every term by its name.

    A product without a title (or image) takes no part in the terms that read its title (or image).
    """
    vectors = {
        "query": outputs.query,
        "product": outputs.products.product,
        "title": outputs.products.title,
        "image": outputs.products.image,
    }
    always = jnp.ones_like(batch["image_present"])
    present = {
        "query": always,
        "product": always,
        "title": batch["title_mask"].any(axis=1),
        "image": batch["image_present"],
    }
    positive = positive_pairs(batch["query"], batch["product"], batch["variant"])
    weights = batch["weight"] ** config.pair_power
    loss = jnp.zeros(())
    values: dict[str, Float[Array, ""]] = {}
    for term in terms_of(config):
        valid = present[term.left][:, None] & gathered(present[term.right], None)[None, :]
        left, right = vectors[term.left], vectors[term.right]
        value = direction(left, right, positive, valid, weights, outputs, config)
        if config.kind == "softmax":
            # `positive` is symmetric, so it serves both directions; the sigmoid loss has one direction only.
            reverse = present[term.right][:, None] & gathered(present[term.left], None)[None, :]
            value = (value + direction(right, left, positive, reverse, weights, outputs, config)) / 2
        values[term.name] = value
        loss = loss + term.weight * value
    return loss, values


def direction(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    weights: Float[Array, " B"],
    outputs: Outputs,
    config: LossConfig,
) -> Float[Array, ""]:
    """One term in one direction, as the weighted mean over its rows."""
    if config.kind == "softmax":
        rows, mask = softmax_loss(left, right, positive, valid, outputs.logit_scale)
    else:
        rows, mask = sigmoid_loss(left, right, positive, valid, outputs.logit_scale, outputs.logit_bias)
    return weighted_mean(rows, mask, weights)
