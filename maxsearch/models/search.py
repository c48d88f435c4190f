"""The search model: one forward pass gives the vectors of query, title, image and product.

B batch, T words, P patches, D widths of the towers, E size of the compared vectors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from maxsearch.config import Config
from maxsearch.mesh import spec
from maxsearch.models.fusion import GatedFusion, Tokens
from maxsearch.models.layers import Linear, constant, l2_normalize, masked_mean, normal
from maxsearch.models.text import TextEncoder
from maxsearch.models.vision import ImageEncoder


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProductVectors:
    """Unit vectors of a batch of products, and how the product vector came about.

    Attributes:
      title, image: each modality alone; of no meaning where it is missing.
      product: the fused vector that is indexed.
      weights: how much title and image weigh in it.
    """

    title: Float[Array, "B E"]
    image: Float[Array, "B E"]
    product: Float[Array, "B E"]
    weights: Float[Array, "B 2"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives to the losses.

    Attributes:
      query: unit vectors of the queries.
      products: those of the products.
      logit_scale: what cosines are multiplied with, 1 / temperature.
      logit_bias: what the sigmoid loss adds to a logit.
    """

    query: Float[Array, "B E"]
    products: ProductVectors
    logit_scale: Float[Array, ""]
    logit_bias: Float[Array, ""]


class SearchModel(nnx.Module):
    """Query encoder, title encoder, image encoder and fusion tower.

    The three encoders follow MAKE (Taobao, arXiv 2301.12646: the query has a text encoder of its own).
    """

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        model = config.model
        # Own weights, one start: a word that training hardly sees still matches itself across the two towers (ours).
        start = rngs.params()
        query_rngs, title_rngs = nnx.Rngs(params=start), nnx.Rngs(params=start)
        self.query_encoder = TextEncoder(query_rngs, model.query, model)
        self.title_encoder = TextEncoder(title_rngs, model.title, model)
        self.image_encoder = ImageEncoder(rngs, model)
        self.query_project = Linear(query_rngs, model.query.width, model.dim)
        self.title_project = Linear(title_rngs, model.title.width, model.dim)
        self.image_project = Linear(rngs, model.image.width, model.dim)
        self.title_to_fusion = Linear(rngs, model.title.width, model.fusion.width)
        self.image_to_fusion = Linear(rngs, model.image.width, model.fusion.width)
        self.title_null = normal(rngs, (model.title.width,), (None,), fan_in=model.title.width)
        self.image_null = normal(rngs, (model.image.width,), (None,), fan_in=model.image.width)
        self.fusion = GatedFusion(rngs, model)
        self.logit_scale = constant((), (), math.log(config.loss.scale))
        # SigLIP: at the start almost every pair is a negative, and the bias says so.
        self.logit_bias = constant((), (), -10.0)

    def encode_query(
        self, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B E"]:
        """Unit vectors of queries."""
        return l2_normalize(self.query_project(masked_mean(self.query_encoder(ids, mask, key), mask)))

    def encode_product(
        self,
        title_ids: Int[Array, "B T"],
        title_mask: Bool[Array, "B T"],
        image: UInt8[Array, "B H W 3"],
        image_present: Bool[Array, " B"],
        key: PRNGKeyArray | None = None,
    ) -> ProductVectors:
        """Unit vectors of products; a missing title or image is replaced by a learned null token."""
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
        title_present = title_mask.any(axis=1)
        words, words_mask = with_null(
            self.title_encoder(title_ids, title_mask, keys[0]), title_mask, title_present, self.title_null[...]
        )
        patches = self.image_encoder(image, keys[1])
        all_patches = jnp.ones(patches.shape[:2], bool, out_sharding=spec("batch", None))
        patches, patches_mask = with_null(patches, all_patches, image_present, self.image_null[...])
        title = l2_normalize(self.title_project(masked_mean(words, words_mask)))
        picture = l2_normalize(self.image_project(masked_mean(patches, patches_mask)))
        fused, weights = self.fusion(
            Tokens(self.title_to_fusion(words), words_mask),
            Tokens(self.image_to_fusion(patches), patches_mask),
            title,
            picture,
            jnp.stack([title_present, image_present], axis=1),
            keys[2],
        )
        return ProductVectors(title=title, image=picture, product=l2_normalize(fused), weights=weights)

    def __call__(self, batch: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Outputs:
        """All vectors of a batch of (query, product) examples, as data/stream.py lays it out."""
        query_key, product_key = (None, None) if key is None else tuple(jax.random.split(key))
        return Outputs(
            query=self.encode_query(batch["query_ids"], batch["query_mask"], query_key),
            products=self.encode_product(
                batch["title_ids"], batch["title_mask"], batch["image"], batch["image_present"], product_key
            ),
            logit_scale=jnp.exp(self.logit_scale[...]),
            logit_bias=self.logit_bias[...],
        )


def with_null(
    tokens: Float[Array, "B T D"], mask: Bool[Array, "B T"], present: Bool[Array, " B"], null: Float[Array, " D"]
) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
    """Where a modality is missing: one real token, the learned null."""
    tokens = jnp.where(present[:, None, None], tokens, null.astype(tokens.dtype))
    first = jnp.arange(mask.shape[1]) == 0
    return tokens, jnp.where(present[:, None], mask, first)
