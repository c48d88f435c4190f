"""What every engine does with its model, whatever it searches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.shop.answer import QueryInput
from maxsearch.serving.shop.queries import WARM_QUERIES, encode, warm_encoder
from maxsearch.serving.store.writes import Upsert, upserts_of

UPSERT_BATCH = 8
"""Products that are embedded at a time, so that queries get their turn in between."""


class ModelEngine:
    """The part of `answer.Engine` that asks only the model.

    Args:
      model: that of everything that is searched.
      max_batch: the largest batch of queries that warming up compiles.
    """

    def __init__(self, model: EmbeddingModel, max_batch: int) -> None:
        self._model, self._max_batch = model, max_batch

    @property
    def fingerprint(self) -> str:
        """See `Engine`."""
        return self._model.fingerprint

    @property
    def dim(self) -> int:
        """See `Engine`."""
        return self._model.dim

    def encode(self, inputs: Sequence[QueryInput]) -> Float32[np.ndarray, "n D"]:
        """See `Engine`."""
        return encode(self._model, inputs)

    def _embedded(self, products: Sequence[Product]) -> list[Upsert]:
        batches = self._model.encode_products(products, UPSERT_BATCH)
        return [one for batch in batches for one in upserts_of(batch)]

    def _warm_model(self) -> None:
        warm_encoder(self._model, self._max_batch)
        self._embedded([Product("", WARM_QUERIES[0], ())])
