"""Contrastive losses between two sets of unit vectors, with several positives per row and pair weights.

Row i of the left side and column j of the right side form a pair. Rows stay split over the batch axes of the mesh; the
right side is gathered whole, in the order of the global batch, so that every row sees every negative of every device.

B global batch, E vector size, C further columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maxsearch.mesh import gathered

IDS = ("query", "product", "variant")


def known_pairs(rows: Mapping[str, Array], columns: Mapping[str, Array]) -> Bool[Array, "B C"]:
    """Which rows and columns belong together by their ids, as `positive_pairs` says.

    Args:
      rows: int [B] by each name of `IDS`; further entries are not looked at.
      columns: int [C] likewise, whole on each device.
    """

    def same(name: str) -> Array:
        return rows[name][:, None] == columns[name][None, :]

    return same("query") | same("product") | (same("variant") & (rows["variant"] >= 0)[:, None])


def positive_pairs(query: Int[Array, " B"], product: Int[Array, " B"], variant: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """Which pairs of a batch belong together: the same product, the same variant group, or the same query twice.

    Args:
      query: id of each example's query.
      product: id of each example's product.
      variant: id of its variant group, below 0 when it has none.
    """
    rows = dict(zip(IDS, (query, product, variant), strict=True))
    return known_pairs(rows, {name: gathered(ids, None) for name, ids in rows.items()})


@dataclass(frozen=True)
class Negatives:
    """Further columns, none of which is a positive: their logits, and which of them count."""

    logits: Float[Array, "B C"]
    valid: Bool[Array, "B C"]


@dataclass(frozen=True)
class Guide:
    """What says how alike a row and its negatives are, so that the target gives these a share.

    Attributes:
      logits: its softmax spreads the share; for the right side's columns and then for as many further ones as it has.
        No gradient flows into it.
      share: of the target that is spread.
      keeps: whether the positive takes part in the softmax and so keeps a part of the share (ALBEF), or leaves all of
        it to the negatives (LightCLIP).
    """

    logits: Float[Array, "B C"]
    share: Float[Array, ""]
    keeps: bool


def softmax_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    scale: Float[Array, ""],
    *,
    margin: float = 0.0,
    further: tuple[Negatives, ...] = (),
    guides: tuple[Guide, ...] = (),
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """InfoNCE (van den Oord et al. 2018) of each left row against all right columns; use it unless batches are tiny.

    With several positives, each is contrasted with the negatives alone and the row is their mean, so that positives do
    not push one another away (ours; SupCon, Khosla et al. 2020, keeps them in the denominator).

    A margin above 0 makes it AM-softmax, which MAKE's group found better (said in the article that precedes arXiv
    2301.12646): L = -log e^{s(c_p - m)} / (e^{s(c_p - m)} + sum_negatives e^{s c_j}).
    Guides make the target of a positive p and its negatives y = (1 - sum a_g) onehot_p + sum a_g softmax(guide_g), and
    the loss the cross entropy with y; a row without negatives has the plain target.

    Args:
      left, right: unit vectors.
      positive: pairs that belong together.
      valid: pairs that count at all; an invalid pair changes nothing.
      scale: multiplies the cosines.
      margin: taken off the cosine of a positive.
      further: more negatives of each row.
      guides: whose shares sum to less than 1.

    Returns:
      The loss of each row, and whether it has one (some valid positive); rows without are 0.
    """
    logits = scale * jnp.einsum("IE,JE->IJ", left, gathered(right, None, None))
    positive = positive & valid
    columns = jnp.concatenate([logits, *(block.logits for block in further)], axis=1)
    negative = jnp.concatenate([valid & ~positive, *(block.valid for block in further)], axis=1)
    # A row without negatives has -inf here, and log(e^s + 0) = s: no loss and no gradient, as it should be.
    against = jax.nn.logsumexp(jnp.where(negative, columns, -jnp.inf), axis=1, keepdims=True)
    against = jnp.maximum(against, -1e30)
    hits = logits - scale * margin
    losses = jnp.logaddexp(hits, against) - hits
    for guide in guides:
        losses += guide.share * softened(guide, hits, columns, negative)
    losses = jnp.where(positive, losses, 0)
    count = positive.sum(axis=1)
    return losses.sum(axis=1) / jnp.maximum(count, 1), count > 0


def softened(
    guide: Guide, hits: Float[Array, "B B"], columns: Float[Array, "B C"], negative: Bool[Array, "B C"]
) -> Float[Array, "B B"]:
    """What the cross entropy of each pair gains when the whole of its target follows the guide.

    That is the logit of the pair less the mean logit under the guide: with z = log sum e^logit, the cross entropy
    z - sum_j y_j logit_j is linear in y.

    Args:
      guide: its share is not looked at.
      hits: the logits of pairs as positives.
      columns, negative: logits as negatives, and which are.
    """
    teacher = jax.lax.stop_gradient(guide.logits)
    C, B = teacher.shape[1], hits.shape[1]
    masked = jnp.where(negative[:, :C], teacher, -1e30)
    likely = jax.nn.softmax(masked, axis=1)
    mean = (likely * jnp.where(negative[:, :C], columns[:, :C], 0)).sum(axis=1, keepdims=True)
    if guide.keeps:
        moved = jax.nn.sigmoid(jax.nn.logsumexp(masked, axis=1, keepdims=True) - teacher[:, :B])
    else:
        moved = negative[:, :C].any(axis=1, keepdims=True)
    return moved * (hits - mean)


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
