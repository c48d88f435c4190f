"""What explaining needs of a model; `maxsearch.encode.Encoder` provides it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from maxsearch.config import Config
from maxsearch.data.keywords import Lexicon
from maxsearch.data.records import Product
from maxsearch.serving.encoder import EncodedBatch


@runtime_checkable
class PatchEncoder(Protocol):
    """A model that compares the patches of pictures with words."""

    config: Config
    lexicon: Lexicon | None
    fingerprint: str

    def patch_words(
        self, products: Sequence[Product]
    ) -> tuple[Float32[np.ndarray, "n P K"], Float32[np.ndarray, "n P K"], Bool[np.ndarray, "n P"]]:
        """The aligner's cosines, the raw ones, and which patches are of a picture."""
        ...


@runtime_checkable
class ExplainedModel(PatchEncoder, Protocol):
    """A model whose scores can be taken apart."""

    @property
    def aligns(self) -> bool:
        """Whether it has an aligner and keywords, as `patch_words` needs."""
        ...

    def encode_queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Unit vectors of query texts."""
        ...

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[EncodedBatch]:
        """Batches of products with their vectors, in order."""
        ...

    def encode_painted(self, product: Product, pixels: UInt8[np.ndarray, "n H W 3"]) -> Float32[np.ndarray, "n D"]:
        """The product's vectors with each of these pictures in the place of its front one."""
        ...

    def additive_parts(self, products: Sequence[Product]) -> Float32[np.ndarray, "n M D"]:
        """What title, image, visual words (if the model has them) and all together add to the product vectors."""
        ...
