"""The transformer layer that BERT, CLIP, SigLIP and ViT share: norms before or behind, biases, four activations.

Unlike our own stack, each layer has parameters of its own, so that parameter groups can tell layers apart.

B batch, T tokens, D model width, H heads, K key size, F hidden.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.config import ImageConfig, ModelConfig, TextConfig
from maxsearch.mesh import gathered, spec
from maxsearch.models.layers import REMAT, Norm, constant, dropout, layer_norm, merged, normal, rows_of

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}
SPREAD = 2500  # parameters that no source gives are drawn with a standard deviation of 0.02, as all the families do


class Bias(nnx.Module):
    """What is added behind a product; a module, so that its path ends like that of any bias."""

    def __init__(self, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> None:
        self.bias = constant(shape, axes, 0.0)


class Layer(nnx.Module):
    """Self-attention and MLP with residuals; `apply_layer` computes it from `weights()`."""

    def __init__(self, rngs: nnx.Rngs, width: int, heads: int, hidden: int) -> None:
        D, H, K, F = width, heads, width // heads, hidden
        self.attention_norm = Norm(D)
        self.qkv = normal(rngs, (D, 3, H, K), ("embed", None, "heads", None), fan_in=SPREAD)
        self.qkv_add = Bias((3, H, K), (None, "heads", None))
        self.out = normal(rngs, (H, K, D), ("heads", None, "embed"), fan_in=SPREAD)
        self.out_add = Bias((D,), (None,))
        self.mlp_norm = Norm(D)
        self.up = normal(rngs, (D, F), ("embed", "hidden"), fan_in=SPREAD)
        self.up_add = Bias((F,), ("hidden",))
        self.down = normal(rngs, (F, D), ("hidden", "embed"), fan_in=SPREAD)
        self.down_add = Bias((D,), (None,))

    def weights(self) -> dict[str, Array]:
        """The parameters as arrays by name."""
        matrices = {name: getattr(self, name)[...] for name in ("qkv", "out", "up", "down")}
        added = {f"{name}_bias": getattr(self, f"{name}_add").bias[...] for name in matrices}
        norms = {
            f"{name}_{part}": getattr(getattr(self, f"{name}_norm"), part)[...]
            for name in ("attention", "mlp")
            for part in ("scale", "bias")
        }
        return matrices | added | norms


class Layers(nnx.Module):
    """All layers of a tower, from the lowest: `layers/layer_0` to the last."""

    def __init__(
        self, rngs: nnx.Rngs, tower: TextConfig | ImageConfig, model: ModelConfig, *, causal: bool, post: bool
    ) -> None:
        """Draws the parameters.

        Args:
          rngs: the source of randomness.
          tower: of a pretrained source.
          model: which it is part of.
          causal: a token reads only those before it, and itself.
          post: norms stand behind the residual sums, as in BERT, and not before attention and MLP.
        """
        source = tower.source
        assert source is not None
        for number in range(tower.depth):
            setattr(self, f"layer_{number}", Layer(rngs, tower.width, tower.heads, source.hidden))
        self._depth, self._dropout = tower.depth, tower.dropout
        self._remat = model.remat
        self._epsilon, self._activation = source.epsilon, source.activation
        self._post, self._causal = post, causal

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        key: PRNGKeyArray | None = None,
        bias: Float[Array, "H T T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Tokens in, tokens out.

        Args:
          x: the tokens, in the dtype of the computation.
          mask: which tokens are real; the others are never attended to.
          key: turns dropout on.
          bias: added to the attention logits of every row and layer.
        """
        seen = mask[:, None, None, :]
        if self._causal:
            places = jnp.arange(x.shape[1])
            seen = seen & (places[:, None] >= places)[None, None]

        rate, epsilon, activation, post = self._dropout, self._epsilon, ACTIVATIONS[self._activation], self._post

        def step(x: Array, weights: dict[str, Array], keys: tuple[PRNGKeyArray | None, ...]) -> Array:
            return apply_layer(
                x, seen, bias, weights, keys, rate=rate, epsilon=epsilon, activation=activation, post=post
            )

        if self._remat != "none":
            step = jax.checkpoint(step, policy=REMAT[self._remat])
        for number in range(self._depth):
            keys = (None, None) if key is None else tuple(jax.random.split(jax.random.fold_in(key, number)))
            x = step(x, getattr(self, f"layer_{number}").weights(), keys)
        return x


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    seen: Bool[Array, "B _ _ S"],
    bias: Float[Array, "H T S"] | None = None,
) -> Float[Array, "B T H K"]:
    """What each token finds in those that it sees."""
    logits = jnp.einsum("BTHK,BSHK->BHTS", query, key).astype(jnp.float32) / math.sqrt(query.shape[-1])
    if bias is not None:
        logits = logits + gathered(bias, "heads", None, None)[None]
    attention = jax.nn.softmax(jnp.where(seen, logits, -1e30), axis=-1).astype(value.dtype)
    return jnp.einsum("BHTS,BSHK->BTHK", attention, value)


def apply_layer(
    x: Float[Array, "B T D"],
    seen: Bool[Array, "B _ _ T"],
    bias: Float[Array, "H T T"] | None,
    weights: Mapping[str, Any],
    keys: tuple[PRNGKeyArray | None, ...],
    *,
    rate: float,
    epsilon: float,
    activation: Callable[[Array], Array],
    post: bool,
) -> Float[Array, "B T D"]:
    """One layer, from the arrays of `Layer.weights`."""
    B, T, _ = x.shape
    flat = spec("batch", None)
    x = merged(x)

    def norm(name: str, x: Array) -> Array:
        return layer_norm(x, weights[f"{name}_scale"], weights[f"{name}_bias"], epsilon)

    y = x if post else norm("attention", x)
    qkv = gathered(weights["qkv"], None, None, "heads", None, dtype=x.dtype)
    qkv_bias = weights["qkv_bias"].astype(x.dtype)
    H, K = qkv.shape[2:]

    def heads(part: int) -> Float[Array, "B T H K"]:
        z = jnp.einsum("ND,DHK->NHK", y, qkv[:, part]) + qkv_bias[part]
        return jax.lax.reshape(z, (B, T, H, K), out_sharding=spec("batch", None, "heads", None))

    mixed = attend(heads(0), heads(1), heads(2), seen, bias)
    mixed = jax.lax.reshape(mixed, (B * T, H, K), out_sharding=spec("batch", "heads", None))
    out = gathered(weights["out"], "heads", None, None, dtype=x.dtype)
    mixed = jnp.einsum("NHK,HKD->ND", mixed, out, out_sharding=flat) + weights["out_bias"].astype(x.dtype)
    x = x + dropout(mixed, rate, keys[0])
    if post:
        x = norm("attention", x)

    y = x if post else norm("mlp", x)
    hidden = y @ gathered(weights["up"], None, "hidden", dtype=x.dtype) + weights["up_bias"].astype(x.dtype)
    down = gathered(weights["down"], "hidden", None, dtype=x.dtype)
    change = jnp.einsum("NF,FD->ND", activation(hidden), down, out_sharding=flat)
    x = x + dropout(change + weights["down_bias"].astype(x.dtype), rate, keys[1])
    if post:
        x = norm("mlp", x)
    return rows_of(x, B)
