"""One replica of one shard: answers for the generation that a question names, at a state that is new enough."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.serving.filters.facets import tally
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.pages import SegmentGroups
from maxsearch.serving.filters.planner import Plan
from maxsearch.serving.filters.segments import locate, variants
from maxsearch.serving.filters.tree import without_field
from maxsearch.serving.hybrid.ranking import find
from maxsearch.serving.shards.folder import ShardedFolder
from maxsearch.serving.shards.messages import Keep, LegScores, Query, Shown, State, Status, Told
from maxsearch.serving.shards.state import MovedError, Seen, ShardState
from maxsearch.serving.shop.searching import without
from maxsearch.serving.store.writes import Upsert

HELD = 2
"""Generations that are held open: that which is served, and one that is coming or going."""
TOLERANCE = 1e-3


class Shard:
    """See the top of this file; safe for several threads.

    Args:
      folder: the sharded store.
      number: which shard.

    Raises:
      MaxsearchError: no shards, some that were damaged, or one that does not find a product by its own vector.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = ShardedFolder(folder), number
        self._states: dict[str, ShardState] = {}
        self._opening = threading.Lock()
        self._cache = MaskCache()
        self._state(self._folder.current())

    def status(self, state: State) -> Status:
        """Takes up what others wrote, and says how it stands."""
        return self._status(self._state(state.generation).refresh())

    def find(self, state: State, query: Query) -> Told:
        """The best products of the shard, and what else is asked of them."""
        seen = self._seen(state)
        view, numbers = seen.view, seen.numbers
        plan = self._plan(seen, query)
        groups = {}
        pinned = {product_id: view.snapshot.row(product_id) for product_id in query.pins}
        pins = {product_id: row for product_id, row in pinned.items() if row is not None and plan.kept(row)}
        if query.hybrid is None:
            ranking = plan.ranking(query.depth)
            rows, scores, dense, exact = ranking.rows, ranking.scores, ranking.dense, ranking.exact
            scanned, legs = ranking.scanned + ranking.fetched, None
        else:
            found = find(plan, view.legs, view.words(query.text), query.hybrid)
            rows, dense, exact = found.candidates.rows, found.candidates.dense, found.exact
            scores, scanned = dense, len(rows)
            legs = LegScores(
                found.candidates.lexical,
                numbers[found.meaning],
                numbers[found.words],
                plan.vectors(rows) if query.hybrid.refine is not None else None,
            )
        if query.groups:
            every = np.concatenate([rows, np.array(list(pins.values()), np.int64)])
            groups = dict(zip(numbers[every].tolist(), variants(plan.segments, every), strict=True))
        told = Told(
            seen.sequence,
            len(view.snapshot),
            numbers[rows],
            scores,
            dense,
            plan.count,
            exact,
            scanned,
            tallies=tuple(
                tally(facet, view.segments, without_field(query.keep.filter, facet.field), self._cache)
                for facet in query.facets
            ),
            pins={product_id: int(numbers[row]) for product_id, row in pins.items()},
            groups=groups,
            items=self._items(seen, [*_first(query, numbers[rows], rows, scores), *pins.values()]),
            legs=legs,
        )
        if query.hybrid is None or not any(plan.boosts):
            return told
        factors, additions = _boosts(plan, rows)
        return replace(told, factors=factors, additions=additions)

    def items(self, state: State, numbers: Int64[np.ndarray, " n"]) -> dict[int, Shown]:
        """Products by row."""
        seen = self._seen(state)
        return self._items(seen, seen.rows(numbers))

    def products(self, state: State, numbers: Int64[np.ndarray, " n"]) -> list[Product]:
        """Products as they were embedded, in the order of the rows."""
        seen = self._seen(state)
        return seen.view.products(seen.rows(numbers))

    def product(self, state: State, product_id: str) -> tuple[Product, Float32[np.ndarray, " D"]] | None:
        """A product with its vector; None where there is none of that id."""
        view = self._seen(state).view
        row = view.snapshot.row(product_id)
        return None if row is None else (view.products([row])[0], view.vector(row))

    def kept(self, state: State, groups: Sequence[str], keep: Keep) -> list[int]:
        """How many products of each variant group may be found."""
        seen = self._seen(state)
        plan = self._plan(seen, Query(np.zeros(0, np.float32), 0, keep))
        counted = SegmentGroups(plan.segments, plan.selections)
        return [counted.kept(group) for group in groups]

    def write(self, state: State, upserts: Sequence[Upsert], deletes: Sequence[str]) -> Status:
        """Puts products in and takes products out; on disk when it returns.

        Raises:
          MovedError: another generation is served.
          MaxsearchError: a product cannot be held.
        """
        shard = self._state(state.generation)
        count = shard.write(tuple(upserts), tuple(deletes))
        return replace(self._status(shard.seen()), count=count)

    def _state(self, generation: str) -> ShardState:
        """A generation, opened and tested when it is not held."""
        state = self._states.get(generation)
        if state is not None:
            return state
        with self._opening:
            if generation in self._states:
                return self._states[generation]
            if generation not in self._folder.names():
                raise MovedError(generation)
            state = ShardState.open(self._folder, self._folder.read(generation), self._number)
            self._test(state)
            kept = list(self._states.items())[len(self._states) - HELD + 1 :] if len(self._states) >= HELD else None
            self._states = {**(self._states if kept is None else dict(kept)), generation: state}
            return state

    def _seen(self, state: State) -> Seen:
        return self._state(state.generation).seen(state.sequence)

    def _plan(self, seen: Seen, query: Query) -> Plan:
        plan = Plan.make(
            seen.view.segments, query.vector, cache=self._cache, keep=query.keep.filter, boosts=query.boosts
        )
        return without(plan, seen.view, query.keep.without)

    def _test(self, state: ShardState) -> None:
        """Searches for a product by its own vector, which also reads what first searches would wait for."""
        view = state.view()
        alive = view.segments[0].alive
        rows = np.arange(1) if alive is None else np.flatnonzero(alive)[:1]
        if not len(rows):
            return
        vector = view.vector(int(rows[0]))
        length = float(np.linalg.norm(vector))
        scores = Plan.make(view.segments, vector, cache=self._cache).ranking(10).scores
        if not len(scores) or scores[0] < length**2 * (1 - TOLERANCE):
            raise MaxsearchError(
                f"shard {self._number} of generation {state.common.generation} does not find a product by its own "
                "vector: split the index again with `maxsearch index shard`"
            )

    @staticmethod
    def _items(seen: Seen, rows: Sequence[int]) -> dict[int, Shown]:
        snapshot = seen.view.snapshot
        return {
            int(seen.numbers[row]): Shown(item, snapshot.pictured(row))
            for row, item in zip(rows, snapshot.take(list(rows)), strict=True)
        }

    def _status(self, seen: Seen) -> Status:
        return Status(seen.sequence, len(seen.view.snapshot), os.getpid())


def _first(query: Query, numbers: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> list[int]:
    """The rows that a page shows if no other shard has better ones."""
    if query.hybrid is not None or not query.shown:
        return []
    if query.after is not None:
        score, number = query.after
        rows = rows[(scores < score) | ((scores == score) & (numbers > number))]
    return rows[: query.shown].tolist()


def _boosts(plan: Plan, rows: Int64[np.ndarray, " n"]) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Factors and additions of the boosts of these rows."""
    factors, additions = np.ones(len(rows)), np.zeros(len(rows))
    for place, (segment, row) in enumerate(locate(plan.segments, rows).tolist()):
        boosted = plan.boosts[segment]
        if boosted is not None:
            factors[place], additions[place] = boosted.factors[row], boosted.additions[row]
    return factors, additions
