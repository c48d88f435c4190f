"""The engine over Milvus: a model, and the collection that an alias points to."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.engines.milvus.client import LostCollectionError, connect, milvus
from maxsearch.serving.engines.milvus.collections import served
from maxsearch.serving.engines.milvus.expressions import one_of
from maxsearch.serving.engines.milvus.options import MilvusOptions
from maxsearch.serving.engines.milvus.push import TOLERANCE, count_of
from maxsearch.serving.engines.milvus.records import records
from maxsearch.serving.engines.milvus.schema import PRODUCT_ID, READY, ROW, VECTOR, Facts
from maxsearch.serving.engines.milvus.searching import Asker, View
from maxsearch.serving.filters.columns import VARIANT
from maxsearch.serving.shop.answer import Answer, Field, NotFoundError, Wanted
from maxsearch.serving.shop.model_engine import ModelEngine
from maxsearch.serving.store.writes import require_upserts

T = TypeVar("T")


class MilvusEngine(ModelEngine):
    """See `shop.answer.Engine`.

    Writes go into the collection that is served and into no store: the next generation that is pushed has only those
    that its own catalogue has.

    Args:
      client: of `connect`.
      options: the alias and how it is asked.
      model: the model that embedded what the alias points to.
      max_batch: the largest batch of queries that `warm_up` compiles.

    Raises:
      MaxsearchError: the alias points to nothing of ours, or to a collection of another model.
      UnavailableError: Milvus cannot be reached.
    """

    def __init__(self, client: Any, options: MilvusOptions, model: EmbeddingModel, *, max_batch: int = 32) -> None:
        super().__init__(model, max_batch)
        self._client, self._options = client, options
        self._turning, self._writing = threading.Lock(), threading.Lock()
        self._view = self._open(self._name())

    @classmethod
    def open(cls, options: MilvusOptions, model: EmbeddingModel, *, max_batch: int = 32) -> "MilvusEngine":
        """Connects, and opens what the alias points to."""
        return cls(connect(options), options, model, max_batch=max_batch)

    @property
    def generation(self) -> str:
        """See `Engine`."""
        return self._view.facts.generation

    @property
    def products(self) -> int:
        """See `Engine`; counted when a collection is opened and after this engine's own writes."""
        return self._view.products

    @property
    def fields(self) -> Sequence[Field]:
        """See `Engine`; none is worth a facet, for facets are not counted here."""
        return [Field(name, kind.value, False) for name, kind in self._view.facts.kinds.items() if name != VARIANT]

    def vector_of(self, product_id: str) -> Float32[np.ndarray, " D"]:
        """See `Engine`."""
        found = self._surely(lambda: self._rows([product_id], VECTOR))
        if not found:
            raise NotFoundError
        return np.array(found[0][VECTOR], np.float32)

    def search(self, vector: Float32[np.ndarray, " D"], wanted: Wanted) -> Answer:
        """See `Engine`."""
        return self._surely(lambda: self._asker.answer(vector, wanted))

    def upsert(self, products: Sequence[Product]) -> int:
        """See `Engine`."""
        upserts = self._embedded(products)
        try:
            require_upserts(upserts, self.dim)
        except MaxsearchError as error:
            raise UsageError(str(error)) from None
        vectors = np.stack([one.vector for one in upserts]).astype(np.float32)

        def write() -> int:
            view = self._view
            first = time.time_ns() // 1000  # behind every row that was pushed, and in the order of writes
            rows = range(first, first + len(upserts))
            written = records([one.item for one in upserts], vectors, rows, view.facts)
            with milvus("take the products"):
                self._client.upsert(view.name, written, timeout=self._options.timeout)
            self._count(view)
            return len(upserts)

        return self._write(write)

    def delete(self, product_ids: Sequence[str]) -> int:
        """See `Engine`."""

        def write() -> int:
            view, there = self._view, self._rows(sorted(set(product_ids)), PRODUCT_ID)
            if there:
                gone = one_of(PRODUCT_ID, [row[PRODUCT_ID] for row in there])
                with milvus("delete the products"):
                    self._client.delete(view.name, filter=gone, timeout=self._options.timeout)
                self._count(view)
            return len(there)

        return self._write(write)

    def explain(self, text: str, product_id: str) -> dict[str, Any]:
        """Refuses: an explanation reads the product's pictures and texts, which Milvus does not hold."""
        raise UsageError(
            "explain: the Milvus engine holds no pictures to explain by: ask a service that serves a store"
        )

    def picture(self, product_id: str) -> bytes | None:
        """None: Milvus holds no pictures."""
        return None

    def refresh(self) -> bool:
        """See `Engine`: turns to the collection that the alias points to now."""
        with self._turning:
            name = self._name()
            if name == self._view.name:
                return False
            self._view = self._open(name)
            return True

    def warm_up(self) -> None:
        """See `Engine`."""
        self._warm_model()
        self._surely(self._test)

    def _test(self) -> None:
        with milvus("read a product"):
            found = self._client.query(
                self._view.name,
                filter=f"{ROW} >= 0",
                output_fields=[VECTOR],
                limit=1,
                consistency_level=self._options.consistency,
                timeout=self._options.timeout,
            )
        if not found:
            return
        vector = np.array(found[0][VECTOR], np.float32)
        hits = self.search(vector, Wanted(k=1)).hits
        if not hits or hits[0].score < float(vector @ vector) * (1 - TOLERANCE):
            raise MaxsearchError(f"{self._view.name} does not find a product by its own vector: push it again")

    def _surely(self, ask: Callable[[], T]) -> T:
        """Asks, and once more of what the alias points to when the collection is gone or not in memory."""
        try:
            return ask()
        except LostCollectionError:
            with self._turning:
                self._view = self._open(self._name())
            return ask()

    def _write(self, write: Callable[[], T]) -> T:
        """Writes to what the alias points to, one write at a time."""
        with self._writing:
            self.refresh()
            return self._surely(write)

    @property
    def _asker(self) -> Asker:
        return Asker(self._client, self._view, self._options.consistency, self._options.timeout)

    def _name(self) -> str:
        alias = self._options.alias
        name = served(self._client, alias, self._options.timeout)
        if name is None:
            raise MaxsearchError(
                f"Milvus at {self._options.uri} has no alias {alias}: push a generation with `maxsearch index push`"
            )
        return name

    def _open(self, name: str) -> View:
        timeout = self._options.timeout
        with milvus(f"describe {name}"):
            facts = Facts.of(self._client.describe_collection(name, timeout=timeout).get("properties") or {})
        if facts is None or facts.state != READY:
            raise MaxsearchError(
                f"the alias {self._options.alias} points to {name}, which `maxsearch index push` did not finish: "
                "push the generation again"
            )
        if facts.model != self.fingerprint:
            raise MaxsearchError(
                f"the generation {facts.generation} in Milvus was embedded by model {facts.model[:12]} and this model "
                f"is {self.fingerprint[:12]}: give the model that it was built with, or push a generation of this one"
            )
        with milvus(f"load {name}"):
            self._client.load_collection(name)
            count = count_of(self._client, name, consistency=self._options.consistency, timeout=timeout)
        return View(name, facts, count)

    def _rows(self, product_ids: Sequence[str], field: str) -> list[dict[str, Any]]:
        with milvus("look products up"):
            return list(
                self._client.query(
                    self._view.name,
                    filter=one_of(PRODUCT_ID, list(product_ids)),
                    output_fields=[field],
                    consistency_level=self._options.consistency,
                    timeout=self._options.timeout,
                )
            )

    def _count(self, view: View) -> None:
        with milvus("count its products"):
            count = count_of(
                self._client, view.name, consistency=self._options.consistency, timeout=self._options.timeout
            )
        with self._turning:
            if self._view.name == view.name:
                self._view = replace(self._view, products=count)
