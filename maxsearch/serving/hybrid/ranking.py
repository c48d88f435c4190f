"""The hybrid ranking of one query: both legs' candidates, fused, refined and re-ranked as asked.

The candidates are the best of each leg under the same filter, and every leg scores all of them. The ranking is over
these candidates and no more: `exact` says whether they are the true best of each leg.

Letters: N rows, D vector size, C candidates, n results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

from maxsearch.errors import UsageError
from maxsearch.serving.filters.pages import Page
from maxsearch.serving.filters.planner import Plan
from maxsearch.serving.hybrid.fuse import RRF_K, order, reciprocal_ranks, weighted
from maxsearch.serving.hybrid.lexical import LexicalLeg, best_by_words
from maxsearch.serving.hybrid.match import Match
from maxsearch.serving.hybrid.records import HybridHit, Legs
from maxsearch.serving.hybrid.refine import RefineSettings, refine
from maxsearch.serving.hybrid.tune import Candidates


class Fusion(StrEnum):
    """How the legs become one ranking."""

    DENSE = "dense"
    LEXICAL = "lexical"
    RRF = "rrf"
    WEIGHTED = "weighted"


@dataclass(frozen=True)
class HybridSettings:
    """How to rank.

    Attributes:
      fusion: how the legs become one ranking.
      candidates: of each leg.
      weight: of the dense leg, in a weighted sum.
      rrf_k: the constant of reciprocal rank fusion.
      refine: how to refine the query's vector, which then gives the dense leg's part in the fusion; None leaves it.
      rerank: how many of the first ranks the matching head puts in its order; 0 none.
    """

    fusion: Fusion = Fusion.DENSE
    candidates: int = 200
    weight: float = 0.95
    rrf_k: int = RRF_K
    refine: RefineSettings | None = None
    rerank: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"a hybrid search needs at least one candidate of each leg, not {self.candidates}")
        if not 0 <= self.weight <= 1:
            raise UsageError(f"the dense leg's weight must be from 0 to 1, and is {self.weight:g}")
        if self.rerank < 0 or self.rrf_k < 0:
            raise UsageError("the number of re-ranked products and the constant of rank fusion must not be negative")

    @property
    def dense_alone(self) -> bool:
        """Whether only the vectors decide."""
        return self.fusion is Fusion.DENSE and self.refine is None


@dataclass(frozen=True)
class HybridRanking:
    """The candidates, best first, with each leg's scores; what `pages.page` cuts pages from.

    Attributes:
      rows: numbered over all segments.
      scores: what they are ranked by, descending.
      exact: whether the candidates are the true best of each leg, and boosts could not have raised others.
      complete: whether they are all products that the filter keeps.
      dense, lexical, refined, match: each leg's scores; NaN or None where it was not asked.
    """

    rows: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    exact: bool
    complete: bool
    dense: Float64[np.ndarray, " n"]
    lexical: Float64[np.ndarray, " n"]
    refined: Float64[np.ndarray, " n"] | None = None
    match: Float64[np.ndarray, " n"] | None = None

    @cached_property
    def _place(self) -> dict[int, int]:
        return {row: place for place, row in enumerate(self.rows.tolist())}

    def legs(self, row: int) -> Legs:
        """What each leg said of a row; nothing where it is no candidate, as a pinned one may be."""
        if row not in self._place:
            return Legs()
        place = self._place[row]
        asked = {"dense": self.dense, "lexical": self.lexical, "refined": self.refined, "match": self.match}
        values = {name: float(x[place]) for name, x in asked.items() if x is not None}
        return Legs(**{name: value for name, value in values.items() if not np.isnan(value)})


@dataclass(frozen=True)
class LegsFound:
    """What the legs found: of one catalogue, or of all parts of one.

    Attributes:
      candidates: scored by both legs.
      meaning, words: each leg's own ranking.
      exact: whether these hold the true best.
    """

    candidates: Candidates
    meaning: Int64[np.ndarray, " _"]
    words: Int64[np.ndarray, " _"]
    exact: bool


@runtime_checkable
class Scored(Protocol):
    """What a ranking asks of the products that the legs found; see `planner.Plan`."""

    @property
    def query(self) -> Float32[np.ndarray, " D"]: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def boosts(self) -> Sequence[Any]: ...  # noqa: D102
    def dense(  # noqa: D102
        self, rows: Int64[np.ndarray, " n"], query: Float32[np.ndarray, " D"] | None = None
    ) -> Float64[np.ndarray, " n"]: ...
    def vectors(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]: ...  # noqa: D102
    def boosted(  # noqa: D102
        self, rows: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]: ...


@dataclass(frozen=True)
class HybridPlan:
    """One hybrid search, ready to be ranked.

    Attributes:
      plan: the dense leg, with filter and boosts; the boosts act on the fused score.
      legs: the lexical leg of each segment; none where products are searched by meaning alone.
      words: of the query, as `Words.of` gives them.
      settings: how to rank.
      matching: the matching head; needed to re-rank.
    """

    plan: Plan
    legs: tuple[LexicalLeg, ...]
    words: Sequence[str]
    settings: HybridSettings = field(default_factory=HybridSettings)
    matching: Match | None = None

    def ranking(self, k: int = 0) -> HybridRanking:
        """The ranking of all candidates, however many are asked for; made once."""
        return self._ranking

    @property
    def candidates(self) -> Candidates:
        """What the legs found, scored by both."""
        return self._found.candidates

    @cached_property
    def _found(self) -> LegsFound:
        return find(self.plan, self.legs, self.words, self.settings)

    @cached_property
    def _ranking(self) -> HybridRanking:
        if self.settings.rerank and self.matching is None:
            raise UsageError("re-ranking needs a model with a matching head: serve such a model, or do not ask for it")
        return fused(self.plan, self._found, self.settings, self.matching)


def find(plan: Plan, legs: Sequence[LexicalLeg], words: Sequence[str], settings: HybridSettings) -> LegsFound:
    """The candidates, each leg's own ranking, and whether these hold the true best."""
    if not legs:
        if not settings.dense_alone:
            raise UsageError("searching by words needs an index of words: build one, or search by meaning alone")
        alone = plan.ranking(settings.candidates)
        found = Candidates(alone.rows, alone.dense, np.full(len(alone.rows), np.nan))
        return LegsFound(found, alone.rows, alone.rows[:0], alone.exact)
    by_words, _, every = best_by_words(legs, plan.selections, words, settings.candidates)
    by_meaning, exact = by_words[:0], True
    if settings.fusion is not Fusion.LEXICAL or settings.refine is not None:
        # The boosts act on the fused score; only where nothing is fused can the search itself go by them.
        plain = plan if settings.dense_alone else replace(plan, boosts=(None,) * len(plan.segments))
        dense = plain.ranking(settings.candidates)
        by_meaning, exact = dense.rows, dense.exact
    if settings.dense_alone:
        by_words = by_words[:0]
    rows = np.union1d(by_meaning, by_words)
    found = Candidates(rows, plan.dense(rows), every[rows].astype(np.float64))
    return LegsFound(found, by_meaning, by_words, exact)


def fused(plan: Scored, legs: LegsFound, settings: HybridSettings, matching: Match | None) -> HybridRanking:
    """One ranking of what the legs found, refined and re-ranked as the settings say."""
    found, meaning, refined = legs.candidates, legs.candidates.dense, None
    rankings = [legs.meaning, legs.words]
    if settings.refine is not None:
        query = refine(plan.query, plan.vectors(found.rows), found.lexical, settings.refine)
        meaning = refined = plan.dense(found.rows, query)
        rankings = [found.rows[order(found.rows, refined)][: settings.candidates], legs.words]
    match settings.fusion:
        case Fusion.DENSE:
            scores = meaning
        case Fusion.LEXICAL:
            scores = found.lexical
        case Fusion.RRF:
            scores = reciprocal_ranks(found.rows, rankings, k=settings.rrf_k)
        case Fusion.WEIGHTED:
            scores = weighted(meaning, found.lexical, settings.weight)
    scores = plan.boosted(found.rows, scores)
    best = order(found.rows, scores)
    complete = len(best) == plan.count
    if settings.fusion is Fusion.LEXICAL and settings.refine is None:
        complete = complete or len(best) < settings.candidates  # no other product has any of the words
    ranking = HybridRanking(
        found.rows[best],
        scores[best],
        legs.exact and (complete or settings.dense_alone or not any(plan.boosts)),
        complete,
        found.dense[best],
        found.lexical[best],
        None if refined is None else refined[best],
    )
    return reranked(ranking, settings.rerank, matching) if settings.rerank and matching is not None else ranking


def reranked(ranking: HybridRanking, first: int, matching: Match) -> HybridRanking:
    """The first ranks in the matching head's order; a rank keeps its score, whichever product takes it."""
    count = min(first, len(ranking.rows))
    said = matching(ranking.rows[:count]).astype(np.float64)
    moved = np.concatenate([np.argsort(-said, kind="stable"), np.arange(count, len(ranking.rows))])
    matched = np.full(len(moved), np.nan)
    matched[:count] = said
    scores = ranking.scores.copy()
    # Pages go on by score and row: ranks with equal scores need different ones.
    for place in range(1, len(scores)):
        scores[place] = min(scores[place], np.nextafter(scores[place - 1], -np.inf))
    return replace(
        ranking,
        rows=ranking.rows[moved],
        scores=scores,
        dense=ranking.dense[moved],
        lexical=ranking.lexical[moved],
        refined=None if ranking.refined is None else ranking.refined[moved],
        match=matched[moved],
    )


def hits(page: Page, ranking: HybridRanking, identifiers: Callable[[list[int]], Sequence[str]]) -> list[HybridHit]:
    """A page's results with what each leg said.

    Args:
      page: cut from the ranking.
      ranking: what the legs said.
      identifiers: gives the product ids of rows.
    """
    ids = identifiers([entry.row for entry in page.entries])
    return [
        HybridHit(product, entry.rank, entry.score, ranking.legs(entry.row), entry.variants, entry.pinned, page.exact)
        for entry, product in zip(page.entries, ids, strict=True)
    ]
