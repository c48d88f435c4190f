"""eSSPR's unit of three hinge losses over a product's title t, image v and joined vector m (arXiv 2302.05093; code).

Theirs is a pair of products that shoppers take for the same style: a left one, of which a is seen, and a right one.
Ours has queries and products. So the left one is a product of which the text alone is known, the query, and its pair is
the product that was clicked (ours); and a product is the left one of every other product of the batch that shares its
variant group or its query (ours), if there is any.

B global batch, E vector size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import weighted_mean
from maxsearch.losses.masks import batch_contained, batch_positives
from maxsearch.losses.pairs import Side, sides
from maxsearch.mesh import gathered

NEIGHBOURS = 10


def esspr_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """The terms `ppm`, `pdc` and `plc`, each summed over what may be seen of the left product."""
    config, batch, every = context.config, context.batch, sides(context)
    if not (config.ppm or config.pdc or config.plc):
        return {}
    positive, joined, margins = batch_positives(context), every["product"], config.margins
    weights = context.row_weights
    other = batch["product"][:, None] != gathered(batch["product"], None)[None, :]

    def mean(left: Side, found: tuple[Float[Array, " B"], Bool[Array, " B"]]) -> Float[Array, ""]:
        rows, has = found
        return weighted_mean(rows, has & left.present, weights)

    def whole(left: Side) -> Bool[Array, "B B"]:
        return left.present[:, None] & gathered(joined.present, None)[None, :]

    values: dict[str, Float[Array, ""]] = {}
    itself = jnp.eye(len(weights), dtype=bool)
    if config.ppm:
        query = every["query"]
        contained = batch_contained(context)
        valid = whole(query) if contained is None else whole(query) & (positive | ~contained)
        values["ppm"] = mean(query, hinge_loss(query.vectors, joined.vectors, itself, positive, valid, margins.ppm))
        for left in (every["product"], every["title"], every["image"]):
            pairs = positive & other
            valid = whole(left) & other
            values["ppm"] += mean(left, hinge_loss(left.vectors, joined.vectors, pairs, positive, valid, margins.ppm))
    for name in ("pdc", "plc"):
        if config.weights[name] == 0:
            continue
        values[name] = jnp.zeros(())
        for left in (every["title"], every["image"]):
            if name == "pdc":
                found = hinge_loss(left.vectors, joined.vectors, itself, positive, whole(left), margins.pdc)
            else:
                found = locality_loss(joined.vectors, left.vectors, joined.vectors, whole(left) & other, margins.plc)
            values[name] += mean(left, found)
    return values


def hinge_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    pairs: Bool[Array, "B B"],
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    margin: float,
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """PPM and PDC: mean_j max(0, s_ij - s_i + margin (1 - d_ij)), s the cosines (code).

    In their code s_i = s_ii and d is the identity. With several pairs in a row, s_i is their mean; and d_ij is 1
    wherever j is a known positive (ours).

    Args:
      left, right: unit vectors.
      pairs: whose cosine is to be above the others'.
      positive: pairs that belong together.
      valid: pairs that count at all.
      margin: see above.

    Returns:
      The loss of each row, and whether it has one (some valid pair); rows without are 0.
    """
    cosines = jnp.einsum("IE,JE->IJ", left, gathered(right, None, None))
    pairs = pairs & valid
    count = pairs.sum(axis=1, keepdims=True)
    own = jnp.where(pairs, cosines, 0).sum(axis=1, keepdims=True) / jnp.maximum(count, 1)
    losses = jnp.maximum(cosines - own + jnp.where(positive, 0.0, margin), 0)
    rows = jnp.where(valid, losses, 0).sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)
    has = count[:, 0] > 0
    return jnp.where(has, rows, 0), has


def locality_loss(
    whole: Float[Array, "B E"],
    part: Float[Array, "B E"],
    right: Float[Array, "B E"],
    valid: Bool[Array, "B B"],
    margin: float,
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """PLC: mean over the 10 largest D_ij = whole_i . right_j of max(0, (D_ij - part_i . right_j)^2 - margin) (code).

    As in their code the gradient flows into both. Of equal ones at the tenth place all count (ours).

    Args:
      whole: joined vectors of the left products.
      part: one modality of the same.
      right: joined vectors of the right products.
      valid: pairs that count at all.
      margin: see above.

    Returns:
      The loss of each row, and whether it has one (some valid pair); rows without are 0.
    """
    right = gathered(right, None, None)
    near, seen = jnp.einsum("IE,JE->IJ", whole, right), jnp.einsum("IE,JE->IJ", part, right)
    ranked = jax.lax.stop_gradient(jnp.where(valid, near, -jnp.inf))
    tenth = jax.lax.top_k(ranked, min(NEIGHBOURS, len(right)))[0][:, -1:]
    chosen = valid & (ranked >= tenth)
    rows = jnp.where(chosen, jnp.maximum(jnp.square(near - seen) - margin, 0), 0).sum(axis=1)
    return rows / jnp.maximum(chosen.sum(axis=1), 1), chosen.any(axis=1)
