"""A trained model that embeds queries and products; evaluation, export, indexing and search all go through it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8
from transformers import PreTrainedTokenizerFast

from maxsearch import model_files
from maxsearch.config import Config, MeshConfig
from maxsearch.data.records import Product
from maxsearch.data.tokenize import TextEncoder, load_tokenizer
from maxsearch.data.transforms import eval_image
from maxsearch.errors import MaxsearchError
from maxsearch.files import read_json
from maxsearch.mesh import make_mesh, put_batch, spec_size
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.optim import make_optimizer, path_name
from maxsearch.training.run_folder import TOKENIZER, read_config
from maxsearch.training.state import abstract_state, init_params, model_graph

QUERY_BATCH = 256


@dataclass(frozen=True)
class EncodedProducts:
    """A batch of products with their unit vectors, in the order they came.

    Attributes:
      products: the records.
      p, t, v: fused, title-only and image-only vectors; t and v are of the null token where the modality is missing.
      weights: how much title and image weigh in p; rows sum to 1.
    """

    products: list[Product]
    p: Float32[np.ndarray, "n D"]
    t: Float32[np.ndarray, "n D"]
    v: Float32[np.ndarray, "n D"]
    weights: Float32[np.ndarray, "n 2"]


class Encoder:
    """Embeds texts and products in batches of fixed shape, over all local devices.

    Attributes:
      config: of the run that trained it.
      params: nested dicts of parameters: the run's averaged ones.
      tokenizer: the run's tokenizer.
      fingerprint: hex SHA-256 over architecture, parameters and tokenizer; two encoders with the same one agree.
      step: the training step, where it is known.
    """

    def __init__(
        self, config: Config, params: Any, tokenizer: PreTrainedTokenizerFast, step: int | None = None
    ) -> None:
        self.config, self.tokenizer, self.step = config, tokenizer, step
        self._mesh = make_mesh(MeshConfig())
        # Pulled to the host first, so that a run's sharded arrays and an export's plain ones take the same way.
        host = jax.tree.map(np.asarray, params)
        with jax.set_mesh(self._mesh):
            self.params = jax.tree.map(lambda x: jax.device_put(x, jax.sharding.PartitionSpec()), host)
            graph = model_graph(config)
        self.fingerprint = fingerprint_of(config, host, tokenizer)
        self._query_text = TextEncoder(tokenizer, config.model.query.max_tokens)
        self._title_text = TextEncoder(tokenizer, config.model.title.max_tokens)
        self._query = jax.jit(lambda params, b: nnx.merge(graph, params).encode_query(b["ids"], b["mask"]))
        self._product = jax.jit(
            lambda params, b: nnx.merge(graph, params).encode_product(b["ids"], b["mask"], b["image"], b["present"])
        )

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
        return cls(config, params, load_tokenizer(run / TOKENIZER), step)

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
        encoder = cls(config, weights, load_tokenizer(folder / model_files.TOKENIZER), manifest.get("step"))
        if encoder.fingerprint != manifest["fingerprint"]:
            raise MaxsearchError(
                f"the model {folder} computes as {encoder.fingerprint[:12]} and its manifest says "
                f"{manifest['fingerprint'][:12]}: export it again with this version of maxsearch"
            )
        return encoder

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
        parts = spec_size(self._mesh, "batch")
        size = -(-batch_size // parts) * parts
        iterator = iter(products)
        while chunk := list(islice(iterator, size)):
            yield self._products(chunk, size)

    def _queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        ids, mask = self._query_text(list(queries))
        # Powers of two, so that few shapes compile, in whole shares of the devices.
        parts = spec_size(self._mesh, "batch")
        size = -(-(1 << (len(queries) - 1).bit_length()) // parts) * parts
        with jax.set_mesh(self._mesh):
            vectors = self._query(
                self.params, put_batch({"ids": padded(ids, size), "mask": padded(mask, size)}, self._mesh)
            )
        return np.asarray(vectors)[: len(queries)]

    def _products(self, products: list[Product], size: int) -> EncodedProducts:
        ids, mask = self._title_text([product.title for product in products])
        image = np.stack([self._pixels(product) for product in products])
        present = np.array([product.image is not None for product in products])
        batch = {"ids": ids, "mask": mask, "image": image, "present": present}
        with jax.set_mesh(self._mesh):
            vectors = self._product(self.params, put_batch({k: padded(x, size) for k, x in batch.items()}, self._mesh))
        p, t, v, weights = (
            np.asarray(x)[: len(products)] for x in (vectors.product, vectors.title, vectors.image, vectors.weights)
        )
        return EncodedProducts(products, p, t, v, weights)

    def _pixels(self, product: Product) -> UInt8[np.ndarray, "H W 3"]:
        return eval_image(product.image, self.config.model.image.size)


def padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last row up to `size` rows: a fixed shape compiles once."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)]) if len(rows) < size else rows


def shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its path."""
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)}


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that the config's model has."""
    with jax.set_mesh(make_mesh(MeshConfig())):
        return shapes(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))


def fingerprint_of(config: Config, params: Any, tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex SHA-256 over everything that decides the vectors."""
    digest = hashlib.sha256()
    digest.update(json.dumps([config.to_json()["model"], config.data.image_edge], sort_keys=True).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name, value in sorted(model_files.flatten_params(params).items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
