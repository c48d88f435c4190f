"""Masked words, guessed with the image at hand, and masked patches, told apart.

B rows of the batch, R pictures, T words, P patches, M masked slots, D width of patches, V vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import positive_pairs, weighted_mean
from maxsearch.losses.masking import choose_patches, choose_words, corrupt, slots_of, word_slots
from maxsearch.losses.rows import row_mean
from maxsearch.mesh import gathered, spec
from maxsearch.models.fusion import Tokens
from maxsearch.models.layers import l2_normalize

PATCH_SCALE = 10.0  # 1 / temperature of the masked patches; fixed, for the learned one is that of queries and products


def masked_word_loss(
    logits: Float[Array, "B M V"], targets: Int[Array, "B M"], mask: Bool[Array, "B M"]
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
    """Cross-entropy of each masked word (BERT, Devlin et al. 2019); it teaches words to lean on the image (IRRA).

    Args:
      logits: over the vocabulary.
      targets: the words that stood there.
      mask: which slots hold a word; the others are 0 and change nothing.
    """
    picked = jnp.where(targets[..., None] == jnp.arange(logits.shape[-1]), logits, 0).sum(axis=-1)
    return jnp.where(mask, jax.nn.logsumexp(logits, axis=-1) - picked, 0), mask


def masked_patch_loss(
    predicted: Float[Array, "R M D"],
    true: Float[Array, "R M D"],
    present: Bool[Array, " R"],
    distinct: Bool[Array, "R R"],
    scale: float | Float[Array, ""],
) -> tuple[Float[Array, "R M"], Bool[Array, "R M"]]:
    """InfoNCE of each masked patch against the true ones (MPM_R: contrastive, not regressive; ours in detail).

    Its negatives are the other masked patches of its picture and the first masked patch of each other one, which is a
    random one when the slots are in random order: all of them would make a matrix of (R M) x (R M).

    Args:
      predicted: features guessed at the masked slots.
      true: what the encoder makes of the unmasked pictures there; no gradient flows into it.
      present: which pictures are there; the others have no loss and are nobody's negatives.
      distinct: distinct[i, j] says that picture j may serve as a negative of picture i, as that of another product.
      scale: multiplies the cosines.

    Returns:
      The loss of each slot, and whether it has one.
    """
    predicted, true = l2_normalize(predicted), l2_normalize(jax.lax.stop_gradient(true))
    own = scale * jnp.einsum("RMD,RND->RMN", predicted, true)
    others = scale * jnp.einsum("RMD,SD->RMS", predicted, gathered(true[:, 0], None, None))
    usable = distinct & gathered(present, None)[None, :]
    others = jnp.where(usable[:, None, :], others, -jnp.inf)
    # Own patches are never empty, so that the sum is finite whatever the others are.
    against = jnp.logaddexp(jax.nn.logsumexp(own, axis=-1), jax.nn.logsumexp(others, axis=-1))
    right = jnp.where(jnp.eye(own.shape[1], dtype=bool), own, 0).sum(axis=-1)
    mask = jnp.broadcast_to(present[:, None], right.shape)
    return jnp.where(mask, against - right, 0), mask


def masked_words(context: Context, text: str) -> Float[Array, ""]:
    """Masked words of the `query` or the `title`, which read the product's image; without one, its null token.

    Words are masked as `masking` says, whole, and the row is the mean over its masked tokens (ours; IRRA takes the mean
    over all tokens of the batch).
    """
    batch, model, name = context.batch, context.model, f"mlm_{text}"
    ids, mask, rate = batch[f"{text}_ids"], batch[f"{text}_mask"], context.config.masked.words
    choice, change, dropout = jax.random.split(context.key_for(name), 3)
    chosen = choose_words(choice, batch[f"{text}_word"], mask, rate)
    read, hidden = corrupt(change, chosen, ids, mask)
    slots = slots_of(chosen, word_slots(ids.shape[1], rate))
    head = model.heads[name]
    encoder = model.query_encoder if text == "query" else model.title_encoder
    key = None if context.key is None else dropout
    words = Tokens(encoder(read, mask, key, (hidden, head.null[...])), mask)
    logits = head(words, context.outputs.tokens.patches, slots)
    targets = jnp.where(slots, ids[:, None, :], 0).sum(axis=-1)
    return weighted_mean(*row_mean(*masked_word_loss(logits, targets, slots.any(axis=-1))), context.row_weights)


def masked_patches(context: Context) -> Float[Array, ""]:
    """Masked patches of every picture; the row is the mean over its pictures' masked patches."""
    batch, model, head = context.batch, context.model, context.model.heads["mpm"]
    image, present = batch["image"], batch["image_present"]
    B, N = present.shape
    P = context.outputs.tokens.patches.states.shape[1] // N

    def pictures(x: Array) -> Array:
        """Splits the pictures of products into rows of their own."""
        return jax.lax.reshape(x, (B * N, *x.shape[2:]), out_sharding=spec("batch", *(None,) * (x.ndim - 2)))

    choice, dropout = jax.random.split(context.key_for("mpm"))
    slots = choose_patches(choice, B * N, P, context.config.masked.patches)
    key = None if context.key is None else dropout
    states = model.image_encoder(pictures(image), key, (slots.any(axis=1), head.null[...]))
    true = context.outputs.tokens.patches.states
    true = jax.lax.reshape(true, (B * N, P, true.shape[-1]), out_sharding=spec("batch", None, None))
    # Pictures of one product, or of its variants, may show the same.
    product, variant = (pictures(jnp.broadcast_to(batch[name][:, None], (B, N))) for name in ("product", "variant"))
    values, mask = masked_patch_loss(
        head(jnp.einsum("RMP,RPD->RMD", slots.astype(states.dtype), states)),
        jnp.einsum("RMP,RPD->RMD", slots.astype(true.dtype), true),
        pictures(present),
        ~positive_pairs(product, product, variant),
        PATCH_SCALE,
    )
    whole = (B, N * values.shape[1])
    values, mask = (jax.lax.reshape(x, whole, out_sharding=spec("batch", None)) for x in (values, mask))
    return weighted_mean(*row_mean(values, mask), context.row_weights)


def masked_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """`mlm_query`, `mlm_title` and `mpm`, those whose weight is above 0."""
    weights = context.config.weights
    terms = {f"mlm_{text}": masked_words(context, text) for text in ("query", "title") if weights[f"mlm_{text}"] > 0}
    return terms | ({"mpm": masked_patches(context)} if weights["mpm"] > 0 else {})
