"""The text encoder: queries and titles each have one, with weights of their own.

B batch, T words, D width.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from maxsearch.config import ModelConfig, TextConfig
from maxsearch.mesh import gathered, spec
from maxsearch.models.layers import Norm, Size, Transformer, dropout, normal


class TextEncoder(nnx.Module):
    """Word embeddings plus positions, then transformer blocks; the caller pools (MAKE: the mean beats [CLS])."""

    def __init__(self, rngs: nnx.Rngs, config: TextConfig, model: ModelConfig, fields: int = 1) -> None:
        """Draws the parameters; each of `fields` text fields has `max_tokens` places of its own, end to end."""
        # Unit-free lookups: rows start with norm about 1, so that positions and words are of one size.
        self.embedding = normal(rngs, (model.vocab_size, config.width), ("vocab", "embed"), fan_in=config.width)
        places = fields * config.max_tokens
        self.position = normal(rngs, (places, config.width), (None, None), fan_in=config.width * 100)
        self.blocks = Transformer(rngs, config, model)
        self.norm = Norm(config.width)
        self._fields = fields
        self._dropout = config.dropout
        self._dtype = jnp.dtype(model.dtype)

    def __call__(
        self,
        ids: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        key: PRNGKeyArray | None = None,
        hidden: tuple[Bool[Array, "B T"], Float[Array, " D"]] | None = None,
        fields: int | None = None,
    ) -> Float[Array, "B T D"]:
        """Token states of `ids`; those whose mask is False hold no meaning.

        Args:
          ids: tokens of the vocabulary.
          mask: which of them are real.
          key: turns dropout on.
          hidden: which words are masked, and the vector that stands in the place of their embeddings.
          fields: text fields that stand end to end in `ids`; None for those of the encoder.
        """
        table = gathered(self.embedding[...], None, None, dtype=self._dtype)
        x = table.at[ids].get(out_sharding=spec("batch", None, None))
        if hidden is not None:
            x = jnp.where(hidden[0][..., None], hidden[1].astype(x.dtype), x)
        x = x + self._positions(ids.shape[1], self._fields if fields is None else fields)
        x = dropout(x, self._dropout, key)
        return self.norm(self.blocks(x, mask, key))

    def _positions(self, places: Size, fields: int) -> Float[Array, "T D"]:
        """Where each place stands in its field; texts may have fewer places than the model reads, in every field."""
        table = self.position[...].astype(self._dtype)
        if fields == 1:
            return table[:places]
        by_field = table.reshape(self._fields, -1, table.shape[1])
        return by_field[:fields, : places // fields].reshape(places, -1)
