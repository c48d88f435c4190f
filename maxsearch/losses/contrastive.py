"""Contrastive losses between two sets of unit vectors, with several positives per row and pair weights.

Row i of the left side and column j of the right side form a pair. Rows stay split over the batch axes of the mesh; the
right side is gathered whole, in the order of the global batch, so that every row sees every negative of every device.

B global batch, E vector size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maxsearch.mesh import gathered


def positive_pairs(query: Int[Array, " B"], product: Int[Array, " B"], variant: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """Which pairs of a batch belong together: the same product, the same variant group, or the same query twice.

    Args:
      query: id of each example's query.
      product: id of each example's product.
      variant: id of its variant group, below 0 when it has none.
    """

    def same(ids: Array) -> Array:
        return ids[:, None] == gathered(ids, None)[None, :]

    return same(query) | same(product) | (same(variant) & (variant >= 0)[:, None])


def softmax_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    scale: Float[Array, ""],
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """InfoNCE (van den Oord et al. 2018) of each left row against all right columns; use it unless batches are tiny.

    With several positives, each is contrasted with the negatives alone and the row is their mean, so that positives do
    not push one another away (ours; SupCon, Khosla et al. 2020, keeps them in the denominator).

    Args:
      left, right: unit vectors.
      positive: pairs that belong together.
      valid: pairs that count at all; an invalid pair changes nothing.
      scale: multiplies the cosines.

    Returns:
      The loss of each row, and whether it has one (some valid positive); rows without are 0.
    """
    logits = scale * jnp.einsum("IE,JE->IJ", left, gathered(right, None, None))
    positive = positive & valid
    negatives = jnp.where(valid & ~positive, logits, -jnp.inf)
    # A row without negatives has -inf here, and log(e^s + 0) = s: no loss and no gradient, as it should be.
    against = jnp.maximum(jax.nn.logsumexp(negatives, axis=1, keepdims=True), -1e30)
    losses = jnp.where(positive, jnp.logaddexp(logits, against) - logits, 0)
    count = positive.sum(axis=1)
    return losses.sum(axis=1) / jnp.maximum(count, 1), count > 0


def sigmoid_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023, algorithm 1): every pair is its own yes-or-no question.

    It needs no normalisation over the batch and takes several positives as they are. Arguments as in `softmax_loss`;
    `bias` is added to every logit.

    Returns:
      The sum over each row's valid pairs, and whether the row has one.
    """
    logits = scale * jnp.einsum("IE,JE->IJ", left, gathered(right, None, None)) + bias
    losses = jax.nn.softplus(jnp.where(positive, -logits, logits))
    return jnp.where(valid, losses, 0).sum(axis=1), valid.any(axis=1)


def weighted_mean(values: Float[Array, " B"], mask: Bool[Array, " B"], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """Mean over the rows whose mask holds, each counted by its weight; 0 when none does."""
    weights = jnp.where(mask, weights, 0)
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1e-9)
