"""How an image becomes patches: a linear map, a stack of convolutions, and the colours beside either.

B batch, H x W pixels, P patches, C channels, D width.
"""

import math
from itertools import pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from maxsearch.mesh import spec
from maxsearch.models.layers import Linear, Norm, constant, normal

NHWC = ("NHWC", "HWIO", "NHWC")
PIXELS = (None, "embed")  # numbers of pixels seldom divide over a mesh, widths do


def patches_of(x: Float[Array, "B H W C"], n: int) -> Float[Array, "B P D"]:
    """Cuts squares of n x n, row by row, each laid out as one vector."""
    B, H, W, C = x.shape
    x = jax.lax.reshape(x, (B, H // n, n, W // n, n, C), out_sharding=spec("batch", *(None,) * 5))
    return jax.lax.reshape(
        x.transpose(0, 1, 3, 2, 4, 5), (B, (H // n) * (W // n), n * n * C), out_sharding=spec("batch", None, None)
    )


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


class ResidualBlock(nnx.Module):
    """x + c W2 gelu(W1 norm(x)) with two 3x3 convolutions and a learned factor c per channel, which starts small."""

    def __init__(self, rngs: nnx.Rngs, width: int) -> None:
        self.norm = Norm(width)
        self.first = Convolution(rngs, width, width, size=3, stride=1)
        self.second = Convolution(rngs, width, width, size=3, stride=1)
        self.factor = constant((width,), (None,), 0.3)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Adds the block's change."""
        change = self.second(jax.nn.gelu(self.first(self.norm(x))))
        return x + self.factor[...].astype(x.dtype) * change


class Colours(nnx.Module):
    """What the mean colours of the 4 x 4 squares of a patch say, through one hidden layer (ours)."""

    def __init__(self, rngs: nnx.Rngs, patch: int, hidden: int, width: int) -> None:
        self.first = Linear(rngs, patch * patch * 3 // 16, hidden, PIXELS)
        self.second = Linear(rngs, hidden, width)
        self._squares = patch // 4

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """One state per patch, row by row."""
        B, H, W, C = x.shape
        squares = jax.lax.reshape(x, (B, H // 4, 4, W // 4, 4, C), out_sharding=spec("batch", *(None,) * 5))
        return self.second(jax.nn.gelu(self.first(patches_of(squares.mean(axis=(2, 4)), self._squares))))


class PatchStem(nnx.Module):
    """ViT's stem: one linear map of each square of pixels (Dosovitskiy et al. 2021)."""

    def __init__(self, rngs: nnx.Rngs, patch: int, width: int) -> None:
        self.project = Linear(rngs, patch * patch * 3, width, PIXELS)
        self._patch = patch

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """Cuts and projects the patches, row by row."""
        return self.project(patches_of(x, self._patch))


class ConvStem(nnx.Module):
    """Convolutions down to the patch grid (Xiao et al. 2021), layer norms instead of batch norms.

    The first is 4x4 of stride 4, because full-resolution maps cost the most and say the least; the others are 3x3 of
    stride 2 and double the width. Residual `blocks` (He et al. 2016, pre-norm) follow the second stage, where maps are
    small enough and still have a place for every part of an object.
    """

    def __init__(self, rngs: nnx.Rngs, patch: int, stem_width: int, width: int, blocks: int = 0) -> None:
        halvings = int(math.log2(patch)) - 2
        widths = [stem_width * 2**stage for stage in range(halvings + 1)]
        pairs = pairwise(widths)
        stages = [Convolution(rngs, 3, stem_width, size=4, stride=4)]
        stages += [Convolution(rngs, a, b, size=3, stride=2) for a, b in pairs]
        # Named, not listed: parameter paths are strings everywhere, in checkpoints and in exports.
        self.stages = nnx.Dict({f"stage_{i}": stage for i, stage in enumerate(stages)})
        self.norms = nnx.Dict({f"stage_{i}": Norm(width) for i, width in enumerate(widths)})
        self.project = Linear(rngs, widths[-1], width)
        self.blocks = nnx.Dict({f"block_{i}": ResidualBlock(rngs, widths[1]) for i in range(blocks)})

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B P D"]:
        """Patch features, row by row."""
        for name in self.stages:
            x = jax.nn.gelu(self.norms[name](self.stages[name](x)))
            if name == "stage_1":
                for block in self.blocks.values():
                    x = block(x)
        B, h, w, C = x.shape
        return self.project(jax.lax.reshape(x, (B, h * w, C), out_sharding=spec("batch", None, None)))
