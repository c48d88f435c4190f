"""NeXtVLAD over all tokens of all pictures and text fields, with a gate over channels (M3PT, arXiv 2306.10079).

B batch, T tokens of all parts, D fusion width, G groups, F channels of a group, K clusters, E size of the compared
vectors.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.mesh import gathered
from maxsearch.models.fusion.inputs import FusionInputs
from maxsearch.models.fusion.parts import PartsFusion, cut, end_to_end, part_weights, title_and_image
from maxsearch.models.layers import Norm, constant, dropout, l2_normalize, normal

REDUCTION = 8  # of the channel gate's hidden layer, as in NeXtVLAD


class NextVladFusion(PartsFusion):
    """Every token is cut into groups, each group given to clusters by attention, and their residuals are the product.

    Code (M3PT; NeXtVLAD, Lin et al. 2018): x = W_e token, `expansion` times as wide and cut into G groups; attention
    sigmoid(W_a x) per group; a softmax over K clusters per group; the descriptor of a cluster is the sum of the groups
    less its centre, of unit length; all are projected to E and scaled by sigmoid(MLP) channel by channel.
    Ours: layer norm in place of batch norm, which would mix the products of a batch; visual words stand among the
    tokens; and the reported weights are each modality's share of the attention, for the sum has no weights of its own.
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        super().__init__(rngs, model)
        config, E = model.fusion, model.dim
        D, G, K = config.width, config.groups, config.clusters
        F = D * config.expansion // G
        self.expand = normal(rngs, (D, G, F), ("embed", None, None), fan_in=D)
        self.expand_bias = constant((G, F), (None, None), 0.0)
        self.attend = normal(rngs, (G, F, G), (None, None, None), fan_in=G * F)
        self.attend_bias = constant((G,), (None,), 0.0)
        self.assign = normal(rngs, (G, F, G, K), (None, None, None, None), fan_in=G * F)
        self.assign_bias = constant((G, K), (None, None), 0.0)
        self.centers = normal(rngs, (K, F), (None, None), fan_in=F)
        self.project = normal(rngs, (K, F, E), (None, None, None), fan_in=K)
        self.channel_norm = Norm(E)
        R = max(E // REDUCTION, 1)  # too narrow to be split over a mesh
        self.squeeze = normal(rngs, (E, R), (None, None), fan_in=E)
        self.squeeze_bias = constant((R,), (None,), 0.0)
        self.excite = normal(rngs, (R, E), (None, None), fan_in=R)
        self.excite_bias = constant((E,), (None,), 0.0)
        self._dropout = config.dropout

    def __call__(
        self, inputs: FusionInputs, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        parts = self.read(inputs, keys[0])
        tokens = end_to_end(parts)
        dtype = tokens.states.dtype

        def weight(parameter: nnx.Param) -> Array:
            return gathered(parameter[...], *(None,) * parameter[...].ndim, dtype=dtype)

        x = jnp.einsum("BTD,DGF->BTGF", tokens.states, weight(self.expand)) + weight(self.expand_bias)
        logits = jnp.einsum("BTGF,GFH->BTH", x, weight(self.attend)) + weight(self.attend_bias)
        attention = jnp.where(tokens.mask[..., None], jax.nn.sigmoid(logits.astype(jnp.float32)), 0)
        logits = jnp.einsum("BTGF,GFHK->BTHK", x, weight(self.assign)) + weight(self.assign_bias)
        given = attention[..., None] * jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        sums = jnp.einsum("BTGK,BTGF->BKF", given, x.astype(jnp.float32))
        descriptors = l2_normalize(sums - given.sum(axis=(1, 2))[..., None] * self.centers[...])
        projected = jnp.einsum("BKF,KFE->BE", descriptors.astype(dtype), weight(self.project))
        hidden = self.channel_norm(dropout(projected, self._dropout, keys[1]))
        squeezed = jax.nn.gelu(hidden @ weight(self.squeeze) + weight(self.squeeze_bias))
        gate = jax.nn.sigmoid(squeezed @ weight(self.excite) + weight(self.excite_bias))
        shares = cut(attention.sum(axis=2, keepdims=True), parts)
        mass = jnp.concatenate([share.states.sum(axis=1) for share in shares], axis=1)
        weights = part_weights(jnp.log(mass + 1e-9), inputs.parts_present)
        return (hidden * gate).astype(jnp.float32), title_and_image(weights)
