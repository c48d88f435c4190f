"""MAKE's modal adaptation (Taobao, arXiv 2301.12646).

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


class Adapter(nnx.Module):
    """One modality's tokens after a look at the other's: H' = g * A + (1 - g) * H with g = sigmoid(W[H; A])."""

    def __init__(self, rngs: nnx.Rngs, width: int, heads: int, rate: float) -> None:
        self.attention = CrossAttention(rngs, width, width, heads)
        self.gate = Linear(rngs, 2 * width, width)
        self._dropout = rate

    def __call__(self, own: Tokens, other: Tokens, key: PRNGKeyArray | None) -> Float[Array, "B T D"]:
        """The adapted states of `own`."""
        seen = dropout(self.attention(own.states, other.states, other.mask), self._dropout, key)
        gate = jax.nn.sigmoid(self.gate(jnp.concatenate([own.states, seen], axis=-1)))
        return gate * seen + (1 - gate) * own.states


class ModalAdaptationFusion(PartsFusion):
    """Each modality is adapted to the other, token by token, and both are summed by weights of the product's own.

    MAKE says that title and image are weighted product by product; its equations are not public. Ours: the Adapter,
    masked means t and v, (a_t, a_v) = softmax(MLP[t; v]) and W_p(a_t t + a_v v). To that we add the weighted sum
    a_t title + a_v image of the unit vectors that the query is compared with one by one, and W_p starts silent, so that
    training starts from vectors that already match queries and the weights do not collapse onto one modality (ours).
    Visual words stand among the title's words, and have a mean, a weight and a unit vector of their own (ours).
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        super().__init__(rngs, model)
        config, M = model.fusion, self._parts
        D = config.width
        self.adapt_text = Adapter(rngs, D, config.heads, config.dropout)
        self.adapt_patches = Adapter(rngs, D, config.heads, config.dropout)
        self.gate_in = Linear(rngs, M * D, D)
        self.gate_out = Linear(rngs, D, M)
        self.project = Linear(rngs, D, model.dim)
        self.project_scale = constant((), (), 0.0)

    def __call__(
        self, inputs: FusionInputs, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
        parts = self.read(inputs, keys[0])
        text, patches = text_and_patches(parts)
        words, *visual = cut(self.adapt_text(text, patches, keys[1]), [parts[0], *parts[2:]])
        adapted = self.adapt_patches(patches, text, keys[2])
        means = pooled([words, Tokens(adapted, patches.mask), *visual])
        logits = self.gate_out(jax.nn.gelu(self.gate_in(jnp.concatenate(means, axis=-1))))
        weights = part_weights(logits, inputs.parts_present)
        projected = self.project(weighted_sum(weights, means))
        mixed = weighted_sum(weights, inputs.vectors)
        return mixed + self.project_scale[...] * projected, title_and_image(weights)
