"""The keyword head's loss: which keywords belong to a query, an image or a product.

B rows of the batch, K keywords.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import weighted_mean
from maxsearch.losses.masks import multi_hot


def keyword_loss(
    logits: Float[Array, "B K"], target: Bool[Array, "B K"], counted: Bool[Array, "B K"]
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Binary cross-entropy summed over the vocabulary, per keyword to be found.

    The division by the number of keywords to be found makes a row of any length, over a vocabulary of any size, cost
    about as much as a softmax over the vocabulary would: at the start log K, like a contrastive term at its (ours).

    Args:
      logits: log odds of each keyword.
      target: the keywords to be found.
      counted: the keywords that take part; the others change nothing.

    Returns:
      The loss of each row, and whether it has one (some counted keyword to be found); rows without are 0.
    """
    losses = jnp.where(counted, jax.nn.softplus(jnp.where(target, -logits, logits)), 0)
    count = (target & counted).sum(axis=1)
    return jnp.where(count > 0, losses.sum(axis=1) / jnp.maximum(count, 1), 0), count > 0


def keyword_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """`keywords`, `keywords_image` and `keywords_product`, those whose weight is above 0.

    The query predicts the keywords of the clicked product that it lacks; its own are left out of the loss (MAKE's
    keyword enhancement: said that it enriches short queries; the construction is ours). Image and product predict all
    of the product's keywords (ours). A product without keywords, or without an image, takes no part.
    """
    batch, products = context.batch, context.outputs.products
    vectors = {
        "keywords": context.outputs.query,
        "keywords_image": products.image,
        "keywords_product": products.product,
    }
    terms: dict[str, Float[Array, ""]] = {}
    for name, unit in vectors.items():
        if context.config.weights[name] == 0:
            continue
        logits = context.model.heads[name](unit)
        target = multi_hot(batch["product_keywords"], logits.shape[1]) > 0
        counted = jnp.ones_like(target)
        if name == "keywords":
            counted = multi_hot(batch["query_keywords"], logits.shape[1]) == 0
        elif name == "keywords_image":
            counted = counted & batch["image_present"].any(axis=1, keepdims=True)
        terms[name] = weighted_mean(*keyword_loss(logits, target, counted), context.row_weights)
    return terms
