"""A page of results: variants collapsed, pinned products in their places, and a cursor to the next page.

All pages are cut from one ranking. An exact one is the same however deep it is asked for. An approximate one is not, so
it is made for a fixed depth that the cursor carries; only a search that is paged beyond it is made anew, deeper, and
goes on behind the last product that was shown. So no product comes twice, and a product can be left out only where the
ranking says it is approximate. The same cursor gives the same page as long as the segments stay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from maxsearch.errors import UsageError
from maxsearch.serving.filters.column_types import Coded
from maxsearch.serving.filters.columns import VARIANT
from maxsearch.serving.filters.cursors import Cursor
from maxsearch.serving.filters.masks import Selection
from maxsearch.serving.filters.segments import Segment, variants

DEPTH = 100
"""Rows that a ranking is made for at least: an index searches about as long for a few as for this many."""
DEEPEST = 10_000
MOST_PINS = 100


@runtime_checkable
class Ranked(Protocol):
    """The part of a ranking that pages are cut from; see `planner.Ranking`."""

    @property
    def rows(self) -> Int64[np.ndarray, " n"]: ...  # noqa: D102
    @property
    def scores(self) -> Float64[np.ndarray, " n"]: ...  # noqa: D102
    @property
    def exact(self) -> bool: ...  # noqa: D102
    @property
    def complete(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Pin:
    """A product that is shown at a rank (from 1), or behind the last one when there are fewer."""

    rank: int
    row: int


@dataclass(frozen=True)
class Entry:
    """One result.

    Attributes:
      rank: from 1, over all pages.
      row: numbered over all segments.
      score: its own; None for a pinned product that the ranking does not hold.
      variants: how many more products of its variant group the filter keeps.
      pinned: whether it stands here because it was pinned.
    """

    rank: int
    row: int
    score: float | None
    variants: int
    pinned: bool


@dataclass(frozen=True)
class Page:
    """Results, and where the next page begins; None behind the last one.

    Attributes:
      entries: best first.
      following: the cursor of the next page.
      exact: whether no better product was missed.
      cut: whether the pages end here though there are more products, because none are cut deeper.
    """

    entries: tuple[Entry, ...]
    following: Cursor | None
    exact: bool
    cut: bool


@dataclass(frozen=True)
class Paging:
    """How pages are cut.

    Attributes:
      size: results per page, at least 1.
      depth: rows that an approximate ranking is made for.
      deepest: the most rows that any is made for; pages end there.
      collapse: whether only the best product of a variant group is shown.
      pins: with ranks and rows that differ, in the order of their ranks; the filter keeps them.
    """

    size: int
    depth: int = DEPTH
    deepest: int = DEEPEST
    collapse: bool = False
    pins: tuple[Pin, ...] = ()

    def first_depth(self, start: Cursor) -> int:
        """How many rows the first ranking for a page is made for."""
        return min(max(start.depth, self.depth, self.size + 1), self.deepest)


@runtime_checkable
class Groups(Protocol):
    """The variant groups of what is searched."""

    def of(self, rows: Int64[np.ndarray, " n"]) -> list[str]:
        """The group of each row; empty where it has none."""
        ...

    def others(self, rows: Sequence[int]) -> list[int]:
        """How many further rows of each row's group the filter keeps."""
        ...


@dataclass(frozen=True)
class SegmentGroups:
    """See `Groups`, of some segments and the rows of each that the filter keeps."""

    segments: Sequence[Segment]
    selections: Sequence[Selection]

    def of(self, rows: Int64[np.ndarray, " n"]) -> list[str]:
        """See `Groups`."""
        return variants(self.segments, rows)

    def others(self, rows: Sequence[int]) -> list[int]:
        """See `Groups`."""
        return [max(self.kept(group) - 1, 0) if group else 0 for group in self.of(np.array(rows, np.int64))]

    def kept(self, group: str) -> int:
        """How many rows of a group the filter keeps."""
        total = 0
        for segment, selection in zip(self.segments, self.selections, strict=True):
            column = segment.columns[VARIANT]
            assert isinstance(column, Coded)
            code = column.code_of.get(group)
            if code is not None:
                total += int(np.count_nonzero(selection.mask[column.postings.rows(code, code + 1)]))
        return total


def page(rank: Callable[[int], Ranked], groups: Groups, paging: Paging, start: Cursor) -> tuple[Page, Ranked]:
    """Cuts a page.

    Args:
      rank: gives the ranking of the best n rows.
      groups: the variant groups of what is searched; asked only where they are collapsed.
      paging: how.
      start: the end of the page before; `first_page` for the first one.

    Returns:
      the page, and the ranking that it was cut from.
    """
    wanted = paging.size + 1  # one more, to know whether there is another page
    depth = paging.first_depth(start)
    while True:
        ranking = rank(depth)
        places = _shown(ranking, groups, paging)
        if start.score is not None:
            assert start.row is not None
            scores, rows = ranking.scores[places], ranking.rows[places]
            places = places[(scores < start.score) | ((scores == start.score) & (rows > start.row))]
        if len(places) >= wanted or ranking.complete or depth == paging.deepest:
            break
        depth = min(2 * depth, paging.deepest)
    natural = iter(zip(ranking.rows[places].tolist(), ranking.scores[places].tolist(), strict=True))
    left = list(paging.pins[start.pins :])
    own = dict(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)) if left else {}
    chosen: list[tuple[int, float | None, bool]] = []
    last, remaining = (start.score, start.row), len(places)
    while len(chosen) < paging.size and (left or remaining):
        if left and (left[0].rank <= start.delivered + len(chosen) + 1 or not remaining):
            pin = left.pop(0)
            chosen.append((pin.row, own.get(pin.row), True))
        else:
            row, score = next(natural)
            remaining -= 1
            last = (score, row)
            chosen.append((row, score, False))
    others = groups.others([row for row, _, _ in chosen]) if paging.collapse else [0] * len(chosen)
    entries = tuple(
        Entry(start.delivered + i, row, score, further, pinned)
        for i, ((row, score, pinned), further) in enumerate(zip(chosen, others, strict=True), 1)
    )
    following = Cursor(
        start.generation,
        start.request,
        depth,
        start.delivered + len(entries),
        len(paging.pins) - len(left),
        *last,
    )
    more = bool(left or remaining)
    cut = not (more or ranking.complete)
    return Page(entries, following if more else None, ranking.exact, cut), ranking


def parse_pins(
    value: Any, find: Callable[[str], int | None], kept: Callable[[int], bool], *, where: str = "pins"
) -> tuple[Pin, ...]:
    """Reads a list of {"rank", "product_id"}; null means none.

    Args:
      value: decoded JSON.
      find: gives a product's row; None where there is no such product.
      kept: whether the filter keeps a row (`Plan.kept`).
      where: its name in messages.

    Returns:
      the pins in the order of their ranks, without those of products that are gone or that the filter drops.

    Raises:
      UsageError: it is malformed, or a rank or a product comes twice; the message begins with the place.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_PINS:
        raise UsageError(f"{where}: expected a list of at most {MOST_PINS} pins")
    wanted: dict[int, str] = {}
    for i, pin in enumerate(value):
        if not isinstance(pin, dict) or set(pin) != {"rank", "product_id"} or not isinstance(pin["product_id"], str):
            raise UsageError(f"{where}[{i}]: expected an object with rank and product_id")
        if type(pin["rank"]) is not int or not 1 <= pin["rank"] <= DEEPEST:
            raise UsageError(f"{where}[{i}].rank: expected a whole number from 1 to {DEEPEST}")
        if pin["rank"] in wanted or pin["product_id"] in wanted.values():
            raise UsageError(f"{where}[{i}]: its rank or its product is pinned twice: pin each once")
        wanted[pin["rank"]] = pin["product_id"]
    found = [(rank, find(product)) for rank, product in sorted(wanted.items())]
    return tuple(Pin(rank, row) for rank, row in found if row is not None and kept(row))


def first_page(generation: str, request: str) -> Cursor:
    """Where the first page begins."""
    return Cursor(generation, request, 0, 0, 0, None, None)


def _shown(ranking: Ranked, groups: Groups, paging: Paging) -> Int64[np.ndarray, " m"]:
    """Places of the ranking that are shown by their own rank: no pinned products, the best of each variant group."""
    pinned = np.array([pin.row for pin in paging.pins], np.int64)
    places = np.flatnonzero(~np.isin(ranking.rows, pinned))
    if not paging.collapse:
        return places
    seen = {group for group in groups.of(pinned) if group}
    shown = []
    for place, group in zip(places.tolist(), groups.of(ranking.rows[places]), strict=True):
        if group not in seen:
            shown.append(place)
        if group:
            seen.add(group)
    return np.array(shown, np.int64)
