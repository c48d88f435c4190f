"""How many products there are per value, for the chips of a search page.

The counts of a facet leave out the filter's own condition on its field (see `without_field`): a shopper who chose
"blue" still sees how many red ones there are. They are over all products that the rest of the filter keeps, not only
over those of one page. A product with several values counts for each.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from maxsearch.errors import UsageError
from maxsearch.serving.filters.column_types import Coded, Column, Lists, Mask, Numbers
from maxsearch.serving.filters.kinds import EPOCH, MICROSECOND, Kind, path_of, path_text, read_value
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.parse import known_field
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.tree import Node, Stored, without_field

MOST, MOST_VALUES, MOST_EDGES = 20, 1000, 100


@dataclass(frozen=True)
class Facet:
    """What to count.

    Attributes:
      field: the attribute.
      limit: values to return, those with the highest counts.
      under: for a category path: the path whose children are counted; empty for the topmost categories.
      edges: for numbers and dates, ascending: values are counted in [edges[0], edges[1]) and so on; empty counts each
        value by itself, which `parse_facets` lets whole numbers and dates only.
    """

    field: str
    limit: int = 20
    under: tuple[str, ...] = ()
    edges: tuple[int | float, ...] = ()


@dataclass(frozen=True)
class FacetCounts:
    """The counts of one facet.

    Attributes:
      field: the attribute.
      counts: (value, count), the highest count first, equal ones by value; with edges, in their order, each value a
        pair of edges. Dates and times are in ISO 8601.
      missing: products without a value.
      others: how many more values there are than were returned.
    """

    field: str
    counts: tuple[tuple[Any, int], ...]
    missing: int
    others: int


def parse_facets(value: Any, kinds: Mapping[str, Kind], *, where: str = "facets") -> tuple[Facet, ...]:
    """Reads a list of field names and {"field", "limit", "under", "edges"}; null means none.

    Raises:
      UsageError: it is malformed; the message begins with the place.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST:
        raise UsageError(f"{where}: expected a list of at most {MOST} facets")
    return tuple(_facet({"field": x} if isinstance(x, str) else x, kinds, f"{where}[{i}]") for i, x in enumerate(value))


def _facet(value: Any, kinds: Mapping[str, Kind], where: str) -> Facet:
    if not isinstance(value, dict) or "field" not in value or set(value) - {"field", "limit", "under", "edges"}:
        raise UsageError(f"{where}: expected the name of an attribute, or an object with field, limit, under and edges")
    field, kind = known_field(value["field"], kinds, f"{where}.field")
    limit, under, edges = value.get("limit", Facet.limit), value.get("under", ""), value.get("edges", [])
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_VALUES:
        raise UsageError(f"{where}.limit: expected a whole number from 1 to {MOST_VALUES}")
    if not isinstance(under, str) or (under and kind is not Kind.PATH):
        raise UsageError(f"{where}.under: expected a path, of an attribute of type path")
    if not isinstance(edges, list) or len(edges) > MOST_EDGES or (edges and not (kind.ordered and len(edges) > 1)):
        raise UsageError(f"{where}.edges: expected a list of 2 to {MOST_EDGES} values of a number or date")
    if not edges and kind in (Kind.FLOAT, Kind.TIME):
        raise UsageError(f"{where}: {field} is of type {kind}, whose values rarely repeat: give edges to count between")
    ends: list[int | float] = []
    for i, edge in enumerate(edges):
        try:
            end = read_value(edge, kind)
        except ValueError as error:
            raise UsageError(f"{where}.edges[{i}]: expected {error}") from None
        assert not isinstance(end, str)
        ends.append(end)
    if ends != sorted(set(ends)):
        raise UsageError(f"{where}.edges: expected ascending values")
    return Facet(field, limit, path_of(under), tuple(ends))


def count_facets(
    facets: Sequence[Facet], segments: Sequence[Segment], keep: Node | None, cache: MaskCache
) -> list[FacetCounts]:
    """Counts products per value.

    Args:
      facets: what to count.
      segments: what is searched.
      keep: the filter of the search.
      cache: where masks are remembered.
    """
    kinds = segments[0].columns.kinds
    return [
        counts_of(facet, kinds[facet.field], [tally(facet, segments, without_field(keep, facet.field), cache)])
        for facet in facets
    ]


@dataclass(frozen=True)
class Tally:
    """How many products have each value of a facet, as stored; of parts of a catalogue they add up."""

    totals: Counter[Any]
    missing: int


def tally(facet: Facet, segments: Sequence[Segment], keep: Node | None, cache: MaskCache) -> Tally:
    """Counts a facet over segments under a filter that leaves its field's own condition out."""
    totals: Counter[Any] = Counter()
    missing = 0
    for segment in segments:
        mask = segment.select(keep, cache).mask
        column = segment.columns[facet.field]
        missing += int(np.count_nonzero(mask & ~column.known()))
        for value, count in _counts(facet, column, mask):
            totals[value] += count
    return Tally(totals, missing)


def counts_of(facet: Facet, kind: Kind, tallies: Sequence[Tally]) -> FacetCounts:
    """The counts of a facet whose field is of this kind, over all parts of a catalogue."""
    totals: Counter[Any] = Counter()
    for one in tallies:
        totals.update(one.totals)
    missing = sum(one.missing for one in tallies)
    if facet.edges:
        spans = range(len(facet.edges) - 1)
        shown = [_shown(edge, kind) for edge in facet.edges]
        return FacetCounts(facet.field, tuple(((shown[i], shown[i + 1]), totals[i]) for i in spans), missing, 0)
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    best = tuple((_shown(value, kind), count) for value, count in ranked[: facet.limit])
    return FacetCounts(facet.field, best, missing, len(ranked) - len(best))


def _counts(facet: Facet, column: Column, mask: Mask) -> Iterator[tuple[Stored, int]]:
    """(value, count) of one segment, counts above 0; with edges, the value is the number of the span."""
    if isinstance(column, Numbers):
        values = column.values[mask & column.present]
        if facet.edges:
            spans = np.searchsorted(np.array(facet.edges), values, side="right") - 1
            values = spans[(spans >= 0) & (spans < len(facet.edges) - 1)]
        found, counts = np.unique(values, return_counts=True)
        yield from zip(found.tolist(), counts.tolist(), strict=True)
        return
    codes = column.codes[mask[column.rows]] if isinstance(column, Lists) else column.codes[mask]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
    if column.kind is Kind.PATH:
        assert isinstance(column, Coded)
        depth, (first, stop) = len(facet.under), column.span(facet.under)
        for path, count in zip(column.paths[first:stop], counts[first:stop].tolist(), strict=True):
            if count and len(path) > depth:
                yield path_text(path[: depth + 1]), count
        return
    for code in np.flatnonzero(counts).tolist():
        yield column.values[code], int(counts[code])


def _shown(value: Any, kind: Kind) -> Any:
    """A stored value as a response has it."""
    if kind is Kind.DATE:
        return (EPOCH + timedelta(days=value)).date().isoformat()
    if kind is Kind.TIME:
        return (EPOCH + value * MICROSECOND).isoformat().replace("+00:00", "Z")
    return value
