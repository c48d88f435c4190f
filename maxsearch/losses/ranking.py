"""Triplet ranking of query and product: the pair's cosine must beat a drawn negative's by a margin.

B global batch, E vector size.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import weighted_mean
from maxsearch.losses.masks import batch_contained, batch_positives
from maxsearch.mesh import gathered, spec


def ranking_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """The term `ranking`; on both sides it is the mean of the two.

    After arXiv 1601.03478 (said: a global ranking objective, and that negatives be drawn on the side that will be
    ranked); which draw it is, is chosen by `loss.ranking_draw`.
    """
    config = context.config
    if config.ranking == 0:
        return {}
    draw = config.ranking_draw
    query, product = context.outputs.query, context.outputs.products.product
    negative = ~batch_positives(context) & context.real[:, None] & gathered(context.real, None)[None, :]
    contained = batch_contained(context)
    if contained is not None:
        negative &= ~contained
    keys = jax.random.split(context.key_for("ranking"))
    weights = context.row_weights
    values = []
    if draw.side != "query":
        rows, mask = triplet_loss(query, product, negative, draw.margin, draw.negatives, keys[0])
        values.append(weighted_mean(rows, mask, weights))
    if draw.side != "product":
        turned = gathered(negative.T, "batch", None)
        rows, mask = triplet_loss(product, query, turned, draw.margin, draw.negatives, keys[1])
        values.append(weighted_mean(rows, mask, weights))
    return {"ranking": sum(values, start=jnp.zeros(())) / len(values)}


def triplet_loss(
    anchors: Float[Array, "B E"],
    others: Float[Array, "B E"],
    negative: Bool[Array, "B B"],
    margin: float,
    draw: Literal["random", "semi_hard", "hardest"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """max(0, margin - cos(anchor_i, other_i) + cos(anchor_i, other_j)), with one negative j drawn for each row.

    Args:
      anchors, others: unit vectors; row i of both belong together.
      negative: which pairs are negatives.
      margin: see above.
      draw: `random`, each negative as likely; `hardest`, the most similar one; `semi_hard` (FaceNet, Schroff et al.
        2015), the most similar of those that are less similar than the row's own. Where all are more similar, the
        least similar stands in, as in TensorFlow's implementation; where none lies within the margin, the loss is 0.
      key: of the random draw.

    Returns:
      The loss of each row, and whether it has one (some negative); rows without are 0.
    """
    own = (anchors * others).sum(axis=1, keepdims=True)
    cosines = jnp.einsum("IE,JE->IJ", anchors, gathered(others, None, None))
    has = negative.any(axis=1)
    if draw == "random":
        rank = jax.random.uniform(key, cosines.shape, out_sharding=spec("batch", None))
    elif draw == "hardest":
        rank = cosines
    else:
        # Cosines lie in [-1, 1]: those below the row's own rank first and upwards, then the others downwards.
        rank = jnp.where(cosines < own, 4 + cosines, -cosines)
    rank = jax.lax.stop_gradient(jnp.where(negative, rank, -jnp.inf))
    drawn = jnp.arange(cosines.shape[1]) == jnp.argmax(rank, axis=1, keepdims=True)
    losses = jnp.maximum(margin - own[:, 0] + jnp.where(drawn, cosines, 0).sum(axis=1), 0)
    return jnp.where(has, losses, 0), has
