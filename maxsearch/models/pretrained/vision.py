"""Image towers in the architectures of ViT, CLIP and SigLIP.

B batch, P patches, D width, H heads, K key size.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from maxsearch.config import ImageConfig, ModelConfig
from maxsearch.mesh import gathered, spec
from maxsearch.models.layers import Norm, constant, dropout, normal
from maxsearch.models.pretrained.layer import ACTIVATIONS, SPREAD, Bias, Layers, attend
from maxsearch.models.stems import PIXELS, patches_of


class Stem(nnx.Module):
    """One linear map of each square of pixels; CLIP's has no bias."""

    def __init__(self, rngs: nnx.Rngs, patch: int, width: int, *, bias: bool) -> None:
        self.kernel = normal(rngs, (patch * patch * 3, width), PIXELS, fan_in=SPREAD)
        self.bias = constant((width,), (None,), 0.0) if bias else None
        self._patch = patch

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """Cuts and projects the patches, row by row."""
        patches = patches_of(x, self._patch)
        kernel = gathered(self.kernel[...], None, None, dtype=x.dtype)
        y = jnp.einsum("BPC,CD->BPD", patches, kernel)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class AttentionPool(nnx.Module):
    """SigLIP's head: a learned token reads the patches, and an MLP with a residual follows (MAP, Zhai et al. 2022)."""

    def __init__(self, rngs: nnx.Rngs, config: ImageConfig) -> None:
        source = config.source
        assert source is not None
        D, H, K, F = config.width, config.heads, config.width // config.heads, source.hidden
        self.probe = normal(rngs, (D,), (None,), fan_in=SPREAD)
        self.qkv = normal(rngs, (D, 3, H, K), ("embed", None, "heads", None), fan_in=SPREAD)
        self.qkv_add = Bias((3, H, K), (None, "heads", None))
        self.out = normal(rngs, (H, K, D), ("heads", None, "embed"), fan_in=SPREAD)
        self.out_add = Bias((D,), (None,))
        self.norm = Norm(D, source.epsilon)
        self.up = normal(rngs, (D, F), ("embed", "hidden"), fan_in=SPREAD)
        self.up_add = Bias((F,), ("hidden",))
        self.down = normal(rngs, (F, D), ("hidden", "embed"), fan_in=SPREAD)
        self.down_add = Bias((D,), (None,))
        self._activation = source.activation

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B D"]:
        """One state per picture."""
        qkv = gathered(self.qkv[...], None, None, "heads", None, dtype=x.dtype)
        added = self.qkv_add.bias[...].astype(x.dtype)
        query = jnp.einsum("D,DHK->HK", self.probe[...].astype(x.dtype), qkv[:, 0]) + added[0]
        B, P, _ = x.shape
        query = jnp.broadcast_to(query, (B, 1, *query.shape), out_sharding=spec("batch", None, "heads", None))
        key = jnp.einsum("BPD,DHK->BPHK", x, qkv[:, 1]) + added[1]
        value = jnp.einsum("BPD,DHK->BPHK", x, qkv[:, 2]) + added[2]
        seen = jnp.ones((B, 1, 1, P), bool, out_sharding=spec("batch", None, None, None))
        mixed = attend(query, key, value, seen)[:, 0]
        out = gathered(self.out[...], "heads", None, None, dtype=x.dtype)
        flat = spec("batch", None)
        y = jnp.einsum("BHK,HKD->BD", mixed, out, out_sharding=flat) + self.out_add.bias[...].astype(x.dtype)
        up = gathered(self.up[...], None, "hidden", dtype=x.dtype)
        hidden = ACTIVATIONS[self._activation](self.norm(y) @ up + self.up_add.bias[...].astype(x.dtype))
        down = gathered(self.down[...], "hidden", None, dtype=x.dtype)
        change = jnp.einsum("BF,FD->BD", hidden, down, out_sharding=flat)
        return y + change + self.down_add.bias[...].astype(x.dtype)


class PretrainedImage(nnx.Module):
    """An image tower of a pretrained source; `models.vision.ImageEncoder` in another architecture."""

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        """Draws the parameters, which the source's then replace."""
        config, source = model.image, model.image.source
        assert source is not None
        D, (rows, columns) = config.width, config.grid
        self.stem = Stem(rngs, config.patch, D, bias=source.family != "clip")
        self.class_token = None if source.family == "siglip" else normal(rngs, (D,), (None,), fan_in=SPREAD)
        places = rows * columns + (self.class_token is not None)
        self.position = normal(rngs, (places, D), (None, None), fan_in=SPREAD)
        self.before = Norm(D, source.epsilon) if source.family == "clip" else None
        self.layers = Layers(rngs, config, model, causal=False, post=False)
        self.norm = Norm(D, source.epsilon)
        whole = source.family == "siglip" and config.pool == "source"
        self.head = AttentionPool(rngs, config) if whole else None
        self._mean, self._std = source.mean, source.std
        self._dropout = config.dropout
        self._dtype = jnp.dtype(model.dtype)

    def __call__(
        self,
        image: UInt8[Array, "B H W 3"],
        key: PRNGKeyArray | None = None,
        hidden: tuple[Bool[Array, "B P"], Float[Array, " D"]] | None = None,
    ) -> Float[Array, "B P D"]:
        """Patch states; arguments as of ImageEncoder."""
        return self.read(image, key, hidden)[0]

    def read(
        self,
        image: UInt8[Array, "B H W 3"],
        key: PRNGKeyArray | None = None,
        hidden: tuple[Bool[Array, "B P"], Float[Array, " D"]] | None = None,
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B D"] | None]:
        """Patch states, and the one that stands for the picture in the source; arguments as of ImageEncoder.

        It is the class token's of ViT and CLIP, and the head's of SigLIP, where the model has it.
        """
        mean, std = (jnp.asarray(x, self._dtype) for x in (self._mean, self._std))
        x = self.stem((image.astype(self._dtype) / 255 - mean) / std)
        if hidden is not None:
            x = jnp.where(hidden[0][..., None], hidden[1].astype(x.dtype), x)
        if self.class_token is not None:
            shape = (x.shape[0], 1, x.shape[2])
            first = jnp.broadcast_to(
                self.class_token[...].astype(x.dtype), shape, out_sharding=spec("batch", None, None)
            )
            x = jnp.concatenate([first, x], axis=1)
        x = x + self.position[...].astype(x.dtype)
        if self.before is not None:
            x = self.before(x)
        x = dropout(x, self._dropout, key)
        mask = jnp.ones(x.shape[:2], bool, out_sharding=spec("batch", None))
        x = self.norm(self.layers(x, mask, key))
        if self.class_token is not None:
            return x[:, 1:], x[:, 0]
        return x, None if self.head is None else self.head(x)
