"""The fusion tower: title words and patches become one product vector.

It never sees the query, so that the vector can be indexed.

B batch, T words, P patches, D fusion width, E size of the compared vectors.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.config import ModelConfig
from maxsearch.models.layers import Linear, Norm, Transformer, constant, masked_mean


class Fusion(Protocol):
    """What every fusion tower answers."""

    def __call__(
        self,
        words: Float[Array, "B T D"],
        words_mask: Bool[Array, "B T"],
        patches: Float[Array, "B P D"],
        patches_mask: Bool[Array, "B P"],
        present: Bool[Array, "B 2"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """The unnormalised product vector, and how much title and image weigh in it (rows sum to 1).

        Args:
          words, words_mask: the title's token states and which of them are real; a missing title is one null token.
          patches, patches_mask: the same of the image.
          present: whether the product has a title, and an image; a missing one weighs 0.
          key: turns dropout on.
        """


class GatedFusion(nnx.Module):
    """Joint transformer blocks (when depth is above 0), then a weighted sum of both modalities and a joint residual.

    The weights are a softmax over an MLP of both pooled vectors, product by product: (a_t, a_v) of MAKE's modal
    adaptation as we construct it (ours; the paper's equations are not public). The residual, an MLP of both, carries
    what neither modality says alone (ours).
    """

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        config = model.fusion
        D = config.width
        self.modality = constant((2, D), (None, None), 0.0)
        self.blocks = Transformer(
            rngs,
            depth=config.depth,
            width=D,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            dropout=config.dropout,
            remat=model.remat,
            unroll=model.unroll,
        )
        self.norm = Norm(D)
        self.gate_in = Linear(rngs, 2 * D, D)
        self.gate_out = Linear(rngs, D, 2)
        self.residual_in = Linear(rngs, 2 * D, 2 * D)
        self.residual_out = Linear(rngs, 2 * D, model.dim)
        self.residual_scale = constant((), (), 0.0)
        self.project = Linear(rngs, D, model.dim)

    def __call__(
        self,
        words: Float[Array, "B T D"],
        words_mask: Bool[Array, "B T"],
        patches: Float[Array, "B P D"],
        patches_mask: Bool[Array, "B P"],
        present: Bool[Array, "B 2"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B E"], Float[Array, "B 2"]]:
        """See Fusion."""
        T = words.shape[1]
        kinds = self.modality[...].astype(words.dtype)
        tokens = jnp.concatenate([words + kinds[0], patches + kinds[1]], axis=1)
        mask = jnp.concatenate([words_mask, patches_mask], axis=1)
        tokens = self.norm(self.blocks(tokens, mask, key))
        title = masked_mean(tokens[:, :T], words_mask)
        image = masked_mean(tokens[:, T:], patches_mask)
        both = jnp.concatenate([title, image], axis=-1)
        logits = self.gate_out(jax.nn.gelu(self.gate_in(both))).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(present, logits, -1e30), axis=-1)
        mixed = weights[:, :1].astype(title.dtype) * title + weights[:, 1:].astype(image.dtype) * image
        residual = self.residual_out(jax.nn.gelu(self.residual_in(both)))
        return self.project(mixed) + self.residual_scale[...].astype(mixed.dtype) * residual, weights
