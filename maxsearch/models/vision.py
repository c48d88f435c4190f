"""The image encoder: a vision transformer with a linear or a convolutional stem.

B batch, P patches, D width.
"""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from maxsearch.config import ModelConfig
from maxsearch.mesh import spec
from maxsearch.models.layers import Linear, Norm, Transformer, constant, dropout, normal

NHWC = ("NHWC", "HWIO", "NHWC")


class Convolution(nnx.Module):
    """A square convolution that shrinks the image by `stride`."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, outputs: int, *, size: int, stride: int) -> None:
        self.kernel = normal(rngs, (size, size, inputs, outputs), (None,) * 4, fan_in=size * size * inputs)
        self.bias = constant((outputs,), (None,), 0.0)
        self._stride = stride

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Convolves with SAME padding."""
        strides = (self._stride, self._stride)
        y = jax.lax.conv_general_dilated(x, self.kernel[...].astype(x.dtype), strides, "SAME", dimension_numbers=NHWC)
        return y + self.bias[...].astype(x.dtype)


class PatchStem(nnx.Module):
    """ViT's stem: one linear map of each square of pixels (Dosovitskiy et al. 2021)."""

    def __init__(self, rngs: nnx.Rngs, patch: int, width: int) -> None:
        self.project = Linear(rngs, patch * patch * 3, width)
        self._patch = patch

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """Cuts and projects the patches, row by row."""
        B, H, W, C = x.shape
        n = self._patch
        x = jax.lax.reshape(x, (B, H // n, n, W // n, n, C), out_sharding=spec("batch", *(None,) * 5))
        x = jax.lax.reshape(
            x.transpose(0, 1, 3, 2, 4, 5), (B, (H // n) * (W // n), n * n * C), out_sharding=spec("batch", None, None)
        )
        return self.project(x)


class ConvStem(nnx.Module):
    """Convolutions down to the patch grid (Xiao et al. 2021), layer norms instead of batch norms.

    The first is 4x4 of stride 4, because full-resolution maps cost the most and say the least; the others are 3x3 of
    stride 2 and double the width.
    """

    def __init__(self, rngs: nnx.Rngs, patch: int, stem_width: int, width: int) -> None:
        halvings = int(math.log2(patch)) - 2
        widths = [stem_width * 2**stage for stage in range(halvings + 1)]
        pairs = pairwise(widths)
        stages = [Convolution(rngs, 3, stem_width, size=4, stride=4)]
        stages += [Convolution(rngs, a, b, size=3, stride=2) for a, b in pairs]
        # Named, not listed: parameter paths are strings everywhere, in checkpoints and in exports.
        self.stages = nnx.Dict({f"stage_{i}": stage for i, stage in enumerate(stages)})
        self.norms = nnx.Dict({f"stage_{i}": Norm(width) for i, width in enumerate(widths)})
        self.project = Linear(rngs, widths[-1], width)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """Patch features, row by row."""
        for name in self.stages:
            x = jax.nn.gelu(self.norms[name](self.stages[name](x)))
        B, h, w, C = x.shape
        return self.project(jax.lax.reshape(x, (B, h * w, C), out_sharding=spec("batch", None, None)))


class ImageEncoder(nnx.Module):
    """Patches plus learned positions, then transformer blocks; the caller pools."""

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        config = model.image
        rows, columns = config.grid
        self.stem: nnx.Module
        if config.stem == "patch":
            self.stem = PatchStem(rngs, config.patch, config.width)
        else:
            self.stem = ConvStem(rngs, config.patch, config.stem_width, config.width)
        self.position = normal(rngs, (rows * columns, config.width), (None, None), fan_in=config.width)
        self.blocks = Transformer(rngs, config, model)
        self.norm = Norm(config.width)
        self._dropout = config.dropout
        self._dtype = jnp.dtype(model.dtype)

    def __call__(
        self,
        image: UInt8[Array, "B H W 3"],
        key: PRNGKeyArray | None = None,
        hidden: tuple[Bool[Array, "B P"], Float[Array, " D"]] | None = None,
    ) -> Float[Array, "B P D"]:
        """Patch states of RGB images in 0..255.

        Args:
          image: the pictures.
          key: turns dropout on.
          hidden: which patches are masked, and the vector that stands in the place of what the stem made of them.
        """
        x = self.stem(image.astype(self._dtype) / 127.5 - 1)
        if hidden is not None:
            x = jnp.where(hidden[0][..., None], hidden[1].astype(x.dtype), x)
        x = x + self.position[...].astype(self._dtype)
        x = dropout(x, self._dropout, key)
        mask = jnp.ones(x.shape[:2], bool, out_sharding=spec("batch", None))
        return self.norm(self.blocks(x, mask, key))
