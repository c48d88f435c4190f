"""A trained model that embeds queries and products; evaluation, export, indexing and search all go through it."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float32, Int, UInt8
from transformers import PreTrainedTokenizerFast

from maxsearch import inputs, model_files
from maxsearch.config import Config, MeshConfig
from maxsearch.data.keywords import KEYWORDS, Lexicon, token_rows
from maxsearch.data.layout import Layout
from maxsearch.data.records import Product
from maxsearch.data.tokenize import TextEncoder, load_tokenizer
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import read_json
from maxsearch.inputs import EncodedProducts, padded, power_of_two, product_arrays
from maxsearch.mesh import make_mesh, put_batch, spec_size
from maxsearch.models.align import LOSS_TERMS, patch_words
from maxsearch.models.attribution import additive_parts, product_vectors
from maxsearch.models.heads import HEADS, SERVED_HEADS, served, take
from maxsearch.models.search import ProductTokens, Words
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.optim import make_optimizer, path_name
from maxsearch.training.run_folder import TOKENIZER, read_config, read_lexicon
from maxsearch.training.state import abstract_state, init_params, model_graph

QUERY_BATCH = 256
PRODUCT_BATCH = 256
MATCH_BATCH = 1024
LATER: dict[str, Any] = {"pretrained": "", "keep_layers": 0, "pool": "mean", "source": None}
"""Values of a tower that version 0.1 did not have, as they stand where they are not set."""


class Encoder:
    """Embeds texts and products in batches of fixed shape, over all local devices.

    Attributes:
      config: of the run that trained it.
      params: nested dicts of parameters: the run's averaged ones, without the heads that only training uses.
      tokenizer: the run's tokenizer.
      lexicon: the run's keywords, None when the model has none.
      fingerprint: hex SHA-256 over architecture, these parameters, tokenizer and keywords; two encoders with the same
        one agree.
      step: the training step, where it is known.
    """

    def __init__(
        self,
        config: Config,
        params: Any,
        tokenizer: PreTrainedTokenizerFast,
        step: int | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        self.config, self.tokenizer, self.step, self.lexicon = config, tokenizer, step, lexicon
        self._mesh = make_mesh(MeshConfig())
        # Pulled to the host first, so that a run's sharded arrays and an export's plain ones take the same way.
        host = jax.tree.map(np.asarray, served(params))
        with jax.set_mesh(self._mesh):
            self.params = jax.tree.map(lambda x: jax.device_put(x, jax.sharding.PartitionSpec()), host)
            words = token_rows(lexicon, tokenizer, config.model.keywords) if lexicon else ()
            graph = model_graph(config, words, SERVED_HEADS)
            self._product = product_program(config, words, SERVED_HEADS)
        self.fingerprint = fingerprint_of(config, host, tokenizer, lexicon)
        self._query_text = TextEncoder(tokenizer, config.model.query.max_tokens)
        self._title_text = TextEncoder(tokenizer, config.model.title.max_tokens)
        self._query = jax.jit(lambda params, b: nnx.merge(graph, params).encode_query(b["ids"], b["mask"]))
        self._tokens = jax.jit(
            lambda params, b: nnx.merge(graph, params).product_tokens(b["ids"], b["mask"], b["image"], b["present"])
        )

        def match(params: Any, products: ProductTokens, b: dict[str, jax.Array]) -> jax.Array:
            model = nnx.merge(graph, params)
            words, patches = take(products.words, b["product"]), take(products.patches, b["product"])
            score: jax.Array = model.heads["matching"](model.query_words(b["ids"], b["mask"]), words, patches)
            return score

        self._match = jax.jit(match)
        self._graph = graph
        self._programs: dict[Callable[..., Any], Any] = {}

    @classmethod
    def from_run(cls, run: Path, step: int | None = None) -> "Encoder":
        """Loads the averaged parameters of a run.

        Args:
          run: the run's folder.
          step: which checkpoint; the latest when None.

        Raises:
          MaxsearchError: no run, no such checkpoint, or one that cannot be read.
        """
        config = read_config(run)
        checkpoints = Checkpoints(run)
        try:
            step = checkpoints.require(step)
            mesh = make_mesh(MeshConfig())
            with jax.set_mesh(mesh):
                abstract = abstract_state(config, make_optimizer(config.optim)).ema
                params = checkpoints.restore_ema(step, abstract, mesh)
        finally:
            checkpoints.close()
        return cls(config, params, load_tokenizer(run / TOKENIZER), step, read_lexicon(run, config))

    @classmethod
    def from_model(cls, folder: Path) -> "Encoder":
        """Loads an exported model.

        Raises:
          MaxsearchError: a file is missing, altered, or of another version.
        """
        manifest = model_files.verify_model(folder)
        path = folder / model_files.CONFIG
        value = read_json(path, what="model config", remedy=model_files.MODEL.remedy)
        config, weights = Config.from_json(value, where=str(path)), model_files.read_weights(folder)
        if shapes(weights) != expected_shapes(config):
            raise MaxsearchError(
                f"the parameters of the model {folder} do not fit its config in this version of maxsearch: "
                "export it again with this version, from a run that it trained"
            )
        lexicon = Lexicon.load(folder / KEYWORDS, remedy=model_files.MODEL.remedy) if config.model.keywords else None
        encoder = cls(config, weights, load_tokenizer(folder / model_files.TOKENIZER), manifest.get("step"), lexicon)
        if encoder.fingerprint != manifest["fingerprint"]:
            raise MaxsearchError(
                f"the model {folder} computes as {encoder.fingerprint[:12]} and its manifest says "
                f"{manifest['fingerprint'][:12]}: export it again with this version of maxsearch"
            )
        return encoder

    def with_params(self, params: Any) -> "Encoder":
        """The same model with other parameters."""
        return Encoder(self.config, params, self.tokenizer, self.step, self.lexicon)

    @property
    def dim(self) -> int:
        """Size of the vectors."""
        return self.config.model.dim

    @property
    def image_edge(self) -> int:
        """Longest side, in pixels, that product images are fitted to before the model's own resize."""
        return self.config.data.image_edge

    def encode_queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Unit vectors of query texts."""
        parts = [self._queries(queries[i : i + QUERY_BATCH]) for i in range(0, len(queries), QUERY_BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[EncodedProducts]:
        """Embeds products batch by batch, in order.

        Args:
          products: any number of records; images as `read_products` gives them.
          batch_size: how many at once; rounded up to a multiple of the devices.
        """
        size = self._whole(batch_size)
        iterator = iter(products)
        while chunk := list(islice(iterator, size)):
            yield self._products(chunk, size)

    @property
    def matches(self) -> bool:
        """Whether the model has a matching head, as `match` needs."""
        return self.config.uses("matching")

    def match(
        self, queries: Sequence[str], products: Sequence[Product], pairs: Int[np.ndarray, "n 2"]
    ) -> Float32[np.ndarray, " n"]:
        """How well queries and products match, read together; more is better, and 0 is even odds.

        The products are encoded PRODUCT_BATCH at a time, each once, and only their token states of that many are kept.

        Args:
          queries: query texts.
          products: records; images as `read_products` gives them.
          pairs: (position of the query, position of the product) of each pair to score.

        Raises:
          UsageError: the model has no matching head.
        """
        if not self.matches:
            raise UsageError("this model has no matching head: train one with --loss.matching above 0")
        ids, mask = self._query_text(list(queries))
        scores = np.zeros(len(pairs), np.float32)
        for start in range(0, len(products), PRODUCT_BATCH):
            mine = np.flatnonzero((pairs[:, 1] >= start) & (pairs[:, 1] < start + PRODUCT_BATCH))
            if not len(mine):
                continue
            chunk = list(products[start : start + PRODUCT_BATCH])
            batch = self._product_batch(chunk, self._whole(power_of_two(len(chunk))))
            with jax.set_mesh(self._mesh):
                tokens = self._tokens(self.params, batch)
            for part in (mine[i : i + MATCH_BATCH] for i in range(0, len(mine), MATCH_BATCH)):
                query, product = pairs[part].T
                rows = {"ids": ids[query], "mask": mask[query], "product": (product - start).astype(np.int32)}
                size = self._whole(power_of_two(len(part)))
                with jax.set_mesh(self._mesh):
                    batch = put_batch({name: padded(x, size) for name, x in rows.items()}, self._mesh)
                    scores[part] = np.asarray(self._match(self.params, tokens, batch))[: len(part)]
        return scores

    @property
    def aligns(self) -> bool:
        """Whether the model has an aligner and keywords, as `patch_words` needs."""
        wanted = self.config.model.align.visual_words > 0 or self.config.uses(*LOSS_TERMS)
        return wanted and self.lexicon is not None

    def patch_words(
        self, products: Sequence[Product]
    ) -> tuple[Float32[np.ndarray, "n P K"], Float32[np.ndarray, "n P K"], Bool[np.ndarray, "n P"]]:
        """Cosines of each patch with each keyword, by the aligner and without it, and which patches are of a picture.

        Args:
          products: a batch of records; images as `read_products` gives them.

        Raises:
          UsageError: the model has no aligner or no keywords.
        """
        if not self.aligns:
            raise UsageError("this model has no aligner: train one, such as with the preset methods/aligncmss")
        aligned, raw = self._apply(patch_words, products)
        return aligned, raw, self._seen(products, aligned.shape[1])

    def additive_parts(self, products: Sequence[Product]) -> Float32[np.ndarray, "n M D"]:
        """What title, image, visual words (if the model has them) and all together add to p; they sum to p.

        Args:
          products: a batch of records; images as `read_products` gives them.
        """
        parts: Float32[np.ndarray, "n M D"] = self._apply(additive_parts, products)
        return parts

    def encode_painted(
        self, product: Product, pixels: UInt8[np.ndarray, "n H W 3"], batch_size: int = 64
    ) -> Float32[np.ndarray, "n D"]:
        """The fused vectors of one product with each of these pictures in the place of its front one.

        Args:
          product: with a picture.
          pixels: of the model's size.
          batch_size: how many at once.
        """
        own = inputs.pixels(product, self.config.model.images, self.config.model.image.size)
        vectors = []
        for start in range(0, len(pixels), batch_size):
            shown = np.repeat(own[None], len(pixels[start : start + batch_size]), axis=0)
            shown[:, 0] = pixels[start : start + batch_size]
            vectors.append(self._apply(product_vectors, [product] * len(shown), shown))
        return np.concatenate(vectors)

    def _whole(self, size: int) -> int:
        """The size in whole shares of the devices."""
        parts = spec_size(self._mesh, "batch")
        return -(-size // parts) * parts

    def _queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        ids, mask = self._query_text(list(queries))
        size = self._whole(power_of_two(len(queries)))
        with jax.set_mesh(self._mesh):
            vectors = self._query(
                self.params, put_batch({"ids": padded(ids, size), "mask": padded(mask, size)}, self._mesh)
            )
        return np.asarray(vectors)[: len(queries)]

    def _products(self, products: list[Product], size: int) -> EncodedProducts:
        batch = self._product_batch(products, size)
        with jax.set_mesh(self._mesh):
            vectors = self._product(self.params, batch)
        p, t, v, weights = (
            np.asarray(x)[: len(products)] for x in (vectors.product, vectors.title, vectors.image, vectors.weights)
        )
        return EncodedProducts(products, p, t, v, weights)

    def _apply(self, function: Callable[..., Any], products: Sequence[Product], image: np.ndarray | None = None) -> Any:
        """What a function of (model, batch) gives for products, with other pixels than theirs where these are given."""
        n = len(products)
        batch = self._product_batch(list(products), self._whole(power_of_two(n)), image)
        with jax.set_mesh(self._mesh):
            if function not in self._programs:
                self._programs[function] = jax.jit(lambda params, b: function(nnx.merge(self._graph, params), b))
            return jax.tree.map(lambda x: np.asarray(x, np.float32)[:n], self._programs[function](self.params, batch))

    def _seen(self, products: Sequence[Product], patches: int) -> Bool[np.ndarray, "n P"]:
        """Which of the patches are of a picture."""
        N = self.config.model.images
        present = np.array([np.arange(N) < len(product.images) for product in products])
        return np.repeat(present, patches // N, axis=1)

    def _product_batch(
        self, products: list[Product], size: int, image: np.ndarray | None = None
    ) -> dict[str, jax.Array]:
        model = self.config.model
        batch = product_arrays(
            products, self._title_text, texts=model.texts, images=model.images, size=model.image.size
        )
        if image is not None:
            batch["image"] = image
        with jax.set_mesh(self._mesh):
            return put_batch({name: padded(x, size) for name, x in batch.items()}, self._mesh)


def product_program(config: Config, words: Words = (), heads: Collection[str] = HEADS) -> Any:
    """What embeds a batch of products, jitted: (parameters, batch) -> ProductVectors. Made and called under a mesh.

    Args:
      config: of the model.
      words, heads: as for SearchModel.
    """
    graph = model_graph(config, words, heads)
    return jax.jit(
        lambda params, b: nnx.merge(graph, params).encode_product(b["ids"], b["mask"], b["image"], b["present"])
    )


def product_layout(config: Config, size: int) -> Layout:
    """Shape and dtype of every array of a batch of `size` products."""
    model = config.model
    text = (size, model.texts * model.title.max_tokens)
    return {
        "ids": (text, np.int32),
        "mask": (text, np.bool_),
        "image": ((size, model.images, *model.image.size, 3), np.uint8),
        "present": ((size, model.images), np.bool_),
    }


def shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its path."""
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)}


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that an exported model of the config has."""
    with jax.set_mesh(make_mesh(MeshConfig())):
        return shapes(served(jax.eval_shape(lambda: init_params(config, jax.random.key(0)))))


def architecture(config: Config) -> dict[str, Any]:
    """The model's config as its fingerprint reads it.

    Values that came after version 0.1 count where they are set, so that models of that version keep their fingerprint.
    """
    model: dict[str, Any] = config.to_json()["model"]
    for tower in ("query", "title", "image"):
        model[tower] = {name: value for name, value in model[tower].items() if LATER.get(name, ...) != value}
    return model


def fingerprint_of(
    config: Config, params: Any, tokenizer: PreTrainedTokenizerFast, lexicon: Lexicon | None = None
) -> str:
    """Hex SHA-256 over everything that decides the vectors."""
    digest = hashlib.sha256()
    digest.update(json.dumps([architecture(config), config.data.image_edge], sort_keys=True).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    if lexicon is not None:
        digest.update(json.dumps(lexicon.words).encode())
    for name, value in sorted(model_files.flatten_params(params).items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
