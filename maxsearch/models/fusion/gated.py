"""Weights by product, unit vectors and a residual: the tower that proved best on a small catalogue.

B batch, D fusion width, E size of the compared vectors, M parts.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.models.fusion.inputs import FusionInputs
from maxsearch.models.fusion.parts import PartsFusion, part_weights, pooled, title_and_image, weighted_sum
from maxsearch.models.layers import Linear, constant


class GatedFusion(PartsFusion):
    """A weighted sum of both modalities' vectors, and a residual of both together.

    The weights are (a_t, a_v) = softmax(MLP[t; v]), product by product: MAKE's modal adaptation as we construct it
    (ours; the paper's equations are not public). What is summed are the very vectors that the query is compared with
    one by one, so that the sum starts as good as they are (ours). The residual, an MLP of both, carries what neither
    says alone (ours).
    With `depth` above 0, words and patches read one another in joint transformer blocks before the MLPs see them.
    Visual words are a third part u (ours): p = a_t t + a_v v + a_u u + residual, reported as (a_t, a_v + a_u).
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        super().__init__(rngs, model)
        D, M = model.fusion.width, self._parts
        self.gate_in = Linear(rngs, M * D, D)
        self.gate_out = Linear(rngs, D, M)
        self.residual_in = Linear(rngs, M * D, 2 * D)
        self.residual_out = Linear(rngs, 2 * D, model.dim)
        self.residual_scale = constant((), (), 0.0)

    def __call__(
        self, inputs: FusionInputs, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        together = jnp.concatenate(pooled(self.read(inputs, key)), axis=-1)
        weights = part_weights(self.gate_out(jax.nn.gelu(self.gate_in(together))), inputs.parts_present)
        residual = self.residual_out(jax.nn.gelu(self.residual_in(together))).astype(jnp.float32)
        mixed = weighted_sum(weights, inputs.vectors)
        return mixed + self.residual_scale[...] * residual, title_and_image(weights)
