"""The aligner's losses on a product's own title and picture: structure, and bags of words and patches.

AlignCMSS, stage C (arXiv 2309.16141). said: the alignment is learned without labels, from the consistency of the
co-occurrence structure of vision and language. ours: the equations below. LightCLIP's relaxed bipartite matching
(arXiv 2312.00674; said: in training only; ours: the transport) is an option of the bag loss.

The words are the title's own states, without gradient: patches are moved towards the language, never the other way.

B global batch, P patches, T words, D width of the title tower, N drawn titles.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from maxsearch.config.loss import AlignLossConfig
from maxsearch.losses.context import Context
from maxsearch.losses.contrastive import positive_pairs, weighted_mean
from maxsearch.mesh import gathered, spec
from maxsearch.models.fusion import Tokens
from maxsearch.models.layers import l2_normalize, masked_mean

HARD_NEGATIVES = 7
BLOCK_ELEMENTS = 2**25  # cosines of patches and words that are held at once, on each device


def structure_loss(
    patches: Tokens, words: Tokens, cosines: Float[Array, "B P T"], temperature: float | int
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """||rows(A' S_P A) - S_T||^2 / T: words that share patches should be as alike as their patches say.

    A_ij = softmax_j(cos_ij / temperature) over the title's real words. S_P and S_T are the products' own patch-by-patch
    and word-by-word cosines with rows of absolute sum 1, the patches less their mean, because all patches of a picture
    have much in common. A' S_P A is brought to such rows too, since a picture has more patches than its title words.

    Args:
      patches: their states as the image tower gives them.
      words: the title's.
      cosines: of the mapped patches with the words.
      temperature: of the attention.

    Returns:
      The loss of each product, and whether it has one (a patch and a word at least); others are 0.
    """
    pairs = patches.mask[:, :, None] & words.mask[:, None, :]
    attention = jax.nn.softmax(jnp.where(pairs, cosines / temperature, -1e30), axis=-1)
    attention = jnp.where(pairs, attention, 0)
    states = patches.states.astype(jnp.float32)
    states -= masked_mean(states, patches.mask)[:, None]
    seen = unit_rows(within(states, patches.mask))
    said = unit_rows(within(words.states, words.mask))
    structure = unit_rows(jnp.einsum("BPT,BPQ,BQS->BTS", attention, seen, attention))
    both = words.mask[:, :, None] & words.mask[:, None, :]
    has = pairs.any(axis=(1, 2))
    total = jnp.where(both & has[:, None, None], jnp.square(structure - said), 0).sum(axis=(1, 2))
    return total / jnp.maximum(words.mask.sum(axis=1), 1), has


def within(states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B T T"]:
    """Cosines among the real tokens of each product; 0 elsewhere."""
    unit = l2_normalize(jnp.where(mask[..., None], states, 0))
    return jnp.einsum("BTD,BSD->BTS", unit, unit)


def unit_rows(x: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
    """Rows whose absolute values sum to 1; rows of zeros stay."""
    return x / (jnp.abs(x).sum(axis=-1, keepdims=True) + 1e-6)


def bag_scores(patches: Tokens, words: Tokens) -> tuple[Float[Array, "B B"], Float[Array, "B B"]]:
    """How well picture i and title j fit, by patches, mean_i max_j cos, and by words, mean_j max_i cos.

    The cosines are B x B x P x T numbers, of which each device holds its own rows and at most 2^25 at once (128 MB):
    beyond that, titles come in blocks, which the backward pass computes again.

    Args:
      patches: unit vectors.
      words: unit vectors.

    Returns:
      [pictures, titles] both; a picture without patches or a title without words scores 0.
    """
    states, mask = gathered(words.states, None, None, None), gathered(words.mask, None, None)
    B, T = mask.shape

    def block(states: Float[Array, "J T D"], mask: Bool[Array, "J T"]) -> tuple[Array, Array]:
        cosines = jnp.einsum("IPD,JTD->IJPT", patches.states, states)
        word = mask[None, :, None, :]
        patch = patches.mask[:, None, :]
        best_word = jnp.where(patch & mask.any(axis=1)[None, :, None], jnp.where(word, cosines, -2).max(axis=3), 0)
        by_patch = best_word.sum(axis=2) / jnp.maximum(patch.sum(axis=2), 1)
        best_patch = jnp.where(patch[..., None], cosines, -2).max(axis=2)
        best_patch = jnp.where(mask[None] & patch.any(axis=2)[..., None], best_patch, 0)
        return by_patch, best_patch.sum(axis=2) / jnp.maximum(mask.sum(axis=1), 1)

    rows = jax.typeof(patches.mask).sharding.shard_shape(patches.mask.shape)[0]
    blocks = 1
    while rows * (B // blocks) * patches.mask.shape[1] * T > BLOCK_ELEMENTS and B % (2 * blocks) == 0:
        blocks *= 2
    if blocks == 1:
        return block(states, mask)
    parts = states.reshape(blocks, B // blocks, *states.shape[1:]), mask.reshape(blocks, B // blocks, T)
    scores = jax.lax.map(lambda part: jax.checkpoint(block)(*part), parts)
    by_patch, by_word = (x.transpose(1, 0, 2) for x in scores)
    whole = spec("batch", None)
    return (
        jax.lax.reshape(by_patch, (B, B), out_sharding=whole),
        jax.lax.reshape(by_word, (B, B), out_sharding=whole),
    )


def bag_loss(
    scores: Float[Array, "B C"], positive: Bool[Array, "B C"], valid: Bool[Array, "B C"], *, axis: int = 1
) -> tuple[Float[Array, " R"], Bool[Array, " R"]]:
    """InfoNCE of each row (axis 1) or column (axis 0): the positives' mean, each against the valid negatives alone.

    Args:
      scores: scaled.
      positive: pairs that belong together.
      valid: pairs that count at all.
      axis: along which candidates lie.

    Returns:
      The losses, and which rows or columns have a valid positive; others are 0.
    """
    positive = positive & valid
    against = jax.nn.logsumexp(jnp.where(valid & ~positive, scores, -jnp.inf), axis=axis, keepdims=True)
    losses = jnp.where(positive, jnp.logaddexp(scores, jnp.maximum(against, -1e30)) - scores, 0)
    count = positive.sum(axis=axis)
    return losses.sum(axis=axis) / jnp.maximum(count, 1), count > 0


def transport(
    cosines: Float[Array, "... P T"],
    patch_mask: Bool[Array, "... P"],
    word_mask: Bool[Array, "... T"],
    temperature: float | int,
    capacity: float | int,
    iterations: int,
) -> Float[Array, "... P T"]:
    """The plan that spreads patches over words: LightCLIP's relaxed bipartite matching as we construct it (ours).

    It maximises <plan, cosines> + temperature * entropy; every real patch hands out 1 / P, and a real word has room for
    at most capacity / T. Sinkhorn's scaling with the column marginal relaxed to an upper bound (Chizat et al. 2018,
    "Scaling algorithms for unbalanced optimal transport", with the indicator of [0, room] on the columns). Rows hold
    exactly, columns as far as the iterations have come. Nothing goes to or from what is masked.
    """
    pairs = patch_mask[..., :, None] & word_mask[..., None, :]
    kernel = jnp.where(pairs, cosines / temperature, -1e30)
    share = -jnp.log(jnp.maximum(patch_mask.sum(axis=-1, keepdims=True), 1))
    room = jnp.log(capacity / jnp.maximum(word_mask.sum(axis=-1, keepdims=True), 1))
    columns = jnp.zeros_like(kernel[..., 0, :])

    def rows_of(columns: Array) -> Array:
        return share - jax.nn.logsumexp(kernel + columns[..., None, :], axis=-1)

    for _ in range(iterations):
        columns = jnp.minimum(0, room - jax.nn.logsumexp(kernel + rows_of(columns)[..., None], axis=-2))
    plan = jnp.exp(kernel + rows_of(columns)[..., None] + columns[..., None, :])
    return jnp.where(pairs, plan, 0)


def matched_scores(
    patches: Tokens, words: Tokens, titles: Int[Array, "B N"], config: AlignLossConfig
) -> Float[Array, "B N"]:
    """<plan, cosines> of each picture with some titles, the plan without gradient (LightCLIP; ours).

    Args:
      patches: unit vectors.
      words: unit vectors.
      titles: which titles each picture is compared with.
      config: of the transport.
    """
    states = gathered(words.states, None, None, None).at[titles].get(out_sharding=spec("batch", None, None, None))
    mask = gathered(words.mask, None, None).at[titles].get(out_sharding=spec("batch", None, None))
    cosines = jnp.einsum("BPD,BNTD->BNPT", patches.states, states)
    patch_mask = jnp.broadcast_to(patches.mask[:, None, :], cosines.shape[:3], out_sharding=spec("batch", None, None))
    plan = transport(
        jax.lax.stop_gradient(cosines), patch_mask, mask, config.temperature, config.capacity, config.iterations
    )
    return (plan * cosines).sum(axis=(2, 3))


def hardest_titles(
    patches: Tokens, words: Tokens, positive: Bool[Array, "B B"], valid: Bool[Array, "B B"], count: int
) -> Int[Array, "B N"]:
    """The titles of `count` valid negatives whose mean word is closest to a picture's mean patch."""
    pictures = l2_normalize(masked_mean(patches.states, patches.mask))
    titles = gathered(l2_normalize(masked_mean(words.states, words.mask)), None, None)
    near = jnp.where(valid & ~positive, jnp.einsum("IE,JE->IJ", pictures, titles), -2)
    return jax.lax.top_k(jax.lax.stop_gradient(near), min(count, near.shape[1] - 1))[1]


def align_terms(context: Context) -> dict[str, Float[Array, ""]]:
    """The structure and the bag term.

    The bag term with `matching` max is FILIP's pair of directions (Yao et al. 2021): a picture finds its title by its
    patches' best words, and a title its picture by its words' best patches. With sinkhorn, a picture finds its title
    among a few hard negatives by what the transport between patches and words is worth.
    """
    config, aligner = context.config, context.model.aligner
    if aligner is None or not (config.align_structure or config.align_bag):
        return {}
    batch, tokens = context.batch, context.outputs.tokens
    title, image = batch["title_mask"].any(axis=1), batch["image_present"].any(axis=1)
    patches = Tokens(tokens.patches.states, tokens.patches.mask & image[:, None])
    words = Tokens(jax.lax.stop_gradient(tokens.words.states).astype(jnp.float32), tokens.words.mask & title[:, None])
    mapped = Tokens(l2_normalize(aligner.mapped(patches.states)), patches.mask)
    unit = Tokens(l2_normalize(words.states), words.mask)
    weights = context.row_weights
    terms = {}
    if config.align_structure:
        cosines = jnp.einsum("BPD,BTD->BPT", mapped.states, unit.states)
        terms["align_structure"] = weighted_mean(
            *structure_loss(patches, words, cosines, config.align.temperature), weights
        )
    if config.align_bag:
        positive = positive_pairs(batch["query"], batch["product"], batch["variant"])
        valid = image[:, None] & gathered(title, None)[None, :]
        scale = jnp.exp(jnp.minimum(aligner.logit_scale[...], np.log(config.max_scale)))
        if config.align.matching == "max":
            by_patch, by_word = bag_scores(mapped, unit)
            ways = [bag_loss(scale * by_patch, positive, valid), bag_loss(scale * by_word, positive, valid, axis=0)]
            terms["align_bag"] = sum(
                (weighted_mean(gathered(rows, "batch"), gathered(has, "batch"), weights) / 2 for rows, has in ways),
                start=jnp.zeros(()),
            )
        else:
            terms["align_bag"] = weighted_mean(
                *matched_loss(mapped, unit, positive, valid, scale, config.align), weights
            )
    return terms


def matched_loss(
    patches: Tokens,
    words: Tokens,
    positive: Bool[Array, "B B"],
    valid: Bool[Array, "B B"],
    scale: Float[Array, ""],
    config: AlignLossConfig,
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """InfoNCE of each picture over its own title and a few hard negatives, by transport; see `bag_loss`."""
    B = valid.shape[0]
    own = gathered(jnp.arange(B)[:, None], "batch", None)
    titles = jnp.concatenate([own, hardest_titles(patches, words, positive, valid, HARD_NEGATIVES)], axis=1)
    scores = scale * matched_scores(patches, words, titles, config)
    chosen = titles[:, :, None] == np.arange(B)
    own_title = jnp.asarray(np.arange(titles.shape[1]) == 0)
    counts = jnp.where(own_title[:, None], valid[:, None, :], (valid & ~positive)[:, None, :])
    return bag_loss(scores, own_title & jnp.ones_like(titles, bool), (chosen & counts).any(axis=2))
