"""The best products among those that a filter keeps: a scan of those rows, or over-fetching from the index.

Over-fetching asks the index for as many results as should hold k that the filter keeps, drops the others, and asks for
more until k are left; when the next request would cost more than reading the filter's rows, or would be deeper than
the index can be trusted, those are read. So a search ends with k products or with all there are. Which way is cheaper,
and how deep is too deep, is measured (`costs`).

However a row was found, its score is computed anew in one way, so that results of all ways compare and come again the
same: in a page that is asked for later, too.

Letters: N rows, D vector size, n results.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from maxsearch.serving.filters.boosts import Boost, Boosted
from maxsearch.serving.filters.costs import in_order
from maxsearch.serving.filters.masks import MaskCache, Selection
from maxsearch.serving.filters.segments import Segment, locate, offsets
from maxsearch.serving.filters.tree import Node
from maxsearch.serving.filters.vector_table import VectorTable

HEADROOM = 2.0
"""How many more are hoped for than k, in standard deviations of their number: few requests then fall short."""
ESCALATION = 4
BLOCK = 8192
"""Rows that a scan reads at a time."""
ROUNDING = float(np.finfo(np.float32).eps)
"""By how much an inner product with a unit vector may differ from another order of summation, per dimension."""


@dataclass(frozen=True)
class Ranking:
    """The best rows, best first.

    Attributes:
      rows: numbered over all segments; equal scores are ordered by row.
      scores: with boosts.
      dense: the inner products alone.
      exact: whether no better row was missed.
      complete: whether these are all rows that the filter keeps.
      scanned: rows whose vectors were read one by one.
      fetched: results that were asked of an index.
    """

    rows: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    dense: Float64[np.ndarray, " n"]
    exact: bool
    complete: bool
    scanned: int
    fetched: int


@dataclass(frozen=True)
class _Part:
    """The best rows of one segment; as `Ranking`."""

    rows: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    dense: Float64[np.ndarray, " n"]
    exact: bool
    scanned: int = 0
    fetched: int = 0


@dataclass(frozen=True)
class Plan:
    """One search of some segments, ready to be asked for any number of results.

    Attributes:
      segments: what is searched.
      selections: the rows of each that may be returned.
      boosts: what is done to each one's scores; None for nothing.
      query: the unit vector that is searched for.
    """

    segments: tuple[Segment, ...]
    selections: tuple[Selection, ...]
    boosts: tuple[Boosted | None, ...]
    query: Float32[np.ndarray, " D"]

    @classmethod
    def make(
        cls,
        segments: Sequence[Segment],
        query: Float32[np.ndarray, " D"],
        *,
        cache: MaskCache,
        keep: Node | None = None,
        boosts: Sequence[Boost] = (),
    ) -> "Plan":
        """Evaluates the filter.

        Args:
          segments: what is searched.
          query: a finite vector.
          cache: where masks are remembered.
          keep: the filter; None keeps every product.
          boosts: what raises or lowers products.
        """
        return cls(
            tuple(segments),
            tuple(segment.select(keep, cache) for segment in segments),
            tuple(Boosted.of(boosts, segment, cache) for segment in segments),
            np.asarray(query, np.float32),
        )

    @property
    def count(self) -> int:
        """How many products the filter keeps."""
        return sum(selection.count for selection in self.selections)

    def ranking(self, k: int) -> Ranking:
        """The `k` best products, or all when there are fewer."""
        parts = [
            _search(segment, selection, boosted, self.query, min(k, selection.count))
            for segment, selection, boosted in zip(self.segments, self.selections, self.boosts, strict=True)
        ]
        rows = np.concatenate([part.rows + at for part, at in zip(parts, offsets(self.segments), strict=True)])
        scores = np.concatenate([part.scores for part in parts])
        dense = np.concatenate([part.dense for part in parts])
        best = np.lexsort((rows, -scores))[:k]
        return Ranking(
            rows[best],
            scores[best],
            dense[best],
            exact=all(part.exact for part in parts),
            complete=len(best) == self.count,
            scanned=sum(part.scanned for part in parts),
            fetched=sum(part.fetched for part in parts),
        )

    def dense(
        self, rows: Int64[np.ndarray, " n"], query: Float32[np.ndarray, " D"] | None = None
    ) -> Float64[np.ndarray, " n"]:
        """Inner products of any rows with the query, or with another one, as a ranking has them."""
        scores = np.zeros(len(rows))
        for number, (mine, own) in self._of_segments(rows):
            scores[mine] = own_scores(self.segments[number].vectors, own, self.query if query is None else query)
        return scores

    def vectors(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]:
        """The vectors of any rows."""
        found = np.zeros((len(rows), len(self.query)), np.float32)
        for number, (mine, own) in self._of_segments(rows):
            found[mine] = self.segments[number].vectors.take(own)
        return found

    def boosted(self, rows: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What the boosts make of these rows' scores."""
        raised = scores.copy()
        for number, (mine, own) in self._of_segments(rows):
            boosted = self.boosts[number]
            if boosted is not None:
                raised[mine] = boosted.apply(own, scores[mine])
        return raised

    def _of_segments(
        self, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[int, tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]]]:
        """Per segment that has some of the rows: its number, which of them, and their numbers there."""
        places = locate(self.segments, rows)
        for number in np.unique(places[:, 0]).tolist():
            mine = np.flatnonzero(places[:, 0] == number)
            yield number, (mine, places[mine, 1])

    def kept(self, row: int) -> bool:
        """Whether the filter keeps this row and it is alive."""
        [[segment, place]] = locate(self.segments, np.array([row])).tolist()
        return bool(self.selections[segment].mask[place])


def own_scores(
    vectors: VectorTable, rows: Int64[np.ndarray, " n"], query: Float32[np.ndarray, " D"]
) -> Float64[np.ndarray, " n"]:
    """Inner products, each summed in the same order whichever rows it is computed with."""
    return (vectors.take(rows).astype(np.float64) * query).sum(axis=1)


def _search(
    segment: Segment, selection: Selection, boosted: Boosted | None, query: Float32[np.ndarray, " D"], k: int
) -> _Part:
    count, total, costs = selection.count, len(segment), segment.costs
    if k == 0:
        return _Part(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), exact=True)
    error = ROUNDING * len(query) * float(np.linalg.norm(query))
    asked = 0
    hoped = k + HEADROOM * math.sqrt(k)
    fetch = math.ceil(hoped * total / count)
    # Depth is what the filter adds: whoever asks for many results of the whole catalogue gets the index's own.
    deepest = max(costs.depth, 2 * hoped) if costs else 0
    while costs and fetch < total and fetch <= deepest and costs.fetching(fetch) < costs.scanning(count, total):
        found, reached = (x[0] for x in segment.nearest.search(query[None], fetch))
        asked += fetch
        least = float(reached[found >= 0].min(initial=math.inf))
        rows = found[found >= 0]
        rows = rows[selection.mask[rows]]
        if len(rows) >= k:
            rows, scores, dense = _best(segment.vectors, rows, boosted, query, k)
            unseen = least + error if segment.exact else least
            bound = boosted.ceiling(unseen) if boosted is not None else unseen
            if scores[-1] > bound or (boosted is None and not segment.exact):
                return _Part(rows, scores, dense, segment.exact, fetched=asked)
            fetch *= ESCALATION
        else:
            # What was seen of the filter near this query says more than its share of the whole catalogue.
            fetch = max(ESCALATION * fetch, math.ceil(hoped * fetch / max(len(rows), 1)))
    rows = _scan(segment.vectors, selection, boosted, query, k, error)
    return _Part(*_best(segment.vectors, rows, boosted, query, k), exact=True, scanned=count, fetched=asked)


def _scan(
    vectors: VectorTable,
    selection: Selection,
    boosted: Boosted | None,
    query: Float32[np.ndarray, " D"],
    k: int,
    error: float,
) -> Int64[np.ndarray, " n"]:
    """Rows among which the k best are: those whose score, give or take rounding, reaches the k-th."""
    rows, total = selection.rows, len(vectors)
    if k == len(rows):
        return rows
    scores = np.empty(len(rows), np.float64)
    if in_order(len(rows), total):
        for start in range(0, total, BLOCK):
            stop = min(start + BLOCK, total)
            first, last = np.searchsorted(rows, [start, stop])
            scores[first:last] = (vectors.span(start, stop) @ query)[rows[first:last] - start]
    else:
        for start in range(0, len(rows), BLOCK):
            scores[start : start + BLOCK] = vectors.take(rows[start : start + BLOCK]) @ query
    if boosted is not None:
        scores, error = boosted.apply(rows, scores), boosted.spread(error)
    return rows[scores >= np.partition(scores, -k)[-k] - 2 * error]


def _best(
    vectors: VectorTable,
    rows: Int64[np.ndarray, " n"],
    boosted: Boosted | None,
    query: Float32[np.ndarray, " D"],
    k: int,
) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """The k best of these rows, their scores, and these without boosts."""
    dense = own_scores(vectors, rows, query)
    scores = dense if boosted is None else boosted.apply(rows, dense)
    best = np.lexsort((rows, -scores))[:k]
    return rows[best], scores[best], dense[best]
