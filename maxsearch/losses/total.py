"""The training loss: a weighted sum of named terms, family by family."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from maxsearch.losses.align import align_terms
from maxsearch.losses.context import Context, Family
from maxsearch.losses.esspr import esspr_terms
from maxsearch.losses.keywords import keyword_terms
from maxsearch.losses.masked import masked_terms
from maxsearch.losses.matching import matching_terms
from maxsearch.losses.pairs import pair_terms
from maxsearch.losses.ranking import ranking_terms

BETWEEN_VECTORS: tuple[Family, ...] = (pair_terms, ranking_terms, esspr_terms, keyword_terms)
BETWEEN_TOKENS: tuple[Family, ...] = (masked_terms, matching_terms, align_terms)  # these read token states
FAMILIES = BETWEEN_VECTORS + BETWEEN_TOKENS


def total_loss(
    context: Context, families: tuple[Family, ...] = FAMILIES
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum, and every term by its name. A term of weight 0 is not computed."""
    terms: dict[str, Float[Array, ""]] = {}
    for family in families:
        terms |= family(context)
    loss = sum((context.config.weights[name] * value for name, value in terms.items()), start=jnp.zeros(()))
    return loss, terms
