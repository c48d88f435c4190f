"""The aligner: a linear map from patches to the space of words, and the visual words that it reads off a picture.

AlignCMSS (arXiv 2309.16141). said: visual parts are mapped to words by an alignment network, and everything is matched
in one language space. ours: the map is linear; a patch is the softmax mixture of a vocabulary's words by cosine; the
best distinct words of a product enter the fusion tower.

B batch, T words, P patches, D width of the title tower, K keywords, m visual words, L tokens of a keyword.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from maxsearch.config import Config
from maxsearch.errors import UsageError
from maxsearch.mesh import gathered, spec_size
from maxsearch.models.fusion import Tokens
from maxsearch.models.layers import Linear, constant, l2_normalize, masked_mean

LOSS_TERMS = ("align_structure", "align_bag")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VisualWords:
    """The best words of a batch of products.

    Attributes:
      tokens: their states in the title tower's width, the surest first.
      ids: their places in the vocabulary, -1 where there is none (and for raw patches).
      scores: how sure each is: the cosine of its patch with the word.
    """

    tokens: Tokens
    ids: Int[Array, "B m"]
    scores: Float[Array, "B m"]


class Aligner(nnx.Module):
    """The map W with its bias, the scale of the bag loss, and the vocabulary's token ids.

    Attributes:
      visual_words: m, how many it gives; 0 when only losses use it.

    The words that patches are compared with carry no gradient: the aligner learns the language, and the language does
    not move towards the pictures (ours).
    """

    def __init__(self, rngs: nnx.Rngs, config: Config, words: tuple[tuple[int, ...], ...]) -> None:
        """Draws the parameters; `words` as for SearchModel."""
        model = config.model
        self.project = Linear(rngs, model.image.width, model.title.width)
        self.logit_scale = constant((), (), math.log(config.loss.scale))
        self.visual_words = model.align.visual_words
        self._config = model.align
        self._words = tuple(word[: model.title.max_tokens] for word in words)

    def mapped(self, patches: Float[Array, "B P I"]) -> Float[Array, "B P D"]:
        """W p in float32, not normalised."""
        return self.project(patches.astype(jnp.float32))

    def vocabulary(self, encode: Callable[..., Array]) -> Float[Array, "K D"]:
        """The vector of each keyword: the mean of its token states when it is a title of its own, without gradient.

        So they are the states that titles have, through the tower's norm and whatever blocks it has.

        Args:
          encode: the title encoder, (ids, mask, fields=1) -> states.

        Raises:
          UsageError: the model was built without the vocabulary.
        """
        if not self._words:
            raise UsageError("the aligner has no keywords: prepare the data again, so that they are saved with it")
        K, L = len(self._words), max(map(len, self._words))
        parts = spec_size(jax.sharding.get_abstract_mesh(), "batch")
        rows = -(-K // parts) * parts
        ids, mask = np.zeros((rows, L), np.int32), np.zeros((rows, L), bool)
        for row, word in enumerate(self._words):
            ids[row, : len(word)], mask[row, : len(word)] = word, True
        split = gathered(jnp.asarray(ids), "batch", None), gathered(jnp.asarray(mask), "batch", None)
        states = masked_mean(encode(*split, fields=1).astype(jnp.float32), split[1])
        return jax.lax.stop_gradient(gathered(states, None, None)[:K])

    def cosines(self, patches: Float[Array, "B P I"], vocabulary: Float[Array, "K D"]) -> Float[Array, "B P K"]:
        """cos(W p_i, y_j), float32."""
        return jnp.einsum("BPD,KD->BPK", l2_normalize(self.mapped(patches)), l2_normalize(vocabulary))

    def __call__(
        self,
        patches: Float[Array, "B P I"],
        valid: Bool[Array, "B P"],
        image: UInt8[Array, "B N H W 3"],
        encode: Callable[..., Array],
    ) -> VisualWords:
        """The m = `visual_words` best words of each product, fewer where its patches name fewer distinct ones.

        Each patch stands for its best word, and of the patches with one word the surest keeps it. With `hard`, that
        word itself is the state, and its gradient is that of the mixture (straight-through).
        Of the controls, `raw` takes the patches that are longest after the map, as they are; `random` draws words
        evenly by a hash of the picture, always the same ones for the same pixels.

        Args:
          patches: states of the image tower, picture by picture.
          valid: the patches of pictures that are there; others give no words.
          image: the pictures, for the hash.
          encode: as for `vocabulary`.
        """
        config, m = self._config, self.visual_words
        if config.source == "raw":
            mapped = self.mapped(patches)
            ids = jnp.full_like(valid, -1, dtype=jnp.int32)
            chosen = best_distinct(jnp.square(mapped).sum(axis=-1), ids, valid, m)
            return picked(mapped.astype(patches.dtype), ids, jnp.zeros(valid.shape), chosen)
        vocabulary = self.vocabulary(encode)
        if config.source == "random":
            seeds = hashed(image)[:, None] + jnp.arange(valid.shape[1], dtype=jnp.uint32)
            ids = (mixed(seeds) % np.uint32(len(vocabulary))).astype(jnp.int32)
            order = (mixed(seeds ^ np.uint32(0x5BD1E995)) >> 8).astype(jnp.float32)
            chosen = best_distinct(order, ids, valid, m)
            found = picked(jnp.zeros((*valid.shape, 0)), ids, jnp.zeros(valid.shape), chosen)
            states = jax.nn.one_hot(found.ids, len(vocabulary)) @ vocabulary
            return VisualWords(Tokens(states.astype(patches.dtype), found.tokens.mask), found.ids, found.scores)
        cosines = self.cosines(patches, vocabulary)
        ids, scores = cosines.argmax(axis=-1).astype(jnp.int32), cosines.max(axis=-1)
        chosen = best_distinct(scores, ids, valid, m)
        found = picked(cosines, ids, scores, chosen)
        attention = jax.nn.softmax(found.tokens.states / config.temperature, axis=-1)
        states = attention @ vocabulary
        if config.hard:
            states += jax.lax.stop_gradient(jax.nn.one_hot(found.ids, len(vocabulary)) @ vocabulary - states)
        return VisualWords(Tokens(states.astype(patches.dtype), found.tokens.mask), found.ids, found.scores)


def best_distinct(
    scores: Float[Array, "B P"], ids: Int[Array, "B P"], valid: Bool[Array, "B P"], m: int
) -> Float[Array, "B m P"]:
    """Which patches hold the m best distinct words, best first, as rows of 0 and 1; a row of zeros where none is left.

    Of several valid patches with one word the one with the highest score counts, the first of equal ones. A word of
    id -1 is distinct from every other.

    Args:
      scores: of the patches.
      ids: their words.
      valid: which patches count.
      m: how many to take.
    """
    scores = jax.lax.stop_gradient(scores)
    P = scores.shape[1]
    before = np.arange(P)[:, None] < np.arange(P)[None, :]
    higher = (scores[:, :, None] > scores[:, None, :]) | ((scores[:, :, None] == scores[:, None, :]) & before)
    ahead = higher & valid[:, :, None]  # [B, i, j]: patch i stands before patch j
    same = (ids[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, :, None]
    keeps = valid & ~(ahead & same).any(axis=1)
    rank = (ahead & keeps[:, :, None]).sum(axis=1)
    return (keeps[:, None, :] & (rank[:, None, :] == np.arange(m)[:, None])).astype(jnp.float32)


def picked(
    states: Float[Array, "B P D"], ids: Int[Array, "B P"], scores: Float[Array, "B P"], chosen: Float[Array, "B m P"]
) -> VisualWords:
    """The chosen patches' states, ids and scores."""
    mask = chosen.any(axis=-1)
    rows = jnp.einsum("BmP,BPD->BmD", chosen.astype(states.dtype), states)
    taken = (chosen * ids[:, None, :]).sum(axis=-1).astype(jnp.int32)
    return VisualWords(Tokens(rows, mask), jnp.where(mask, taken, -1), (chosen * scores[:, None, :]).sum(axis=-1))


def mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """MurmurHash3's finaliser: neighbours become unrelated."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def hashed(image: UInt8[Array, "B N H W 3"]) -> UInt32[Array, " B"]:
    """A number that depends on every pixel of a product's pictures."""
    weights = mixed(jnp.arange(math.prod(image.shape[1:]), dtype=jnp.uint32)).reshape(image.shape[1:]) | 1
    return mixed((image.astype(jnp.uint32) * weights).sum(axis=(1, 2, 3, 4), dtype=jnp.uint32))


def make_aligner(rngs: nnx.Rngs, config: Config, words: tuple[tuple[int, ...], ...]) -> Aligner | None:
    """The aligner, where visual words or some stage's loss want it."""
    wanted = config.model.align.visual_words > 0 or config.uses(*LOSS_TERMS)
    return Aligner(rngs, config, words) if wanted else None


def patch_words(model: Any, batch: Mapping[str, Array]) -> tuple[Float[Array, "B P K"], Float[Array, "B P K"]]:
    """Cosines of each patch with each keyword, to explain a model by: the aligner's, and the raw ones without it.

    The raw ones compare patch and word by their projections to the space of queries and products.

    Args:
      model: a SearchModel with an aligner.
      batch: ids, mask, image and present, as `encode_product` takes them.
    """
    patches = model.product_tokens(batch["ids"], batch["mask"], batch["image"], batch["present"]).patches.states
    vocabulary = model.aligner.vocabulary(model.title_encoder)
    raw = jnp.einsum(
        "BPE,KE->BPK",
        l2_normalize(model.image_project(patches)),
        l2_normalize(model.title_project(vocabulary)),
    )
    return model.aligner.cosines(patches, vocabulary), raw
