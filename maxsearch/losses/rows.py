"""From the parts of a row to the row.

B rows, M parts.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def row_mean(values: Float[Array, "B M"], mask: Bool[Array, "B M"]) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Mean over the parts of each row whose mask holds, and whether the row has any; rows without are 0."""
    count = mask.sum(axis=1)
    return jnp.where(mask, values, 0).sum(axis=1) / jnp.maximum(count, 1), count > 0
