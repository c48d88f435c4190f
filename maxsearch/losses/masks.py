"""Which pairs of a batch are no negatives: those that belong together, and products that have all the query's words.

B and C rows of queries and of products, W and K their keywords, V words in the vocabulary of keywords.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import positive_pairs
from maxsearch.mesh import gathered


def batch_positives(context: Context) -> Bool[Array, "B B"]:
    """`positive_pairs` of the batch."""
    batch = context.batch
    return positive_pairs(batch["query"], batch["product"], batch["variant"])


def batch_contained(context: Context, products: Int[Array, "C K"] | None = None) -> Bool[Array, "B C"] | None:
    """`contained_pairs` of the batch's queries and products; None without a mask or keywords.

    Args:
      context: of the batch.
      products: keyword ids of the products; those of the batch when None.
    """
    batch = context.batch
    if not context.config.keyword_mask or "query_keywords" not in batch:
        return None
    products = batch["product_keywords"] if products is None else products
    products = gathered(products, None, None)
    return contained_pairs(batch["query_keywords"], batch["query_covered"], products, context.keywords)


def contained_pairs(
    query_keywords: Int[Array, "B W"],
    query_covered: Bool[Array, " B"],
    product_keywords: Int[Array, "C K"],
    size: int,
) -> Bool[Array, "B C"]:
    """Whether every word of a query is among a product's keywords: a pair that is likely to match, clicked or not.

    A false negative in MAKE's sense (arXiv 2301.12646 says that its keyword enhancement counters them; this rule is
    ours).

    Args:
      query_keywords: the keyword ids of each query's words, below 0 where there is none.
      query_covered: whether the vocabulary has every content word of the query; a query of which it lacks one is
        contained nowhere, nor is one without words.
      product_keywords: the keyword ids of each product, below 0 where there is none; whole on each device.
      size: of the vocabulary.
    """
    query, product = multi_hot(query_keywords, size), multi_hot(product_keywords, size)
    words = query.sum(axis=1)
    shared = jnp.einsum("BV,CV->BC", query, product)
    return (query_covered & (words > 0))[:, None] & (shared >= words[:, None])


def multi_hot(ids: Int[Array, "B K"], size: int) -> Float[Array, "B V"]:
    """1 at each of a row's ids, however often it stands there; ids below 0 are none."""
    return (ids[:, :, None] == jnp.arange(size)).any(axis=1).astype(jnp.float32)
