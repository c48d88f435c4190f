"""A model of a few lines with the encoder's interface: bags of hashed words, and the mean of the image's bytes."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from maxsearch.data.records import Product
from maxsearch.files import read_json
from maxsearch.model_files import CONFIG, TOKENIZER, flatten_params, read_weights, verify_model


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class FakeConfig:
    rows: int
    dim: int

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "dim": self.dim}


@dataclass(frozen=True)
class FakeBatch:
    products: list[Product]
    p: np.ndarray
    t: np.ndarray
    v: np.ndarray
    weights: np.ndarray


class FakeEncoder:
    lexicon = None

    def __init__(self, params: dict[str, Any], config: FakeConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.params = params
        self.config = config
        self.tokenizer = tokenizer

    @classmethod
    def make(cls, seed: int = 0, rows: int = 4096, dim: int = 24) -> "FakeEncoder":
        rng = np.random.default_rng(seed)
        table = rng.normal(size=(dim, rows)).astype(np.float32).T  # not contiguous, as a transposed kernel may be
        bias = rng.normal(size=dim).astype(np.float32)
        params = {"words": {"table": table}, "image": {"bias": bias, "scale": np.float32(0.1)}}
        words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "shoes": 2}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        return cls(params, FakeConfig(rows, dim), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]"))

    @classmethod
    def from_model(cls, folder: Path) -> "FakeEncoder":
        verify_model(folder)
        config = FakeConfig(**read_json(folder / CONFIG, what="config", remedy=""))
        return cls(read_weights(folder), config, PreTrainedTokenizerFast.from_pretrained(folder / TOKENIZER))

    def with_params(self, params: dict[str, Any]) -> "FakeEncoder":
        return FakeEncoder(params, self.config, self.tokenizer)

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(flatten_params(self.params).items()):
            digest.update(name.encode() + value.tobytes())
        return digest.hexdigest()

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        return np.stack([self._text(query) for query in queries])

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[FakeBatch]:
        products = iter(products)
        while batch := list(islice(products, batch_size)):
            t = np.stack([self._text(product.title) for product in batch])
            v = np.stack([self._image(product.image) for product in batch])
            weights = np.array(
                [[bool(product.title), product.image is not None] for product in batch], dtype=np.float32
            )
            yield FakeBatch(batch, unit(t * weights[:, :1] + 0.01 * v * weights[:, 1:]), t, v, weights)

    def _text(self, text: str) -> np.ndarray:
        rows = [zlib.crc32(word.encode()) % self.config.rows for word in text.lower().split()] or [0]
        return unit(self.params["words"]["table"][rows].sum(axis=0))

    def _image(self, image: bytes | None) -> np.ndarray:
        mean = np.float32(sum(image or b"\0") % 97)
        return unit(self.params["image"]["bias"] + mean * self.params["image"]["scale"])


CATALOGUE = [
    Product("p1", "red leather shoes", (b"one",), attributes={"colour": "red", "brand": "Acme"}),
    Product("p2", "blue cotton shirt", variant="shirts"),
    Product("p3", "", (b"three",)),
    Product("p4", "navy blue casual shoes", (b"four",), attributes={"colour": "navy"}),
    Product("p5", "Gürtel aus Leder", (b"five",), attributes={"größe": "90 cm"}),
]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
