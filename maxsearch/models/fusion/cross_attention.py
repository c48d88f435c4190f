"""Cross-attention both ways with a residual gate (Beyond Text, arXiv 2603.04836).

B batch, T words, P patches, D fusion width, E size of the compared vectors, M parts.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.models.attention import CrossAttention
from maxsearch.models.fusion.inputs import FusionInputs, Tokens
from maxsearch.models.fusion.parts import (
    PartsFusion,
    cut,
    part_weights,
    pooled,
    text_and_patches,
    title_and_image,
    weighted_sum,
)
from maxsearch.models.layers import Linear, constant, dropout


class GatedAttention(nnx.Module):
    """H' = H + tanh(gate) * A, one gate per channel; it starts shut, so that H' = H."""

    def __init__(self, rngs: nnx.Rngs, width: int, heads: int, rate: float) -> None:
        self.attention = CrossAttention(rngs, width, width, heads)
        self.gate = constant((width,), (None,), 0.0)
        self._dropout = rate

    def __call__(self, own: Tokens, other: Tokens, key: PRNGKeyArray | None) -> Float[Array, "B T D"]:
        """The states of `own` with what they found in `other`."""
        seen = dropout(self.attention(own.states, other.states, other.mask), self._dropout, key)
        return own.states + jnp.tanh(self.gate[...]).astype(seen.dtype) * seen


class CrossAttentionFusion(PartsFusion):
    """Words read patches and patches read words through gates; the means of both are projected and added.

    Beyond Text says that a fusion network captures what title and image add to one another; its equations are not
    public. Ours: GatedAttention both ways, product side only, and p = mean(title, image) + W[t; v] with W silent at
    the start, so that training starts from vectors that already match queries. The mean is over what is present: this
    tower has no weights by product.
    Visual words stand among the title's words; their mean and their unit vector are a third part (ours).
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        super().__init__(rngs, model)
        config = model.fusion
        D = config.width
        self.text_reads = GatedAttention(rngs, D, config.heads, config.dropout)
        self.patches_read = GatedAttention(rngs, D, config.heads, config.dropout)
        self.project = Linear(rngs, self._parts * D, model.dim)
        self.project_scale = constant((), (), 0.0)

    def __call__(
        self, inputs: FusionInputs, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
        parts = self.read(inputs, keys[0])
        text, patches = text_and_patches(parts)
        words, *visual = cut(self.text_reads(text, patches, keys[1]), [parts[0], *parts[2:]])
        seen = Tokens(self.patches_read(patches, text, keys[2]), patches.mask)
        projected = self.project(jnp.concatenate(pooled([words, seen, *visual]), axis=-1)).astype(jnp.float32)
        weights = part_weights(0.0, inputs.parts_present)
        mixed = weighted_sum(weights, inputs.vectors)
        return mixed + self.project_scale[...] * projected, title_and_image(weights)
