"""Attention from one set of tokens to another.

B batch, T tokens that read, S tokens that are read, D their widths, H heads, K key size, F hidden.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from maxsearch.mesh import gathered, spec
from maxsearch.models.layers import Norm, normal


class CrossAttention(nnx.Module):
    """Multi-head attention without residual or norm: what the first tokens find in the second ones."""

    def __init__(self, rngs: nnx.Rngs, width: int, other_width: int, heads: int) -> None:
        """Draws the parameters; `width` is of the tokens that read and `other_width` of those that are read."""
        H, K = heads, width // heads
        self.query = normal(rngs, (width, H, K), ("embed", "heads", None), fan_in=width)
        self.key_value = normal(rngs, (other_width, 2, H, K), ("embed", None, "heads", None), fan_in=other_width)
        self.out = normal(rngs, (H, K, width), ("heads", None, "embed"), fan_in=width)

    def __call__(
        self, x: Float[Array, "B T D"], other: Float[Array, "B S C"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B T D"]:
        """What each token of `x` finds in `other`; tokens whose mask is False are never attended to.

        Args:
          x: the tokens that read.
          other: the tokens that are read.
          mask: which of `other` are real, at least one per row.
        """
        query = jnp.einsum("BTD,DHK->BTHK", x, gathered(self.query[...], None, "heads", None, dtype=x.dtype))
        stacked = gathered(self.key_value[...], None, None, "heads", None, dtype=x.dtype)
        key, value = jnp.einsum("BSD,DCHK->CBSHK", other, stacked)
        logits = jnp.einsum("BTHK,BSHK->BHTS", query, key).astype(jnp.float32) / math.sqrt(query.shape[-1])
        attention = jax.nn.softmax(jnp.where(mask[:, None, None, :], logits, -1e30), axis=-1).astype(x.dtype)
        mixed = jnp.einsum("BHTS,BSHK->BTHK", attention, value)
        out = gathered(self.out[...], "heads", None, None, dtype=x.dtype)
        return jnp.einsum("BTHK,HKD->BTD", mixed, out, out_sharding=spec("batch", None, None))


class CrossBlock(nnx.Module):
    """A pre-norm block of cross-attention and GELU MLP, both with a residual; what is read comes as it is."""

    def __init__(self, rngs: nnx.Rngs, width: int, other_width: int, heads: int, mlp_ratio: float) -> None:
        """Draws the parameters; widths as for CrossAttention."""
        F = int(width * mlp_ratio)
        self.attention_norm, self.mlp_norm = Norm(width), Norm(width)
        self.attention = CrossAttention(rngs, width, other_width, heads)
        self.up = normal(rngs, (width, F), ("embed", "hidden"), fan_in=width)
        self.down = normal(rngs, (F, width), ("hidden", "embed"), fan_in=F)

    def __call__(
        self, x: Float[Array, "B T D"], other: Float[Array, "B S C"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B T D"]:
        """Tokens in, tokens out; arguments as for CrossAttention."""
        x = x + self.attention(self.attention_norm(x), other, mask)
        hidden = jax.nn.gelu(
            jnp.einsum("BTD,DF->BTF", self.mlp_norm(x), gathered(self.up[...], None, "hidden", dtype=x.dtype))
        )
        down = gathered(self.down[...], "hidden", None, dtype=x.dtype)
        return x + jnp.einsum("BTF,FD->BTD", hidden, down, out_sharding=spec("batch", None, None))
