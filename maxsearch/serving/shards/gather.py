"""One search of all shards, put together so that the answer is that of one index with the same products.

Every shard gives its own best; the best of those are the best of all, ordered by score and then by row as everywhere.
A hybrid search is fused here, from each leg's best over all shards: ranks and scales are those of the whole catalogue.

Letters: n rows, D vector size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from maxsearch.data.records import Product
from maxsearch.serving.filters.boosts import Boosted
from maxsearch.serving.filters.planner import Ranking
from maxsearch.serving.hybrid.fuse import order
from maxsearch.serving.hybrid.match import Match
from maxsearch.serving.hybrid.ranking import HybridRanking, HybridSettings, LegsFound, fused
from maxsearch.serving.hybrid.tune import Candidates
from maxsearch.serving.shards.messages import Query, Shown, Told

Ask = Callable[[str, Mapping[int, Sequence[Any]]], dict[int, Any]]
"""Calls a method of shards with a state that is new enough before the arguments."""


@dataclass(frozen=True)
class Scores:
    """The candidates of all shards with what fusing asks of them; see `ranking.Scored`.

    Attributes:
      query: its vector.
      count: products that the filter keeps.
      boosts: one where there are any.
      rows: ascending [n].
      every: the vectors of the rows, where they are asked for.
    """

    query: Float32[np.ndarray, " D"]
    count: int
    boosts: Sequence[Boosted]
    rows: Int64[np.ndarray, " n"]
    every: Float32[np.ndarray, "n D"] | None

    def dense(
        self, rows: Int64[np.ndarray, " m"], query: Float32[np.ndarray, " D"] | None = None
    ) -> Float64[np.ndarray, " m"]:
        """See `Plan.dense`."""
        return (self.vectors(rows).astype(np.float64) * (self.query if query is None else query)).sum(axis=1)

    def vectors(self, rows: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m D"]:
        """See `Plan.vectors`."""
        assert self.every is not None
        return self.every[np.searchsorted(self.rows, rows)]

    def boosted(self, rows: Int64[np.ndarray, " m"], scores: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """See `Plan.boosted`."""
        return self.boosts[0].apply(np.searchsorted(self.rows, rows), scores) if self.boosts else scores


class Search:
    """A search of all shards, asked deeper as pages want; also the `Groups` of its pages.

    Args:
      ask: the way to the shards.
      shards: how many.
      query: what is searched.
      matching: makes the matching head of the way to products; None where nothing is re-ranked.
    """

    def __init__(
        self,
        ask: Ask,
        shards: int,
        query: Query,
        matching: Callable[[Callable[[list[int]], Sequence[Product]]], Match] | None = None,
    ) -> None:
        self._ask, self._shards, self._query, self._matching = ask, shards, query, matching
        self._ranking: tuple[int, Ranking | HybridRanking] | None = None
        self.told: dict[int, Told] = {}
        # Of every depth that was asked: a product that was deleted meanwhile may still be pinned.
        self._pinned: dict[int, int] = {}
        self._groups: dict[int, str] = {}
        self._items: dict[int, Shown] = {}

    def rank(self, depth: int) -> Ranking | HybridRanking:
        """The best rows of all shards."""
        if self._ranking is not None and (self._ranking[0] == depth or self._query.hybrid is not None):
            return self._ranking[1]
        query = replace(self._query, depth=depth)
        self.told = self._ask("find", dict.fromkeys(range(self._shards), (query,)))
        for shard, one in self.told.items():
            self._pinned |= dict.fromkeys(one.pins.values(), shard)
            self._groups |= one.groups
            self._items |= one.items
        ranking = self._dense(depth) if query.hybrid is None else self._hybrid(query.hybrid)
        self._ranking = depth, ranking
        return ranking

    @property
    def count(self) -> int:
        """How many products the filter keeps."""
        return sum(one.kept for one in self.told.values())

    @property
    def pins(self) -> dict[str, int]:
        """Row of each pinned product that the filter keeps."""
        return {product_id: row for one in self.told.values() for product_id, row in one.pins.items()}

    def of(self, rows: Int64[np.ndarray, " m"]) -> list[str]:
        """See `pages.Groups`."""
        return [self._groups[row] for row in rows.tolist()]

    def others(self, rows: Sequence[int]) -> list[int]:
        """See `pages.Groups`; counted by a second question, which may see writes that the first did not."""
        groups = self.of(np.array(rows, np.int64))
        names = sorted({group for group in groups if group})
        if not names:
            return [0] * len(groups)
        counts = self._ask("kept", dict.fromkeys(range(self._shards), (names, self._query.keep)))
        total = dict(zip(names, np.sum(list(counts.values()), axis=0).tolist(), strict=True))
        return [max(total[group] - 1, 0) if group else 0 for group in groups]

    def items(self, rows: Sequence[int]) -> list[Shown]:
        """The products at these rows."""
        missing = [row for row in rows if row not in self._items]
        if missing:
            for found in self._ask("items", self._owners(missing)).values():
                self._items |= found
        return [self._items[row] for row in rows]

    def products(self, rows: Sequence[int]) -> list[Product]:
        """The products at these rows, as they were embedded."""
        owners = self._owners(rows)
        found = self._ask("products", owners)
        by_row = {
            row: product
            for shard, [mine] in owners.items()
            for row, product in zip(mine.tolist(), found[shard], strict=True)
        }
        return [by_row[row] for row in rows]

    def _owners(self, rows: Iterable[int]) -> dict[int, list[Int64[np.ndarray, " _"]]]:
        """Which of the rows each shard told of, as the arguments of a call."""
        wanted = np.array([row for row in rows if row not in self._pinned], np.int64)
        mine = {shard: wanted[np.isin(wanted, one.rows)] for shard, one in self.told.items()}
        for row in rows:
            if row in self._pinned:
                mine[self._pinned[row]] = np.append(mine[self._pinned[row]], row)
        return {shard: [found] for shard, found in mine.items() if len(found)}

    def _joined(self, of: Callable[[Told], np.ndarray]) -> np.ndarray:
        return np.concatenate([of(one) for one in self.told.values()])

    def _dense(self, depth: int) -> Ranking:
        rows, scores = self._joined(lambda one: one.rows), self._joined(lambda one: one.scores)
        best = order(rows, scores)[:depth]
        return Ranking(
            rows[best],
            scores[best],
            self._joined(lambda one: one.dense)[best],
            exact=all(one.exact for one in self.told.values()),
            complete=len(best) == self.count,
            scanned=sum(one.scanned for one in self.told.values()),
            fetched=0,
        )

    def _hybrid(self, settings: HybridSettings) -> HybridRanking:
        legs = {shard: one.legs for shard, one in self.told.items() if one.legs is not None}
        rows = self._joined(lambda one: one.rows)
        at = np.argsort(rows)
        rows, dense = rows[at], self._joined(lambda one: one.dense)[at]
        lexical = np.concatenate([one.lexical for one in legs.values()])[at]
        boosts = []
        if any(len(one.factors) for one in self.told.values()):
            boosts = [Boosted(self._joined(lambda one: one.factors)[at], self._joined(lambda one: one.additions)[at])]
        vectors = None
        if settings.refine is not None:
            vectors = np.concatenate([one.vectors for one in legs.values() if one.vectors is not None])[at]
        scores = Scores(self._query.vector, self.count, boosts, rows, vectors)

        def best(found: Sequence[Int64[np.ndarray, " _"]], by: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " _"]:
            every = np.concatenate(list(found))
            return every[order(every, by[np.searchsorted(rows, every)])][: settings.candidates]

        ranked = scores.boosted(rows, dense) if settings.dense_alone else dense
        meaning = best([one.meaning for one in legs.values()], ranked)
        words = best([one.words for one in legs.values()], lexical)
        chosen = np.union1d(meaning, words)
        places = np.searchsorted(rows, chosen)
        found = LegsFound(
            Candidates(chosen, dense[places], lexical[places]),
            meaning,
            words,
            all(one.exact for one in self.told.values()),
        )
        return fused(scores, found, settings, None if self._matching is None else self._matching(self.products))
