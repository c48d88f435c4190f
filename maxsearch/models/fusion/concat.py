"""Concatenation, the plain baseline.

B batch, D fusion width, E size of the compared vectors, M parts.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.models.fusion.inputs import FusionInputs
from maxsearch.models.fusion.parts import PartsFusion, part_weights, pooled
from maxsearch.models.layers import Linear, dropout


class ConcatFusion(PartsFusion):
    """An MLP of the parts' means end to end, as in CommerceMM (arXiv 2202.07247; its layers are ours).

    Beyond Text (arXiv 2603.04836) reports that naive concatenation works less well: a baseline to beat. It has no
    weights: title and image count as one half each where both are present.
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        super().__init__(rngs, model)
        D = model.fusion.width
        self.hidden = Linear(rngs, self._parts * D, 2 * D)
        self.out = Linear(rngs, 2 * D, model.dim)
        self._dropout = model.fusion.dropout

    def __call__(
        self, inputs: FusionInputs, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        together = jnp.concatenate(pooled(self.read(inputs, keys[0])), axis=-1)
        hidden = dropout(jax.nn.gelu(self.hidden(together)), self._dropout, keys[1])
        return self.out(hidden).astype(jnp.float32), part_weights(0.0, inputs.present)
