"""The matching head's loss, on true pairs and on hard ones that the two towers take for true.

B global batch, C columns of it, T tokens, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import weighted_mean
from maxsearch.losses.masks import batch_contained, batch_positives
from maxsearch.losses.rows import row_mean
from maxsearch.mesh import gathered, spec
from maxsearch.models.fusion import Tokens
from maxsearch.models.heads import take


def matching_loss(
    logits: Float[Array, "B 3"], mask: Bool[Array, "B 3"]
) -> tuple[Float[Array, "B 3"], Bool[Array, "B 3"]]:
    """Binary cross-entropy of a true pair and two false ones (ALBEF's matching loss; code).

    Args:
      logits: log odds that these belong together: a query and its product, the query and a hard product, a hard query
        and the product.
      mask: which of the three count; the others are 0 and change nothing.
    """
    true = jnp.arange(3) == 0
    return jnp.where(mask, jax.nn.softplus(jnp.where(true, -logits, logits)), 0), mask


def draw_negatives(
    key: PRNGKeyArray, similarity: Float[Array, "B C"], allowed: Bool[Array, "B C"]
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """One hard negative for each row, drawn from the softmax of its similarities (ALBEF; code).

    The draw is the largest of the similarities with Gumbel noise added, which has that distribution.

    Args:
      key: of the draw.
      similarity: scaled cosines of row i and column j.
      allowed: which columns are negatives of a row.

    Returns:
      A column for each row, and whether the row has a negative at all.
    """
    noise = jax.random.gumbel(key, similarity.shape, out_sharding=spec("batch", None))
    scores = jnp.where(allowed, similarity + noise, -jnp.inf)
    return jnp.argmax(scores, axis=1).astype(jnp.int32), allowed.any(axis=1)


def in_turn(*choices: Tokens) -> Tokens:
    """Rows of several batches, interleaved: row by row one of each."""
    B, T, D = choices[0].states.shape
    rows = len(choices) * B
    states = jnp.stack([choice.states for choice in choices], axis=1)
    mask = jnp.stack([choice.mask for choice in choices], axis=1)
    return Tokens(
        jax.lax.reshape(states, (rows, T, D), out_sharding=spec("batch", None, None)),
        jax.lax.reshape(mask, (rows, T), out_sharding=spec("batch", None)),
    )


def match(context: Context, name: str) -> Float[Array, ""]:
    """`matching` of query and product, or `image_matching` of query and picture (MAKE's authors: said that it helps).

    Negatives are drawn from the similarities of the very vectors that the pairs are first ranked by, never among the
    pairs that belong together or, with `keyword_mask`, are likely to.
    """
    outputs, batch = context.outputs, context.batch
    B = outputs.query.shape[0]
    if name == "matching":
        vectors, present = outputs.products.product, context.real
    else:
        vectors, present = outputs.products.image, batch["image_present"].any(axis=1)
    query, other = jax.lax.stop_gradient(outputs.query), jax.lax.stop_gradient(vectors)
    scale = jax.lax.stop_gradient(outputs.logit_scale)
    related, contained = batch_positives(context), batch_contained(context)
    related = related if contained is None else related | contained
    allowed = ~related & present[:, None] & gathered(present, None)[None, :]
    product_key, query_key = jax.random.split(context.key_for(name))
    hard_product, has_product = draw_negatives(
        product_key, scale * jnp.einsum("IE,JE->IJ", query, gathered(other, None, None)), allowed
    )
    hard_query, has_query = draw_negatives(
        query_key,
        scale * jnp.einsum("IE,JE->IJ", other, gathered(query, None, None)),
        gathered(allowed.T, "batch", None),
    )
    words, patches = outputs.tokens.words, outputs.tokens.patches
    queries = in_turn(outputs.query_words, outputs.query_words, take(outputs.query_words, hard_query))
    logits = context.model.heads[name](
        queries,
        in_turn(words, take(words, hard_product), words) if name == "matching" else None,
        in_turn(patches, take(patches, hard_product), patches),
    )
    logits = jax.lax.reshape(logits, (B, 3), out_sharding=spec("batch", None))
    mask = jnp.stack([present, has_product, has_query], axis=1)
    return weighted_mean(*row_mean(*matching_loss(logits, mask)), context.row_weights)


def matching_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """`matching` and `image_matching`, those whose weight is above 0."""
    names = ("matching", "image_matching")
    return {name: match(context, name) for name in names if context.config.weights[name] > 0}
