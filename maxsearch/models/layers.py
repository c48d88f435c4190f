"""Parameters with their layout, norms, masked pooling and the transformer stack that every tower shares.

B batch, T tokens, D model width, H heads, K key size, F hidden, L layers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.config import FusionConfig, ImageConfig, ModelConfig, TextConfig
from maxsearch.mesh import gathered, spec

Size = Any
"""An int, or a symbolic size while a program is exported."""

NORM_EPSILON = 1e-6
REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], fan_in: int) -> nnx.Param:
    """A float32 parameter drawn from N(0, 1 / fan_in), born split over the mesh as its logical `axes` say."""
    value = jax.random.normal(rngs.params(), shape, jnp.float32, out_sharding=spec(*axes))
    return nnx.Param(value / math.sqrt(fan_in))


def constant(shape: tuple[int, ...], axes: tuple[str | None, ...], value: float) -> nnx.Param:
    """A float32 parameter that starts at one value."""
    return nnx.Param(jnp.full(shape, value, jnp.float32, out_sharding=spec(*axes)))


def layer_norm(
    x: Float[Array, "*B D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float = NORM_EPSILON
) -> Float[Array, "*B D"]:
    """Layer normalisation in float32, returned in the dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + epsilon)
    return (y * scale + bias).astype(x.dtype)


def l2_normalize(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Unit vectors in float32; a zero vector stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


def masked_mean(x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """Mean over the tokens whose mask holds; zero where none does."""
    weights = mask.astype(x.dtype)[..., None]
    return (x * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


def dropout(x: Float[Array, "*B D"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*B D"]:
    """Inverted dropout; without a key it does nothing."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape, out_sharding=jax.typeof(x).sharding.spec)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def merged(x: Float[Array, "B T D"]) -> Float[Array, "N D"]:
    """All tokens of the batch as rows of one matrix: XLA's CPU compiler then finds no transposes in the gradients."""
    B, T, D = x.shape
    return jax.lax.reshape(x, (B * T, D), out_sharding=spec("batch", None))


def rows_of(x: Float[Array, "N D"], batch: Size) -> Float[Array, "B T D"]:
    """Reverses `merged`."""
    return jax.lax.reshape(x, (batch, x.shape[0] // batch, x.shape[1]), out_sharding=spec("batch", None, None))


class Norm(nnx.Module):
    """Layer norm with its own scale and bias."""

    def __init__(self, width: int, epsilon: float = NORM_EPSILON) -> None:
        self.scale = constant((width,), (None,), 1.0)
        self.bias = constant((width,), (None,), 0.0)
        self._epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Normalises the last dimension."""
        return layer_norm(x, self.scale[...], self.bias[...], self._epsilon)


class Linear(nnx.Module):
    """An affine map of the last dimension, its weight stored split over fsdp."""

    def __init__(
        self, rngs: nnx.Rngs, inputs: int, outputs: int, axes: tuple[str | None, str | None] = ("embed", None)
    ) -> None:
        self.kernel = normal(rngs, (inputs, outputs), axes, fan_in=inputs)
        self.bias = constant((outputs,), (None,), 0.0)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        """Maps D inputs to E outputs."""
        kernel = gathered(self.kernel[...], None, None, dtype=x.dtype)
        bias = self.bias[...].astype(x.dtype)
        if x.ndim == 2:
            return x @ kernel + bias
        return rows_of(merged(x) @ kernel + bias, x.shape[0])


class Transformer(nnx.Module):
    """`depth` pre-norm blocks of self-attention and GELU MLP; the parameters of all layers lie in one stack.

    Weights are gathered over fsdp layer by layer, where they are used, so that one layer at a time is whole.
    """

    def __init__(self, rngs: nnx.Rngs, tower: TextConfig | ImageConfig | FusionConfig, model: ModelConfig) -> None:
        L, D, H = tower.depth, tower.width, tower.heads
        K, F = D // H, int(D * tower.mlp_ratio)
        self._depth, self._dropout = L, tower.dropout
        self._remat, self._unroll = model.remat, model.unroll
        if L == 0:
            return
        self.attention_scale = constant((L, D), (None, None), 1.0)
        self.attention_bias = constant((L, D), (None, None), 0.0)
        self.qkv = normal(rngs, (L, D, 3, H, K), (None, "embed", None, "heads", None), fan_in=D)
        self.out = normal(rngs, (L, H, K, D), (None, "heads", None, "embed"), fan_in=D * 2 * L)
        self.mlp_scale = constant((L, D), (None, None), 1.0)
        self.mlp_bias = constant((L, D), (None, None), 0.0)
        self.up = normal(rngs, (L, D, F), (None, "embed", "hidden"), fan_in=D)
        self.down = normal(rngs, (L, F, D), (None, "hidden", "embed"), fan_in=F * 2 * L)

    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """Tokens in, tokens out; tokens whose mask is False are never attended to.

        Args:
          x: the tokens, in the dtype of the computation.
          mask: which tokens are real.
          key: turns dropout on.
        """
        if self._depth == 0:
            return x
        names = ("attention_scale", "attention_bias", "qkv", "out", "mlp_scale", "mlp_bias", "up", "down")
        stack = {name: getattr(self, name)[...] for name in names}

        def step(x: Array, layer: tuple[dict[str, Array], Array]) -> tuple[Array, None]:
            weights, index = layer
            keys = (None, None) if key is None else tuple(jax.random.split(jax.random.fold_in(key, index)))
            return block(x, mask, weights, self._dropout, keys), None

        if self._remat != "none":
            step = jax.checkpoint(step, policy=REMAT[self._remat])
        x, _ = jax.lax.scan(step, x, (stack, jnp.arange(self._depth)), unroll=self._unroll or self._depth)
        return x


def block(
    x: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
    weights: dict[str, Any],
    rate: float,
    keys: tuple[PRNGKeyArray | None, ...],
) -> Float[Array, "B T D"]:
    """One pre-norm transformer block."""
    B, T, _ = x.shape
    flat = spec("batch", None)
    x = merged(x)
    y = layer_norm(x, weights["attention_scale"], weights["attention_bias"])
    qkv = gathered(weights["qkv"], None, None, "heads", None, dtype=x.dtype)
    H, K = qkv.shape[2:]

    def heads(part: int) -> Float[Array, "B T H K"]:
        z = jnp.einsum("ND,DHK->NHK", y, qkv[:, part])
        return jax.lax.reshape(z, (B, T, H, K), out_sharding=spec("batch", None, "heads", None))

    query, key, value = heads(0), heads(1), heads(2)
    logits = jnp.einsum("BTHK,BSHK->BHTS", query, key).astype(jnp.float32) / math.sqrt(K)
    logits = jnp.where(mask[:, None, None, :], logits, -1e30)
    attention = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
    mixed = jnp.einsum("BHTS,BSHK->BTHK", attention, value)
    mixed = jax.lax.reshape(mixed, (B * T, H, K), out_sharding=spec("batch", "heads", None))
    out = gathered(weights["out"], "heads", None, None, dtype=x.dtype)
    x = x + dropout(jnp.einsum("NHK,HKD->ND", mixed, out, out_sharding=flat), rate, keys[0])

    y = layer_norm(x, weights["mlp_scale"], weights["mlp_bias"])
    hidden = jax.nn.gelu(y @ gathered(weights["up"], None, "hidden", dtype=x.dtype))
    down = gathered(weights["down"], "hidden", None, dtype=x.dtype)
    x = x + dropout(jnp.einsum("NF,FD->ND", hidden, down, out_sharding=flat), rate, keys[1])
    return rows_of(x, B)
