"""What answers searches, whatever asks: the HTTP service, a benchmark, a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError


@dataclass(frozen=True)
class QueryInput:
    """What is turned into a query's vector: the weighted sum of the unit vectors of its text and its picture.

    Attributes:
      text: what the shopper typed; empty when only the picture counts.
      image: a verified picture; None when only the text counts.
      text_weight, image_weight: of the sum; not both 0.
    """

    text: str = ""
    image: bytes | None = None
    text_weight: float = 1.0
    image_weight: float = 1.0


@dataclass(frozen=True)
class Hybrid:
    """How the ranking by vectors and the one by words are put together: `rrf` or `weights`."""

    method: str = "rrf"
    dense: float = 1.0
    lexical: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """What a search asks for beside its vector.

    Attributes:
      k: results on this page.
      text: the query's words, for the legs that read them; empty when there are none.
      cursor: of the page before; None for the first.
      filter: a filter tree as JSON values; None lets everything pass.
      facets: attributes whose values are counted, as `parse_facets` reads them.
      collapse: whether only the best product of each group of variants is shown.
      boosts: what raises and lowers products, as `parse_boosts` reads it.
      pins: rank from 1 by product id.
      without: product ids that must not be found, such as the one that "more like this" starts from.
      hybrid: None ranks by vectors alone.
      refine: whether the vector is refined by what the words find.
      rerank: first ranks that the matching head re-orders; 0 does without.
    """

    k: int
    text: str = ""
    cursor: str | None = None
    filter: Mapping[str, Any] | None = None
    facets: Sequence[Any] = ()
    collapse: bool = False
    boosts: Sequence[Any] = ()
    pins: Mapping[str, int] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    hybrid: Hybrid | None = None
    refine: bool = False
    rerank: int = 0


@dataclass(frozen=True)
class Found:
    """A result: see http.schema.Hit for the fields."""

    rank: int
    product_id: str
    title: str
    score: float
    legs: dict[str, float]
    attributes: dict[str, str]
    variant: str = ""
    variants: int = 0
    picture: bool = False


@dataclass(frozen=True)
class Answer:
    """The results of one search, all of one generation and one state of the changes to it.

    Attributes:
      hits: best first.
      generation: which one was searched.
      exact: whether every product that passes the filter was scored.
      scanned: how many products were scored.
      total: products that pass the filter, where they were counted.
      facets: per attribute, {"value", "count"} of its values, the most frequent first.
      cursor: of the next page; None when there is none.
    """

    hits: list[Found]
    generation: str
    exact: bool
    scanned: int
    total: int | None = None
    facets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cursor: str | None = None


@dataclass(frozen=True)
class Field:
    """An attribute that filters and facets may name.

    Attributes:
      name: of the attribute.
      kind: its type, such as "string", "float", "bool", "path" or "date".
      facet: whether few enough values are common to be worth counting for a shopper.
    """

    name: str
    kind: str
    facet: bool


class NotFoundError(Exception):
    """No such product."""


class UnavailableError(MaxsearchError):
    """What the engine searches, or a part of it, cannot be reached now; the same request may succeed soon."""


@runtime_checkable
class Engine(Protocol):
    """Answers searches and takes changes; every method may be called from several threads.

    A request that cannot be answered as asked raises UsageError with one sentence. Any method of an engine that asks
    other processes raises UnavailableError while one of them is down; it never answers without it.
    """

    @property
    def generation(self) -> str:
        """Name of the generation that is served now."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the model."""
        ...

    @property
    def dim(self) -> int:
        """Size of the vectors."""
        ...

    @property
    def products(self) -> int:
        """How many products can be found."""
        ...

    @property
    def fields(self) -> Sequence[Field]:
        """What filters and facets may name, the most useful for a shopper first."""
        ...

    def encode(self, inputs: Sequence[QueryInput]) -> Float32[np.ndarray, "n D"]:
        """Unit vectors of queries."""
        ...

    def vector_of(self, product_id: str) -> Float32[np.ndarray, " D"]:
        """A product's own vector, for "more like this".

        Raises:
          NotFoundError: no such product.
        """
        ...

    def search(self, vector: Float32[np.ndarray, " D"], wanted: Wanted) -> Answer:
        """The products whose vectors fit best, and whatever else is wanted.

        Raises:
          UsageError: a filter, facet, boost or cursor cannot be used.
          GoneCursorError: the cursor is of a generation that is not served any more.
        """
        ...

    def upsert(self, products: Sequence[Product]) -> int:
        """Adds products or replaces those of the same id; on disk when it returns. How many there were."""
        ...

    def delete(self, product_ids: Sequence[str]) -> int:
        """Takes products out; on disk when it returns. How many of them were there."""
        ...

    def explain(self, text: str, product_id: str) -> dict[str, Any]:
        """Why a product fits a query, as JSON values.

        Raises:
          NotFoundError: no such product.
        """
        ...

    def picture(self, product_id: str) -> bytes | None:
        """A product's front picture; None when it has none or none is kept.

        Raises:
          NotFoundError: no such product.
        """
        ...

    def refresh(self) -> bool:
        """Turns to a generation that was published since; whether there was one."""
        ...

    def warm_up(self) -> None:
        """Compiles and loads what answers need, and tests itself.

        Raises:
          MaxsearchError: the model's vectors or the index's answers are wrong.
        """
        ...
