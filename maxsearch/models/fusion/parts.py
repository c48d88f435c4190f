"""What the fusion towers have in common: tokens read together, and a sum of vectors by weight.

B batch, T tokens, D fusion width, E size of the compared vectors, M parts: title, image and, if there are any, visual
words.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.models.fusion.inputs import FusionInputs, Tokens
from maxsearch.models.layers import Norm, Transformer, constant, masked_mean

ABSENT = -1e30


class PartsFusion(nnx.Module):
    """The start of every tower: each token is told its part, and `depth` joint blocks read all parts together."""

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        config = model.fusion
        self._parts = 3 if model.align.visual_words > 0 else 2
        self.modality = constant((self._parts, config.width), (None, None), 0.0)
        self.blocks = Transformer(rngs, config, model)
        self.norm = Norm(config.width)

    def read(self, inputs: FusionInputs, key: PRNGKeyArray | None) -> tuple[Tokens, ...]:
        """The parts' token states after the joint blocks, normalised."""
        kinds = self.modality[...].astype(inputs.words.states.dtype)
        told = [Tokens(part.states + kind, part.mask) for part, kind in zip(inputs.parts, kinds, strict=True)]
        tokens = end_to_end(told)
        return cut(self.norm(self.blocks(tokens.states, tokens.mask, key)), told)


def end_to_end(parts: Sequence[Tokens]) -> Tokens:
    """The tokens of all parts, one part after the other."""
    states = jnp.concatenate([part.states for part in parts], axis=1)
    return Tokens(states, jnp.concatenate([part.mask for part in parts], axis=1))


def cut(states: Float[Array, "B T D"], parts: Sequence[Tokens]) -> tuple[Tokens, ...]:
    """Reverses `end_to_end` for new states of the same tokens."""
    cuts, start = [], 0
    for part in parts:
        stop = start + part.mask.shape[1]
        cuts.append(Tokens(states[:, start:stop], part.mask))
        start = stop
    return tuple(cuts)


def text_and_patches(parts: Sequence[Tokens]) -> tuple[Tokens, Tokens]:
    """Title words with the visual words after them, in one language (AlignCMSS), and the patches."""
    return end_to_end([parts[0], *parts[2:]]), parts[1]


def pooled(parts: Sequence[Tokens]) -> list[Float[Array, "B D"]]:
    """The mean of each part's real tokens; zero where it has none."""
    return [masked_mean(part.states, part.mask) for part in parts]


def part_weights(logits: Float[Array, "B M"] | float, present: Bool[Array, "B M"]) -> Float[Array, "B M"]:
    """Softmax over the parts that are present, in float32; over all of them where none is.

    Args:
      logits: of each part; a number weighs the present ones alike.
      present: which parts a product has; a missing one weighs exactly 0.
    """
    logits = logits if isinstance(logits, float) else logits.astype(jnp.float32)
    return jax.nn.softmax(jnp.where(present, logits, ABSENT), axis=-1)


def weighted_sum(weights: Float[Array, "B M"], vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, "B D"]:
    """The sum of the parts' vectors by their weights, in float32."""
    total = weights[:, :1] * vectors[0]
    for number, vector in enumerate(vectors[1:], 1):
        total = total + weights[:, number : number + 1] * vector
    return total


def title_and_image(weights: Float[Array, "B M"]) -> Float[Array, "B 2"]:
    """How much title and image weigh: what visual words weigh is the image's."""
    if weights.shape[1] == 2:
        return weights
    return jnp.concatenate([weights[:, :1], weights[:, 1:].sum(axis=1, keepdims=True)], axis=1)
