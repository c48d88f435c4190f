"""Similarity distribution matching: the model's distribution over a row's pairs against that of the labels.

B global batch, E vector size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maxsearch.mesh import gathered

EPSILON = 1e-8


def sdm_loss(
    left: Float[Array, "B E"],
    right: Float[Array, "B E"],
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    scale: Float[Array, ""],
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """SDM (IRRA, arXiv 2303.12501; code): KL(p || q + 1e-8), p the softmax of a row's logits, q its positives alike.

    It takes several positives per row as they are: use it where many pairs match. As in their code, q is divided by the
    sum of its row, and the two directions are added by the caller. Their temperature stays at 0.02 (a scale of 50);
    ours is learned from `loss.scale` on like that of every kind (ours).

    Args:
      left, right: unit vectors.
      positive: pairs that belong together.
      valid: pairs that count at all; an invalid pair changes nothing.
      scale: multiplies the cosines.

    Returns:
      The divergence of each row, and whether it has one (some valid positive); rows without are 0.
    """
    logits = scale * jnp.einsum("IE,JE->IJ", left, gathered(right, None, None))
    positive = positive & valid
    count = positive.sum(axis=1)
    log_p = jax.nn.log_softmax(jnp.where(valid, logits, -1e30), axis=1)
    log_q = jnp.log(positive / jnp.maximum(count, 1)[:, None] + EPSILON)
    rows = jnp.where(valid, jnp.exp(log_p) * (log_p - log_q), 0).sum(axis=1)
    return jnp.where(count > 0, rows, 0), count > 0
