"""The fusion tower: title words and patches become one product vector.

It never sees the query, so that the vector can be indexed.

B batch, T tokens, D fusion width, E size of the compared vectors.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.models.layers import Linear, Norm, Transformer, constant, masked_mean


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """Token states of one modality, and which of them are real."""

    states: Float[Array, "B T D"]
    mask: Bool[Array, "B T"]


class Fusion(Protocol):
    """What every fusion tower answers."""

    def __call__(
        self,
        words: Tokens,
        patches: Tokens,
        title: Float[Array, "B E"],
        image: Float[Array, "B E"],
        present: Bool[Array, "B 2"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """The unnormalised product vector, and how much title and image weigh in it (rows sum to 1).

        Args:
          words, patches: token states of both modalities in the tower's width; a missing one is one null token.
          title, image: the unit vectors of each modality alone.
          present: whether the product has a title, and an image; a missing one weighs 0.
          key: turns dropout on.
        """


class GatedFusion(nnx.Module):
    """A weighted sum of both modalities' vectors, and a residual of both together.

    The weights are (a_t, a_v) = softmax(MLP[t; v]), product by product: MAKE's modal adaptation as we construct it
    (ours; the paper's equations are not public). What is summed are the very vectors that the query is compared with
    one by one, so that the sum starts as good as they are (ours). The residual, an MLP of both, carries what neither
    says alone (ours).
    With `depth` above 0, words and patches read one another in joint transformer blocks before the MLPs see them.
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        config = model.fusion
        D = config.width
        self.modality = constant((2, D), (None, None), 0.0)
        self.blocks = Transformer(rngs, config, model)
        self.norm = Norm(D)
        self.gate_in = Linear(rngs, 2 * D, D)
        self.gate_out = Linear(rngs, D, 2)
        self.residual_in = Linear(rngs, 2 * D, 2 * D)
        self.residual_out = Linear(rngs, 2 * D, model.dim)
        self.residual_scale = constant((), (), 0.0)

    def __call__(
        self,
        words: Tokens,
        patches: Tokens,
        title: Float[Array, "B E"],
        image: Float[Array, "B E"],
        present: Bool[Array, "B 2"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        T = words.mask.shape[1]
        kinds = self.modality[...].astype(words.states.dtype)
        tokens = jnp.concatenate([words.states + kinds[0], patches.states + kinds[1]], axis=1)
        mask = jnp.concatenate([words.mask, patches.mask], axis=1)
        tokens = self.norm(self.blocks(tokens, mask, key))
        both = jnp.concatenate(
            [masked_mean(tokens[:, :T], words.mask), masked_mean(tokens[:, T:], patches.mask)], axis=-1
        )
        logits = self.gate_out(jax.nn.gelu(self.gate_in(both))).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(present, logits, -1e30), axis=-1)
        residual = self.residual_out(jax.nn.gelu(self.residual_in(both))).astype(jnp.float32)
        mixed = weights[:, :1] * title + weights[:, 1:] * image
        return mixed + self.residual_scale[...] * residual, weights
