"""What serving needs of a model; `maxsearch.encode.Encoder` provides it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from maxsearch.data.keywords import Lexicon
from maxsearch.data.records import Product


@runtime_checkable
class EncodedBatch(Protocol):
    """Products with their vectors: fused p, title t, image v [n, D] and modality weights [n, 2]."""

    @property
    def products(self) -> list[Product]: ...  # noqa: D102
    @property
    def p(self) -> Float32[np.ndarray, "n D"]: ...  # noqa: D102
    @property
    def t(self) -> Float32[np.ndarray, "n D"]: ...  # noqa: D102
    @property
    def v(self) -> Float32[np.ndarray, "n D"]: ...  # noqa: D102
    @property
    def weights(self) -> Float32[np.ndarray, "n 2"]: ...  # noqa: D102


@runtime_checkable
class EmbeddingModel(Protocol):
    """Turns queries and products into L2-normalised vectors of one space.

    `fingerprint` changes whenever the vectors do.
    """

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102

    def encode_queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "Q D"]: ...  # noqa: D102
    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[EncodedBatch]: ...  # noqa: D102


@runtime_checkable
class JsonConfig(Protocol):
    """A config that can be written as JSON."""

    def to_json(self) -> dict[str, Any]: ...  # noqa: D102


@runtime_checkable
class Tokenizer(Protocol):
    """A `transformers` fast tokenizer."""

    def save_pretrained(self, save_directory: Path) -> Any: ...  # noqa: D102


@runtime_checkable
class ExportableModel(EmbeddingModel, Protocol):
    """A model with the parts that an export writes; `params` is a nested dict of arrays with string keys."""

    @property
    def params(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def config(self) -> JsonConfig: ...  # noqa: D102
    @property
    def tokenizer(self) -> Tokenizer: ...  # noqa: D102
    @property
    def lexicon(self) -> Lexicon | None: ...  # noqa: D102

    def with_params(self, params: Mapping[str, Any]) -> "ExportableModel": ...  # noqa: D102
