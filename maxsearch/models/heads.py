"""The heads that only training or re-ranking uses: keywords, masked words, masked patches, matching.

Each has the name of the loss term that trains it, and exists only when some stage gives that term a weight.

B batch, T words, P patches, M masked slots, D widths of the towers, E size of the compared vectors, V vocabulary,
K keywords.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maxsearch.config import Config, ModelConfig, TextConfig
from maxsearch.mesh import gathered, spec
from maxsearch.models.attention import CrossAttention, CrossBlock
from maxsearch.models.fusion import Tokens
from maxsearch.models.layers import Linear, Norm, Transformer, constant, masked_mean, normal

HEADS = (
    "keywords",
    "keywords_image",
    "keywords_product",
    "mlm_query",
    "mlm_title",
    "mpm",
    "matching",
    "image_matching",
)
SERVED_HEADS = ("matching",)  # what re-ranking reads; the others have done their work when training ends


class KeywordHead(nnx.Module):
    """Which keywords belong to a unit vector (MAKE's keyword enhancement as we construct it: ours)."""

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        self.project = Linear(rngs, model.dim, model.keywords)
        self._scale = math.sqrt(model.dim)
        # Almost every keyword is absent: the start says so, as in RetinaNet (Lin et al. 2017, section 4.1).
        self._prior = -math.log(model.keywords)

    def __call__(self, vectors: Float[Array, "B E"]) -> Float[Array, "B K"]:
        """The log odds of each keyword."""
        return self.project(vectors * self._scale) + self._prior


class MaskedWordHead(nnx.Module):
    """Guesses hidden words with the image at hand: IRRA's interaction head (arXiv 2303.12501; code).

    Words attend to patches without a residual, then `head.depth` pre-norm blocks, then Linear-QuickGELU-norm-Linear.

    Attributes:
      null: the learned embedding that stands where a word is hidden.
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig, width: int) -> None:
        head = model.head
        self.null = normal(rngs, (width,), (None,), fan_in=width)
        self.word_norm, self.patch_norm = Norm(width), Norm(model.image.width)
        self.attention = CrossAttention(rngs, width, model.image.width, head.heads)
        tower = TextConfig(width=width, depth=head.depth, heads=head.heads, mlp_ratio=head.mlp_ratio)
        self.blocks = Transformer(rngs, tower, model)
        self.norm = Norm(width)
        self.dense = Linear(rngs, width, width)
        self.dense_norm = Norm(width)
        self.vocabulary = Linear(rngs, width, model.vocab_size)

    def __call__(self, words: Tokens, patches: Tokens, slots: Bool[Array, "B M T"]) -> Float[Array, "B M V"]:
        """Logits over the vocabulary, only of the masked words: the projection to it is the dear part.

        Args:
          words: token states of the text in which words are hidden.
          patches: of the product's pictures, or its null token.
          slots: slots[b, m, t] says that word t is the m-th hidden one; an empty slot gives logits of no meaning.
        """
        x = self.attention(self.word_norm(words.states), self.patch_norm(patches.states), patches.mask)
        x = self.norm(self.blocks(x, words.mask))
        x = self.dense(jnp.einsum("BMT,BTD->BMD", slots.astype(x.dtype), x))
        x = self.dense_norm(x * jax.nn.sigmoid(1.702 * x))
        return self.vocabulary(x).astype(jnp.float32)


class MaskedPatchHead(nnx.Module):
    """Predicts the features of hidden patches (MPM_R: said in arXiv 2304.04377, constructed by us: ours).

    Attributes:
      null: the learned vector that stands where a patch is hidden.
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        D = model.image.width
        self.null = normal(rngs, (D,), (None,), fan_in=D)
        self.hidden, self.out = Linear(rngs, D, D), Linear(rngs, D, D)

    def __call__(self, states: Float[Array, "B M D"]) -> Float[Array, "B M D"]:
        """Predicted features from the encoder's states at the hidden patches."""
        return self.out(jax.nn.gelu(self.hidden(states)))


class MatchingHead(nnx.Module):
    """Whether a query and a product belong together: the query's words read the product's tokens in some blocks.

    The idea is ALBEF's (code): what the two towers cannot tell apart by one inner product, words and parts can. A
    block is cross-attention and MLP; the words have read one another in the query tower already (ours).
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig, *, title: bool) -> None:
        """Draws the parameters; without `title` the head reads patches alone."""
        D, head = model.query.width, model.head
        self.title = Linear(rngs, model.title.width, D) if title else None
        self.image = Linear(rngs, model.image.width, D)
        self.modality = constant((2, D), (None, None), 0.0)
        self.blocks = nnx.Dict(
            {f"block_{i}": CrossBlock(rngs, D, D, head.heads, head.mlp_ratio) for i in range(head.depth)}
        )
        self.norm = Norm(D)
        self.hidden, self.out = Linear(rngs, D, D), Linear(rngs, D, 1)

    def __call__(self, query: Tokens, words: Tokens | None, patches: Tokens) -> Float[Array, " B"]:
        """The log odds that query and product, row by row, belong together.

        Args:
          query: token states of the queries.
          words: of the titles; None when the head reads patches alone.
          patches: of the pictures.
        """
        kinds = self.modality[...].astype(query.states.dtype)
        states, mask = self.image(patches.states) + kinds[1], patches.mask
        if words is not None and self.title is not None:
            states = jnp.concatenate([self.title(words.states) + kinds[0], states], axis=1)
            mask = jnp.concatenate([words.mask, mask], axis=1)
        x = query.states
        for name in self.blocks:
            x = self.blocks[name](x, states, mask)
        pooled = masked_mean(self.norm(x), query.mask)
        return self.out(jax.nn.gelu(self.hidden(pooled)))[:, 0].astype(jnp.float32)


def take(tokens: Tokens, rows: Int[Array, " B"]) -> Tokens:
    """Token states of the batch's rows of these numbers; every device holds those of all rows for a moment."""
    states = gathered(tokens.states, None, None, None).at[rows].get(out_sharding=spec("batch", None, None))
    return Tokens(states, gathered(tokens.mask, None, None).at[rows].get(out_sharding=spec("batch", None)))


def served(params: Mapping[str, Any]) -> dict[str, Any]:
    """A model's parameters without those of the heads that only training uses."""
    heads = {name: value for name, value in params.get("heads", {}).items() if name in SERVED_HEADS}
    rest = {name: value for name, value in params.items() if name != "heads"}
    return rest | ({"heads": heads} if heads else {})


def make_heads(rngs: nnx.Rngs, config: Config, names: Collection[str] = HEADS) -> dict[str, Any]:
    """The heads of the terms that some stage of the config trains, by the term's name; of those named only."""
    model = config.model
    trained = [name for name in HEADS if name in names and config.uses(name)]
    heads: dict[str, Any] = {}
    for name in trained:
        if name in ("keywords", "keywords_image", "keywords_product"):
            heads[name] = KeywordHead(rngs, model)
        elif name in ("mlm_query", "mlm_title"):
            width = model.query.width if name == "mlm_query" else model.title.width
            heads[name] = MaskedWordHead(rngs, model, width)
        elif name == "mpm":
            heads[name] = MaskedPatchHead(rngs, model)
        else:
            heads[name] = MatchingHead(rngs, model, title=name == "matching")
    return heads
