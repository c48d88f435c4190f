"""The search model: one forward pass gives the vectors of query, title, image and product.

B batch, T words, P patches, D widths of the towers, E size of the compared vectors.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from maxsearch.config import Config, TextConfig
from maxsearch.mesh import spec
from maxsearch.models.align import make_aligner
from maxsearch.models.fusion import FusionInputs, Tokens, make_fusion
from maxsearch.models.heads import HEADS, make_heads
from maxsearch.models.layers import Linear, constant, l2_normalize, masked_mean, normal
from maxsearch.models.pretrained.text import PretrainedText
from maxsearch.models.pretrained.vision import PretrainedImage
from maxsearch.models.text import TextEncoder
from maxsearch.models.vision import ImageEncoder

Words = tuple[tuple[int, ...], ...]  # token ids of each keyword


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
class ProductTokens:
    """Token states behind the product vectors, for the losses that compare parts.

    Attributes:
      words: of the title, in the title tower's width; those of further text fields follow.
      patches: of the pictures, in the image tower's width, picture by picture.
      visual: visual words of the pictures in the title tower's width; None when the model has no aligner.
    """

    words: Tokens
    patches: Tokens
    visual: Tokens | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives to the losses.

    Attributes:
      query: unit vectors of the queries.
      query_words: their token states.
      products: unit vectors of the products.
      tokens: their token states.
      logit_scale: what cosines are multiplied with, 1 / temperature.
      logit_bias: what the sigmoid loss adds to a logit.
    """

    query: Float[Array, "B E"]
    query_words: Tokens
    products: ProductVectors
    tokens: ProductTokens
    logit_scale: Float[Array, ""]
    logit_bias: Float[Array, ""]


class SearchModel(nnx.Module):
    """Query encoder, title encoder, image encoder and fusion tower, and the heads that the config's losses use.

    The three encoders follow MAKE (Taobao, arXiv 2301.12646: the query has a text encoder of its own).
    """

    def __init__(self, config: Config, rngs: nnx.Rngs, words: Words = (), heads: Collection[str] = HEADS) -> None:
        """Draws the parameters.

        Args:
          config: the run's config.
          rngs: the source of randomness.
          words: the token ids of each keyword, the most frequent first, at most `model.keywords` of them.
          heads: those of these names only are made, where the config's losses use them.
        """
        model = config.model
        # Own weights, one start: a word that training hardly sees still matches itself across the two towers (ours).
        start = rngs.params()
        query_rngs, title_rngs = nnx.Rngs(params=start), nnx.Rngs(params=start)
        self.query_encoder = text_encoder(model.query)(query_rngs, model.query, model)
        self.title_encoder = text_encoder(model.title)(title_rngs, model.title, model, fields=model.texts)
        self.image_encoder = (ImageEncoder if model.image.source is None else PretrainedImage)(rngs, model)
        self.query_project = Linear(query_rngs, model.query.width, model.dim)
        self.title_project = Linear(title_rngs, model.title.width, model.dim)
        self.image_project = Linear(rngs, model.image.width, model.dim)
        self.title_to_fusion = Linear(rngs, model.title.width, model.fusion.width)
        self.image_to_fusion = Linear(rngs, model.image.width, model.fusion.width)
        self.title_null = normal(rngs, (model.title.width,), (None,), fan_in=model.title.width)
        self.image_null = normal(rngs, (model.image.width,), (None,), fan_in=model.image.width)
        self.fusion = make_fusion(rngs, model)
        self.logit_scale = constant((), (), math.log(config.loss.scale))
        # SigLIP: at the start almost every pair is a negative, and the bias says so.
        self.logit_bias = constant((), (), -10.0)
        self.heads = nnx.Dict(make_heads(rngs, config, heads))
        self.aligner = make_aligner(rngs, config, words)
        self._pooled = tuple(name for name in ("query", "title", "image") if getattr(model, name).pool == "source")

    def encode_query(
        self, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B E"]:
        """Unit vectors of queries."""
        return self.query_vector(self.query_words(ids, mask, key))

    def query_words(self, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], key: PRNGKeyArray | None = None) -> Tokens:
        """Token states of queries."""
        return text_tokens(self.query_encoder, ids, mask, key, pooled="query" in self._pooled)

    def query_vector(self, words: Tokens) -> Float[Array, "B E"]:
        """Unit vectors of queries from their token states."""
        return l2_normalize(self.query_project(words.summary))

    def encode_product(
        self,
        title_ids: Int[Array, "B T"],
        title_mask: Bool[Array, "B T"],
        image: UInt8[Array, "B N H W 3"],
        image_present: Bool[Array, "B N"],
        key: PRNGKeyArray | None = None,
    ) -> ProductVectors:
        """Unit vectors of products; a missing title or image is replaced by a learned null token."""
        return self.product(title_ids, title_mask, image, image_present, key)[1]

    def product(
        self,
        title_ids: Int[Array, "B T"],
        title_mask: Bool[Array, "B T"],
        image: UInt8[Array, "B N H W 3"],
        image_present: Bool[Array, "B N"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[ProductTokens, ProductVectors]:
        """Token states and unit vectors of products; arguments as for `encode_product`."""
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
        tokens = self.product_tokens(title_ids, title_mask, image, image_present, keys[:2])
        return tokens, self.join(tokens, title_mask.any(axis=1), image_present.any(axis=1), keys[2])

    def product_tokens(
        self,
        title_ids: Int[Array, "B T"],
        title_mask: Bool[Array, "B T"],
        image: UInt8[Array, "B N H W 3"],
        image_present: Bool[Array, "B N"],
        keys: tuple[PRNGKeyArray | None, ...] = (None, None),
    ) -> ProductTokens:
        """Token states of products, before they are joined; arguments as for `encode_product`."""
        title = text_tokens(self.title_encoder, title_ids, title_mask, keys[0], pooled="title" in self._pooled)
        patches = self._patches(image, image_present, keys[1])
        visual = None
        if self.aligner is not None and self.aligner.visual_words:
            visual = self.aligner(patches.states, patches.mask, image, self.title_encoder).tokens
        return ProductTokens(
            with_null(title, title_mask.any(axis=1), self.title_null[...]),
            with_null(patches, image_present.any(axis=1), self.image_null[...]),
            visual,
        )

    def _patches(
        self, image: UInt8[Array, "B N H W 3"], present: Bool[Array, "B N"], key: PRNGKeyArray | None
    ) -> Tokens:
        """Token states of pictures, those of a product end to end."""
        B, N = present.shape
        flat = jax.lax.reshape(image, (B * N, *image.shape[2:]), out_sharding=spec("batch", None, None, None))
        pooled = None
        if "image" in self._pooled:
            assert isinstance(self.image_encoder, PretrainedImage)
            patches, spoken = self.image_encoder.read(flat, key)
            assert spoken is not None  # the tower has its head
            spoken = jax.lax.reshape(spoken, (B, N, spoken.shape[-1]), out_sharding=spec("batch", None, None))
            pooled = masked_mean(spoken, present)
        else:
            patches = self.image_encoder(flat, key)
        P, D = patches.shape[1:]
        patches = jax.lax.reshape(patches, (B, N * P, D), out_sharding=spec("batch", None, None))
        return Tokens(patches, jnp.repeat(present, P, axis=1), pooled)

    def join(
        self,
        tokens: ProductTokens,
        title_present: Bool[Array, " B"],
        image_present: Bool[Array, " B"],
        key: PRNGKeyArray | None = None,
    ) -> ProductVectors:
        """Unit vectors of products from their token states."""
        inputs = self.fusion_inputs(tokens, title_present, image_present)
        fused, weights = self.fusion(inputs, key)
        return ProductVectors(title=inputs.title, image=inputs.image, product=l2_normalize(fused), weights=weights)

    def fusion_inputs(
        self, tokens: ProductTokens, title_present: Bool[Array, " B"], image_present: Bool[Array, " B"]
    ) -> FusionInputs:
        """What the fusion tower is given for these token states."""
        words, patches = tokens.words, tokens.patches
        visual, visual_vector = None, None
        if tokens.visual is not None:
            visual = Tokens(self.title_to_fusion(tokens.visual.states), tokens.visual.mask)
            visual_vector = l2_normalize(self.title_project(tokens.visual.summary))
        return FusionInputs(
            words=Tokens(self.title_to_fusion(words.states), words.mask),
            patches=Tokens(self.image_to_fusion(patches.states), patches.mask),
            visual=visual,
            title=l2_normalize(self.title_project(words.summary)),
            image=l2_normalize(self.image_project(patches.summary)),
            visual_vector=visual_vector,
            present=jnp.stack([title_present, image_present], axis=1),
        )

    def __call__(self, batch: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Outputs:
        """All vectors of a batch of (query, product) examples, as data/batches.py lays it out."""
        query_key, product_key = (None, None) if key is None else tuple(jax.random.split(key))
        query_words = self.query_words(batch["query_ids"], batch["query_mask"], query_key)
        tokens, products = self.product(
            batch["title_ids"], batch["title_mask"], batch["image"], batch["image_present"], product_key
        )
        return Outputs(
            query=self.query_vector(query_words),
            query_words=query_words,
            products=products,
            tokens=tokens,
            logit_scale=jnp.exp(self.logit_scale[...]),
            logit_bias=self.logit_bias[...],
        )


def text_encoder(config: TextConfig) -> type[TextEncoder] | type[PretrainedText]:
    """The class of a text tower."""
    return TextEncoder if config.source is None else PretrainedText


def text_tokens(
    encoder: TextEncoder | PretrainedText,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    key: PRNGKeyArray | None,
    *,
    pooled: bool,
) -> Tokens:
    """Token states of texts; `pooled` asks a pretrained tower for the state that stands for each."""
    if not pooled:
        return Tokens(encoder(ids, mask, key), mask)
    assert isinstance(encoder, PretrainedText)
    states, spoken = encoder.read(ids, mask, key)
    return Tokens(states, mask, spoken)


def with_null(tokens: Tokens, present: Bool[Array, " B"], null: Float[Array, " D"]) -> Tokens:
    """Where a modality is missing: one real token, the learned null."""
    null = null.astype(tokens.states.dtype)
    first = jnp.arange(tokens.mask.shape[1]) == 0
    return Tokens(
        jnp.where(present[:, None, None], tokens.states, null),
        jnp.where(present[:, None], tokens.mask, first),
        None if tokens.pooled is None else jnp.where(present[:, None], tokens.pooled, null),
    )
