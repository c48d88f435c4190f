"""The contrastive terms between two of a batch's vectors: query, title, image and product.

B global batch, E vector size, K vectors in the bank.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maxsearch.config import LossConfig
from maxsearch.config.loss import CONTRASTIVE
from maxsearch.losses.bank import bank_negatives
from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import IDS, Guide, Negatives, sigmoid_loss, softmax_loss, weighted_mean
from maxsearch.losses.masks import batch_contained, batch_positives
from maxsearch.losses.ring import About, Rows, ring_sigmoid_loss, ring_softmax_loss
from maxsearch.losses.sdm import sdm_loss
from maxsearch.mesh import gathered
from maxsearch.models.search import Outputs


@dataclass(frozen=True)
class Side:
    """One kind of vector of a batch, and which rows have it."""

    vectors: Float[Array, "B E"]
    present: Bool[Array, " B"]


@dataclass(frozen=True)
class Known:
    """What ids and keywords say of the pairs of a batch; `contained` has a query per row, a product per column."""

    positive: Bool[Array, "B B"]
    contained: Bool[Array, "B B"] | None


def sides(context: Context, outputs: Outputs | None = None) -> dict[str, Side]:
    """Query, product, title and image; a product without a title (or image) has no such row, a masked example none.

    `outputs` are those of the context when None.
    """
    batch, outputs = context.batch, outputs or context.outputs
    title, image = batch["title_mask"].any(axis=1), batch["image_present"].any(axis=1)
    return {
        "query": Side(outputs.query, context.real),
        "product": Side(outputs.products.product, context.real),
        "title": Side(outputs.products.title, title),
        "image": Side(outputs.products.image, image),
    }


def pair_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """Every contrastive term whose weight is above 0; all six are CommerceMM's grid (arXiv 2202.07247).

    A term is the mean over rows by pair weight (graded as in Marqo GCL), of both directions. The sigmoid loss looks at
    each pair once and has one direction; SDM is the sum of both (IRRA; code).
    """
    known = None if context.config.ring else Known(batch_positives(context), batch_contained(context))
    values: dict[str, Float[Array, ""]] = {}
    for name in CONTRASTIVE:
        if context.config.weights[name] == 0:
            continue
        left, right = name.split("_")
        ways = ring_ways(context, left, right) if known is None else dense_ways(context, known, left, right)
        means = [weighted_mean(*rows, context.row_weights) for rows in ways]
        values[name] = sum(means[1:], start=means[0]) / (1 if context.config.kind == "sdm" else len(means))
    return values


def dense_ways(context: Context, known: Known, left: str, right: str) -> list[Rows]:
    """The loss of each row by direction, from the matrix of all pairs."""
    ways = [dense_rows(context, known, left, right)]
    if context.config.kind != "sigmoid":
        ways.append(dense_rows(context, known, right, left))
    return ways


def dense_rows(context: Context, known: Known, left: str, right: str) -> Rows:
    """The loss of each row, and whether it has one, from the matrix of all pairs."""
    config, outputs, every = context.config, context.outputs, sides(context)
    valid = every[left].present[:, None] & gathered(every[right].present, None)[None, :]
    if known.contained is not None and "query" in (left, right):
        contained = known.contained if left == "query" else gathered(known.contained.T, "batch", None)
        valid &= known.positive | ~contained
    pairs = every[left].vectors, every[right].vectors, known.positive, valid, outputs.logit_scale
    if config.kind == "sigmoid":
        return sigmoid_loss(*pairs, outputs.logit_bias)
    if config.kind == "sdm":
        return sdm_loss(*pairs)
    return softmax_loss(
        *pairs,
        margin=margin_of(config),
        further=bank_columns(context, left, right) + same_side(context, known, left),
        guides=guides(context, left, right),
    )


def ring_ways(context: Context, left: str, right: str) -> list[Rows]:
    """The loss of each row by direction, block by block."""
    config, outputs, batch, every = context.config, context.outputs, context.batch, sides(context)
    ids = {name: batch[name] for name in IDS}
    masked = config.keyword_mask and "query_keywords" in batch and "query" in (left, right)

    def about(side: str) -> About:
        if not masked:
            return About(ids, every[side].present)
        if side == "query":
            keywords = {"asked": batch["query_keywords"], "covered": batch["query_covered"]}
        else:
            keywords = {"owned": batch["product_keywords"]}
        return About(ids, every[side].present, **keywords)

    pairs = every[left].vectors, every[right].vectors, (about(left), about(right)), outputs.logit_scale
    if config.kind == "sigmoid":
        return [ring_sigmoid_loss(*pairs, outputs.logit_bias, vocabulary=context.keywords)]
    bank, further = context.bank, None
    if bank is not None and right == "product":
        written = gathered(jnp.arange(len(bank.product)) < bank.filled, "batch") & (bank.product >= 0)
        known = {name: getattr(bank, name) for name in IDS}
        further = bank.vectors, About(known, written, owned=bank.keywords if masked else None)
    return list(ring_softmax_loss(*pairs, margin=margin_of(config), bank=further, vocabulary=context.keywords))


def margin_of(config: LossConfig) -> float:
    """What AM-softmax takes off a positive's cosine; 0 for the others."""
    return config.margin if config.kind == "am_softmax" else 0.0


def bank_columns(context: Context, left: str, right: str) -> tuple[Negatives, ...]:
    """The bank's products as further negatives of whatever is compared with products."""
    bank, batch = context.bank, context.batch
    if bank is None or right != "product":
        return ()
    side = sides(context)[left]
    valid = bank_negatives(bank, batch) & side.present[:, None]
    contained = batch_contained(context, bank.keywords) if left == "query" else None
    if contained is not None:
        valid &= ~contained
    return (Negatives(context.outputs.logit_scale * jnp.einsum("IE,KE->IK", side.vectors, bank.vectors), valid),)


def same_side(context: Context, known: Known, left: str) -> tuple[Negatives, ...]:
    """Rows of the left side as negatives of one another (M3EL, arXiv 2412.10440; code).

    As in their code the weight multiplies the logit. They keep a row's own place in the denominator, as a logit of 0;
    here it is left out, and so is whatever belongs together (ours).
    """
    weight, side = context.config.same_side, sides(context)[left]
    if weight == 0:
        return ()
    cosines = jnp.einsum("IE,JE->IJ", side.vectors, gathered(side.vectors, None, None))
    valid = side.present[:, None] & gathered(side.present, None)[None, :] & ~known.positive
    return (Negatives(weight * context.outputs.logit_scale * cosines, valid),)


def guides(context: Context, left: str, right: str) -> tuple[Guide, ...]:
    """What softens the targets of a term; the similarities of batch and bank, of the model itself or its average.

    The model itself: LightCLIP (arXiv 2312.00674) says that the labels of negatives are softened progressively; that
    their shares are the softmax of the model's own logits, and rise linearly over the stage, is ours.
    The average: ALBEF's momentum distillation (arXiv 2107.07651; code), whose right side is the bank and the average's
    batch in both distributions; here the model's own batch is in its own (ours).
    """
    config, found = context.config, []

    def logits(outputs: Outputs) -> Float[Array, "B C"]:
        every = sides(context, outputs)
        vectors = gathered(every[right].vectors, None, None)
        if context.bank is not None and right == "product":
            vectors = jnp.concatenate([vectors, context.bank.vectors])
        return outputs.logit_scale * jnp.einsum("IE,JE->IJ", every[left].vectors, vectors)

    if config.soft_labels:
        found.append(Guide(logits(context.outputs), config.soft_labels * context.progress, keeps=False))
    if context.targets is not None:
        found.append(Guide(logits(context.targets), jnp.float32(config.momentum), keeps=True))
    return tuple(found)
