"""The image encoder: a vision transformer with a linear or a convolutional stem.

B batch, P patches, D width.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from maxsearch.config import ModelConfig
from maxsearch.mesh import spec
from maxsearch.models.layers import Norm, Transformer, dropout, normal
from maxsearch.models.stems import Colours, ConvStem, PatchStem


class ImageEncoder(nnx.Module):
    """Patches plus learned positions, then transformer blocks; the caller pools."""

    def __init__(self, rngs: nnx.Rngs, model: ModelConfig) -> None:
        config = model.image
        rows, columns = config.grid
        self.stem: nnx.Module
        if config.stem == "patch":
            self.stem = PatchStem(rngs, config.patch, config.width)
        else:
            self.stem = ConvStem(rngs, config.patch, config.stem_width, config.width, config.stem_blocks)
        self.colours = Colours(rngs, config.patch, config.colour_width, config.width) if config.colour_width else None
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
        pixels = image.astype(self._dtype) / 127.5 - 1
        x = self.stem(pixels)
        if self.colours is not None:
            x = x + self.colours(pixels)
        if hidden is not None:
            x = jnp.where(hidden[0][..., None], hidden[1].astype(x.dtype), x)
        x = x + self.position[...].astype(self._dtype)
        x = dropout(x, self._dropout, key)
        mask = jnp.ones(x.shape[:2], bool, out_sharding=spec("batch", None))
        return self.norm(self.blocks(x, mask, key))
