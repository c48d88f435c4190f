"""What the masked losses hide: whole words and patches, drawn from a key.

Every draw is made for the global batch, so that it is the same on every mesh.

B rows (texts or pictures), T words, P patches, M slots for what is hidden.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from maxsearch.mesh import gathered, spec

HIDDEN, RANDOM = 0.8, 0.1  # of the masked tokens; the rest stays as it is (BERT, Devlin et al. 2019)


def word_slots(tokens: int, rate: float) -> int:
    """M, the most tokens that are masked in a row of so many; a word of two more than the share still fits."""
    return min(tokens, math.ceil(rate * tokens) + 2)


def patch_slots(patches: int, rate: float) -> int:
    """M, the patches that are masked in each picture."""
    return min(max(round(rate * patches), 1), patches)


def choose_words(
    key: PRNGKeyArray, word: Int[Array, "B T"], mask: Bool[Array, "B T"], rate: float
) -> Bool[Array, "B T"]:
    """Draws whole words, in random order, until a share `rate` of a row's tokens is masked.

    The first word drawn is always masked, so that every text teaches something (IRRA; code). After it the share is met
    on average: the word that crosses the border is masked with the probability that makes it so (ours).

    Args:
      key: of the draw.
      word: the number of the word in its row, below T, that each token belongs to; below 0 for special tokens.
      mask: which tokens are real.
      rate: share of a row's tokens.

    Returns:
      The masked tokens, at most `word_slots(T, rate)` in a row; a longer word is never masked.
    """
    B, T = word.shape
    draws = jax.random.uniform(key, (B, T + 1), out_sharding=spec("batch", None))
    real = mask & (word >= 0)
    score = jnp.where(word[:, :, None] == jnp.arange(T), draws[:, None, :T], 0).sum(axis=-1)
    same = (word[:, :, None] == word[:, None, :]) & real[:, None, :]
    tied = (score[:, None, :] == score[:, :, None]) & (word[:, None, :] < word[:, :, None])
    earlier = ((score[:, None, :] < score[:, :, None]) | tied) & real[:, None, :]
    before, length = earlier.sum(axis=-1), same.sum(axis=-1)
    within = before + draws[:, T:] * length < rate * real.sum(axis=1, keepdims=True)
    return real & ((before == 0) | within) & (before + length <= word_slots(T, rate))


def slots_of(chosen: Bool[Array, "B T"], slots: int) -> Bool[Array, "B M T"]:
    """One-hot rows that pick the chosen tokens, first to last; rows of an empty slot are all False."""
    rank = jnp.cumsum(chosen, axis=1) - 1
    return chosen[:, None, :] & (rank[:, None, :] == jnp.arange(slots)[:, None])


def corrupt(
    key: PRNGKeyArray, chosen: Bool[Array, "B T"], ids: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """What the encoder sees of the masked tokens: 80 % hidden, 10 % another token, 10 % the token itself (BERT).

    The other token is drawn from all real tokens of the batch (ours; BERT and IRRA draw from the vocabulary, of which a
    small catalogue leaves a part unused).

    Returns:
      The ids to read, and which of them are hidden.
    """
    B, T = ids.shape
    kind, other = jax.random.uniform(key, (2, B, T), out_sharding=spec(None, "batch", None))
    pool = gathered(ids, None, None).reshape(-1)
    real = gathered(mask, None, None).reshape(-1)
    first = jnp.argsort(~real, stable=True)  # the places of the real tokens, in order
    place = (other * real.sum()).astype(jnp.int32)
    drawn = pool[first].at[place].get(out_sharding=spec("batch", None))
    replaced = chosen & (kind >= HIDDEN) & (kind < HIDDEN + RANDOM)
    return jnp.where(replaced, drawn, ids), chosen & (kind < HIDDEN)


def choose_patches(key: PRNGKeyArray, pictures: int, patches: int, rate: float) -> Float[Array, "B M P"]:
    """One-hot rows that pick `patch_slots` patches of each picture, in random order."""
    scores = jax.random.uniform(key, (pictures, patches), out_sharding=spec("batch", None))
    chosen = jnp.argsort(scores, axis=1)[:, : patch_slots(patches, rate)]
    return (chosen[:, :, None] == jnp.arange(patches)).astype(jnp.float32)
