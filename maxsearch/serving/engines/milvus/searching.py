"""One search of one collection: filter, legs and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from maxsearch.errors import UsageError
from maxsearch.serving.engines.milvus.client import milvus
from maxsearch.serving.engines.milvus.expressions import expression, one_of
from maxsearch.serving.engines.milvus.schema import ATTRIBUTES, PRODUCT_ID, ROW, SPARSE, TITLE, VECTOR, Facts
from maxsearch.serving.filters.columns import VARIANT
from maxsearch.serving.filters.cursors import decode_cursor
from maxsearch.serving.filters.pages import Paging, SegmentGroups, first_page, page
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.hybrid.fuse import RRF_K
from maxsearch.serving.hybrid.ranking import HybridSettings
from maxsearch.serving.shop.answer import Answer, Found, Wanted
from maxsearch.serving.shop.searching import digest

SHOWN = [PRODUCT_ID, ROW, TITLE, ATTRIBUTES, VARIANT]
REFUSED = ("facets", "collapse", "boosts", "pins", "refine", "rerank")


@dataclass(frozen=True)
class View:
    """What a search sees.

    Attributes:
      name: of the collection.
      facts: what it says of itself.
      products: how many it held when they were last counted.
    """

    name: str
    facts: Facts
    products: int


@dataclass(frozen=True)
class MilvusRanking:
    """The first products of a search, best first, equal scores by row; see `filters.pages.Ranked`.

    Attributes:
      leg: what the scores are of.
      hits: what is shown of each product, by row.
    """

    leg: str
    rows: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    exact: bool
    complete: bool
    hits: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Asker:
    """Puts searches to Milvus.

    Attributes:
      client: of `connect`.
      view: what is searched.
      consistency, timeout: see `MilvusOptions`.
    """

    client: Any
    view: View
    consistency: str
    timeout: float

    def answer(self, vector: Float32[np.ndarray, " D"], wanted: Wanted) -> Answer:
        """Answers a search.

        Raises:
          UsageError: a filter or cursor cannot be used, or this engine cannot do what is asked.
          UnavailableError: Milvus cannot be reached.
        """
        require_possible(wanted)
        facts = self.view.facts
        keep = parse_filter(wanted.filter, facts.kinds)
        conditions = [] if keep is None else [expression(keep, facts.fields)]
        if wanted.without:
            conditions.append(one_of(PRODUCT_ID, sorted(wanted.without), negated=True))
        where = " and ".join(conditions)
        request = digest(vector, wanted)
        start = first_page(facts.generation, request)
        if wanted.cursor is not None:
            start = decode_cursor(wanted.cursor, generation=facts.generation, request=request)
        words = self._words(wanted)

        def rank(depth: int) -> MilvusRanking:
            if words:
                return self._hybrid(vector, words, wanted, where)
            return self._dense(vector, depth, where)

        shown, ranking = page(rank, SegmentGroups((), ()), Paging(wanted.k), start)
        assert isinstance(ranking, MilvusRanking)
        hits = []
        for entry in shown.entries:
            assert entry.score is not None
            hit = ranking.hits[entry.row]
            hits.append(
                Found(
                    entry.rank,
                    hit[PRODUCT_ID],
                    hit[TITLE],
                    entry.score,
                    {ranking.leg: entry.score},
                    dict(hit[ATTRIBUTES]),
                    hit[VARIANT] or "",
                )
            )
        return Answer(
            hits=hits,
            generation=facts.generation,
            exact=shown.exact,
            scanned=self.view.products if ranking.exact and not where and not words else len(ranking.rows),
            total=None if where else self.view.products,
            cursor=None if shown.following is None else shown.following.encode(),
        )

    def _words(self, wanted: Wanted) -> str:
        """The query as the collection reads it, for a hybrid search; empty ranks by vectors alone."""
        if wanted.hybrid is None:
            return ""
        if self.view.facts.words is None:
            raise UsageError("hybrid: this index keeps no words: build it with `maxsearch index build --lexical`")
        if wanted.hybrid.dense + wanted.hybrid.lexical <= 0:
            raise UsageError("hybrid: the weights dense and lexical are both 0: give one of them a weight")
        [words] = self.view.facts.words.words.of([wanted.text])
        return " ".join(words)

    def _dense(self, vector: Float32[np.ndarray, " D"], depth: int, where: str) -> MilvusRanking:
        with milvus("search"):
            [found] = self.client.search(
                self.view.name,
                [vector.tolist()],
                filter=where,
                anns_field=VECTOR,
                limit=depth,
                output_fields=SHOWN,
                search_params=self.view.facts.search_params(depth),
                consistency_level=self.consistency,
                timeout=self.timeout,
            )
        return self._ranking("dense", found, complete=len(found) < depth)

    def _hybrid(self, vector: Float32[np.ndarray, " D"], words: str, wanted: Wanted, where: str) -> MilvusRanking:
        from pymilvus import AnnSearchRequest, RRFRanker, WeightedRanker

        assert wanted.hybrid is not None
        each = HybridSettings.candidates
        total = wanted.hybrid.dense + wanted.hybrid.lexical
        ranker = RRFRanker(RRF_K)
        if wanted.hybrid.method == "weights":
            ranker = WeightedRanker(wanted.hybrid.dense / total, wanted.hybrid.lexical / total)
        legs = [
            AnnSearchRequest([vector.tolist()], VECTOR, self.view.facts.search_params(each), each, expr=where or None),
            AnnSearchRequest([words], SPARSE, {"metric_type": "BM25", "params": {}}, each, expr=where or None),
        ]
        with milvus("search"):
            [found] = self.client.hybrid_search(
                self.view.name,
                legs,
                ranker,
                limit=2 * each,
                output_fields=SHOWN,
                consistency_level=self.consistency,
                timeout=self.timeout,
            )
        return self._ranking("fused", found, complete=True)

    def _ranking(self, leg: str, found: Sequence[Mapping[str, Any]], *, complete: bool) -> MilvusRanking:
        rows = np.array([hit["entity"][ROW] for hit in found], np.int64)
        scores = np.array([hit["distance"] for hit in found], np.float64)
        order = np.lexsort((rows, -scores))
        hits = {int(row): hit["entity"] for row, hit in zip(rows, found, strict=True)}
        return MilvusRanking(leg, rows[order], scores[order], self.view.facts.exact, complete, hits)


def require_possible(wanted: Wanted) -> None:
    """Refuses what Milvus is not asked for.

    Raises:
      UsageError: it is wanted.
    """
    asked = [name for name in REFUSED if getattr(wanted, name)]
    if asked:
        raise UsageError(
            f"{asked[0]}: the Milvus engine cannot do this: leave it out, or ask a service that serves a store"
        )
