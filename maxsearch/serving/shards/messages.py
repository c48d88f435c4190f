"""What is asked of a shard and what it says; rows are numbered over all shards, see `state`.

Letters: n rows, D vector size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

from maxsearch.serving.filters.boosts import Boost
from maxsearch.serving.filters.facets import Facet, Tally
from maxsearch.serving.filters.tree import Node
from maxsearch.serving.hybrid.ranking import HybridSettings
from maxsearch.serving.items import Item


@dataclass(frozen=True)
class State:
    """What a shard must have seen to answer: this generation, and this write at least."""

    generation: str
    sequence: int


@dataclass(frozen=True)
class Keep:
    """Which products may be found.

    Attributes:
      filter: None lets everything pass.
      without: product ids that must not be found.
    """

    filter: Node | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Query:
    """A search.

    Attributes:
      vector: the query's.
      depth: how many of the best rows.
      keep: which products may be found.
      boosts, facets: see `Plan` and `count_facets`.
      pins: product ids whose rows are told.
      groups: whether variant groups are told.
      after: score and row behind which a page begins; its products are told.
      shown: how many products of it.
      hybrid: the settings of a hybrid search; None ranks by vectors alone.
      text: its words.
    """

    vector: Float32[np.ndarray, " D"]
    depth: int
    keep: Keep = Keep()
    boosts: tuple[Boost, ...] = ()
    facets: tuple[Facet, ...] = ()
    pins: tuple[str, ...] = ()
    groups: bool = False
    after: tuple[float, int] | None = None
    shown: int = 0
    hybrid: HybridSettings | None = None
    text: str = ""


@dataclass(frozen=True)
class Shown:
    """A product as a result shows it."""

    item: Item
    pictured: bool


@dataclass(frozen=True)
class LegScores:
    """What the legs of a hybrid search found in a shard.

    Attributes:
      lexical: of each row.
      meaning, words: the rows that are among the best of each leg.
      vectors: of each row, where the query is to be refined.
    """

    lexical: Float64[np.ndarray, " n"]
    meaning: Int64[np.ndarray, " _"]
    words: Int64[np.ndarray, " _"]
    vectors: Float32[np.ndarray, "n D"] | None


@dataclass(frozen=True)
class Told:
    """What a shard found.

    Attributes:
      sequence: of the last write that it saw.
      products: how many it holds.
      rows: the best, best first; of a hybrid search the candidates, ascending.
      scores: with boosts.
      dense: the inner products alone.
      factors, additions: of the boosts, for a hybrid search; empty without boosts.
      kept: how many products the filter keeps.
      exact: whether no better row was missed.
      scanned: how many products were scored.
      tallies: of each facet.
      pins: row of each pinned product that the filter keeps, by id.
      groups: variant group by row, of the rows and the pins.
      items: what was asked to be shown, by row.
      legs: of a hybrid search.
    """

    sequence: int
    products: int
    rows: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    dense: Float64[np.ndarray, " n"]
    kept: int
    exact: bool
    scanned: int
    factors: Float64[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(0))
    additions: Float64[np.ndarray, " _"] = field(default_factory=lambda: np.zeros(0))
    tallies: tuple[Tally, ...] = ()
    pins: dict[str, int] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    items: dict[int, Shown] = field(default_factory=dict)
    legs: LegScores | None = None


@dataclass(frozen=True)
class Status:
    """How a shard stands.

    Attributes:
      sequence: of the last write that it saw.
      products: how many it holds.
      process: of the replica.
      count: of what a write changed.
    """

    sequence: int
    products: int
    process: int
    count: int = 0


@runtime_checkable
class Shards(Protocol):
    """The way to the shards of one folder, wherever they are; every method may be called from several threads.

    Raises what the method of `shard.Shard` that it names raises, and UnavailableError where a shard does not answer.
    """

    def ask(self, method: str, arguments: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """Calls a method of some shards at the same time.

        Args:
          method: its name.
          arguments: of the call to each shard.

        Returns:
          What each said; all of them, or an error.
        """
        ...

    def prepare(self, generation: str, shards: int) -> None:
        """Has the shards of a generation opened wherever they will be asked, as far as that can be told."""
        ...
