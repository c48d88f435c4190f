"""One state of a store, ready to be searched: a segment for the generation and one for the writes since."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.serving.filters.column_types import Coded
from maxsearch.serving.filters.columns import VARIANT, Columns
from maxsearch.serving.filters.costs import Costs, measure
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.vector_table import ArrayVectors
from maxsearch.serving.hybrid.lexical import BuiltLexical, LateLexical, LexicalLeg
from maxsearch.serving.hybrid.words import document
from maxsearch.serving.index import LoadedIndex
from maxsearch.serving.nearest import ExactNearest
from maxsearch.serving.shop.answer import Field
from maxsearch.serving.store.snapshot import Snapshot

FACET_VALUES = range(2, 201)
"""An attribute with fewer values says nothing, and one with more is no choice for a shopper."""
PROBES = 20  # queries that an index is measured with


@dataclass(frozen=True)
class Generation:
    """What is made once of an index, whatever is written since.

    Attributes:
      name: the generation's.
      index: the index.
      costs: what the ways to search it cost here.
      fields: what filters and facets may name.
    """

    name: str
    index: LoadedIndex
    costs: Costs
    fields: tuple[Field, ...]

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Generation":
        """Measures the index of a snapshot; takes some hundred milliseconds."""
        index = snapshot.index
        index.columns.prepare()
        costs = measure(ArrayVectors(index.vectors), index.nearest, index.probes()[:PROBES])
        return cls(snapshot.generation, index, costs, fields_of(index.columns))


@dataclass(frozen=True)
class View:
    """What one search sees; it never changes.

    Attributes:
      snapshot: the state.
      generation: what was made of its index.
      segments: the generation's products, and those written since.
    """

    snapshot: Snapshot
    generation: Generation
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, snapshot: Snapshot, generation: Generation) -> "View":
        """Makes a state searchable."""
        index, delta = snapshot.index, snapshot.delta
        base = Segment(
            generation.name,
            index.columns,
            ArrayVectors(index.vectors),
            index.nearest,
            exact=index.manifest["index"]["kind"] == "exact",
            alive=~delta.dead if delta.dead_count else None,
            costs=generation.costs,
        )
        if not len(delta.vectors):
            return cls(snapshot, generation, (base,))
        items = [delta.item(row) for row in range(len(delta.vectors))]
        columns = Columns.of_attributes(
            [item.attributes for item in items], [item.variant for item in items], index.columns.kinds
        )
        late = Segment(
            f"{generation.name}+{delta.sequence}",
            columns,
            ArrayVectors(delta.vectors),
            ExactNearest(delta.vectors),
            exact=True,
            alive=delta.live,
        )
        return cls(snapshot, generation, (base, late))

    @cached_property
    def legs(self) -> tuple[LexicalLeg, ...]:
        """The words of each segment, read when a search first asks for them; empty where the index keeps none."""
        built, delta = self.snapshot.index.lexical, self.snapshot.delta
        if built is None or len(self.segments) == 1:
            return () if built is None else (built,)
        items = (delta.item(row) for row in range(len(delta.vectors)))
        return built, LateLexical(built, [document(item.title, item.texts, {}, ()) for item in items])

    @property
    def kinds(self) -> dict[str, Kind]:
        """Type per attribute that filters may name."""
        return self.segments[0].columns.kinds

    def words(self, query: str) -> list[str]:
        """The words of a query as the index reads them."""
        assert isinstance(self.legs[0], BuiltLexical)
        [words] = self.legs[0].settings.words.of([query])
        return words

    def products(self, rows: Sequence[int]) -> list[Product]:
        """The products at these rows, as they were embedded."""
        return [
            Product(item.product_id, item.title, self.snapshot.images(row), item.variant, item.attributes, item.texts)
            for row, item in zip(rows, self.snapshot.take(rows), strict=True)
        ]

    def vector(self, row: int) -> Float32[np.ndarray, " D"]:
        """The vector at a row."""
        return self.snapshot.vectors(np.array([row]))[0]


def fields_of(columns: Columns) -> tuple[Field, ...]:
    """The attributes, those first that a shopper would choose by: few values, and known of many products."""
    found = []
    for name, kind in columns.kinds.items():
        if name == VARIANT:
            continue
        column = columns[name]
        known = float(column.known().mean()) if len(columns) else 0.0
        values = len(column.values) if isinstance(column, Coded) else 0
        chosen = kind in (Kind.TEXT, Kind.PATH) and values in FACET_VALUES
        found.append((not chosen, -known, values, name, Field(name, kind.value, chosen)))
    return tuple(field for *_, field in sorted(found, key=lambda one: one[:4]))
