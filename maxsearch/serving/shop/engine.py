"""The engine: a model and a store, answering searches from one view at a time."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.explain.explain import explain
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.shop.answer import Answer, Field, NotFoundError, Wanted
from maxsearch.serving.shop.model_engine import ModelEngine
from maxsearch.serving.shop.queries import WARM_QUERIES
from maxsearch.serving.shop.searching import answer
from maxsearch.serving.shop.view import Generation, View
from maxsearch.serving.store.store import Store

TOLERANCE = 1e-3


class StoreEngine(ModelEngine):
    """See `answer.Engine`.

    Args:
      store: the opened store.
      model: the model that its generation was built with.
      max_batch: the largest batch of queries that `warm_up` compiles.

    Raises:
      MaxsearchError: the generation was built with another model.
    """

    def __init__(self, store: Store, model: EmbeddingModel, *, max_batch: int = 32) -> None:
        super().__init__(model, max_batch)
        self._store = store
        self._cache = MaskCache()
        self._turning = threading.Lock()
        snapshot = store.snapshot()
        snapshot.index.require_model(model.fingerprint)
        self._view = View.of(snapshot, Generation.of(snapshot))

    @classmethod
    def open(cls, store: Path, model: EmbeddingModel, *, max_batch: int = 32) -> "StoreEngine":
        """Opens a store.

        Raises:
          MaxsearchError: no store, one that was damaged, or one of another model.
        """
        return cls(Store.open(store), model, max_batch=max_batch)

    @property
    def generation(self) -> str:
        """See `Engine`."""
        return self._view.generation.name

    @property
    def products(self) -> int:
        """See `Engine`."""
        return len(self._view.snapshot)

    @property
    def fields(self) -> Sequence[Field]:
        """See `Engine`."""
        return self._view.generation.fields

    def vector_of(self, product_id: str) -> Float32[np.ndarray, " D"]:
        """See `Engine`."""
        view = self._view
        return view.vector(row_of(view, product_id))

    def search(self, vector: Float32[np.ndarray, " D"], wanted: Wanted) -> Answer:
        """See `Engine`."""
        return answer(self._view, vector, wanted, self._cache, self._model)

    def upsert(self, products: Sequence[Product]) -> int:
        """See `Engine`."""
        upserts = self._embedded(products)
        try:
            self._store.upsert(upserts, self._model.fingerprint)
        except MaxsearchError as error:
            raise UsageError(str(error)) from None
        self._turn()
        return len(upserts)

    def delete(self, product_ids: Sequence[str]) -> int:
        """See `Engine`."""
        snapshot = self._view.snapshot
        count = sum(snapshot.row(product_id) is not None for product_id in set(product_ids))
        self._store.delete(product_ids)
        self._turn()
        return count

    def explain(self, text: str, product_id: str) -> dict[str, Any]:
        """See `Engine`."""
        view = self._view
        [product] = view.products([row_of(view, product_id)])
        return explained(self._model, text, product)

    def picture(self, product_id: str) -> bytes | None:
        """See `Engine`."""
        view = self._view
        return next(iter(view.snapshot.images(row_of(view, product_id))), None)

    def refresh(self) -> bool:
        """See `Engine`."""
        before = self.generation
        self._store.refresh()
        self._turn()
        return self.generation != before

    def warm_up(self) -> None:
        """See `Engine`."""
        self._warm_model()
        view = self._view
        row = next(
            (
                row
                for row in range(len(view.segments[0]))
                if view.segments[0].alive is None or view.segments[0].alive[row]
            ),
            None,
        )
        if row is None:
            return
        vector = view.vector(row)
        length = float(np.linalg.norm(vector))
        found = self.search(vector, Wanted(k=10, text=WARM_QUERIES[0]))
        if not found.hits or found.hits[0].score < length**2 * (1 - TOLERANCE):
            raise MaxsearchError(
                f"the generation {view.generation.name} does not find a product by its own vector: build it again"
            )

    def _turn(self) -> None:
        """Makes the store's latest state searchable, and then turns to it as a whole."""
        with self._turning:
            snapshot, view = self._store.snapshot(), self._view
            if snapshot is view.snapshot:
                return
            if snapshot.index is not view.snapshot.index:
                snapshot.index.require_model(self._model.fingerprint)
                self._view = View.of(snapshot, Generation.of(snapshot))
            else:
                self._view = View.of(snapshot, view.generation)


def explained(model: EmbeddingModel, text: str, product: Product) -> dict[str, Any]:
    """Why a product fits a query.

    Raises:
      UsageError: the model cannot explain.
    """
    from maxsearch.explain.model import ExplainedModel

    if not isinstance(model, ExplainedModel):
        raise UsageError("this service runs the exported program alone, which cannot explain: serve with --explain")
    return explain(model, text, product).to_json()


def row_of(view: View, product_id: str) -> int:
    """The row of a product.

    Raises:
      NotFoundError: there is none of that id.
    """
    row = view.snapshot.row(product_id)
    if row is None:
        raise NotFoundError
    return row
