"""Text towers in the architectures of BERT, RoBERTa, DistilBERT, MPNet, CLIP and SigLIP.

B batch, T words, N places of the tower, D width, H heads.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from maxsearch.config import ModelConfig, TextConfig
from maxsearch.mesh import gathered, spec
from maxsearch.models.layers import Norm, Size, constant, dropout, normal
from maxsearch.models.pretrained.layer import SPREAD, Layers

PRE_NORM = ("clip", "siglip")
RELATIVE_REACH = 128  # tokens, beyond which MPNet's relative positions are alike


class PretrainedText(nnx.Module):
    """A text tower of a pretrained source; `models.text.TextEncoder` in another architecture."""

    def __init__(self, rngs: nnx.Rngs, config: TextConfig, model: ModelConfig, fields: int = 1) -> None:
        """Draws the parameters, which the source's then replace; `fields` as of TextEncoder."""
        source, D = config.source, config.width
        assert source is not None
        post = source.family not in PRE_NORM
        # The vocabulary of a source cannot be chosen, and seldom divides over a mesh.
        self.embedding = normal(rngs, (model.vocab_size, D), (None, "embed"), fan_in=SPREAD)
        self.position = normal(rngs, (source.positions, D), (None, None), fan_in=SPREAD)
        # Each field is read as a text of its own; what tells them apart is learned, from nothing.
        self.field = constant((fields, D), (None, None), 0.0) if fields > 1 else None
        self.types = normal(rngs, (source.types, D), (None, None), fan_in=SPREAD) if source.types else None
        self.relative = (
            normal(rngs, (source.buckets, config.heads), (None, None), fan_in=SPREAD) if source.buckets else None
        )
        self.embedded = Norm(D, source.epsilon) if post else None
        self.layers = Layers(rngs, config, model, causal=source.family == "clip", post=post)
        self.norm = None if post else Norm(D, source.epsilon)
        self._source, self._fields, self._max_tokens = source, fields, config.max_tokens
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
        """Token states; arguments as of TextEncoder."""
        return self.read(ids, mask, key, hidden, fields)[0]

    def read(
        self,
        ids: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        key: PRNGKeyArray | None = None,
        hidden: tuple[Bool[Array, "B T"], Float[Array, " D"]] | None = None,
        fields: int | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B D"]]:
        """Token states, and the one that stands for the text in the source; arguments as of TextEncoder.

        It is the first token's of BERT's kind, the last one's of CLIP, and that of the last place of SigLIP.
        """
        T, fields, source = ids.shape[1], self._fields if fields is None else fields, self._source
        table = gathered(self.embedding[...], None, None, dtype=self._dtype)
        x = table.at[ids].get(out_sharding=spec("batch", None, None))
        if hidden is not None:
            x = jnp.where(hidden[0][..., None], hidden[1].astype(x.dtype), x)
        if source.family == "siglip":
            x, mask = self._filled(x, mask, table[source.pad], fields * self._max_tokens)
        x = x + self._positions(x.shape[1], fields)
        if self.types is not None:
            x = x + self.types[...].astype(x.dtype)[0]
        if self.embedded is not None:
            x = self.embedded(x)
        x = self.layers(dropout(x, self._dropout, key), mask, key, self._relative(x.shape[1]))
        if self.norm is not None:
            x = self.norm(x)
        return x[:, :T], self._spoken(x, mask)

    def _filled(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"], pad: Float[Array, " D"], places: int
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        """SigLIP learned to read texts of full length, padding too, whatever the length of the batch is."""
        x = jnp.where(mask[..., None], x, pad)
        B, T, D = x.shape
        if not isinstance(T, int) or places > T:
            rest = jnp.broadcast_to(pad, (B, places - T, D), out_sharding=spec("batch", None, None))
            x = jnp.concatenate([x, rest], axis=1)
        return x, jnp.ones(x.shape[:2], bool, out_sharding=spec("batch", None))

    def _positions(self, places: Size, fields: int) -> Float[Array, "T D"]:
        """Where each token stands in its field; texts may have fewer places than the model reads, in every field."""
        rows = self.position[...].astype(self._dtype)[self._source.offset :]
        if self.field is None or fields == 1:
            return rows[:places]
        told = self.field[...].astype(self._dtype)[:fields, None]
        return (rows[None, : places // fields] + told).reshape(places, -1)

    def _relative(self, places: Size) -> Float[Array, "H T T"] | None:
        """MPNet's bias by distance: half of the buckets for either side, from a quarter on ever wider ones (T5)."""
        if self.relative is None:
            return None
        side = self._source.buckets // 2
        exact = side // 2
        distance = jnp.arange(places)[None, :] - jnp.arange(places)[:, None]
        away = jnp.abs(distance)
        far = jnp.log(jnp.maximum(away, 1) / exact) / math.log(RELATIVE_REACH / exact) * (side - exact)
        far = jnp.minimum(exact + far.astype(jnp.int32), side - 1)
        bucket = jnp.where(distance > 0, side, 0) + jnp.where(away < exact, away, far)
        return jnp.transpose(self.relative[...][bucket], (2, 0, 1))

    def _spoken(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        if self._source.family == "clip":
            last = jnp.maximum(mask.sum(axis=1, keepdims=True) - 1, 0) == jnp.arange(x.shape[1])
            return jnp.einsum("BT,BTD->BD", last.astype(x.dtype), x)
        return x[:, -1] if self._source.family == "siglip" else x[:, 0]
