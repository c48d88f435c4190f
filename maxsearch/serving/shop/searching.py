"""One search of one view: filter, legs, page, facets, and what is told of each product."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.evaluation.rerank import PairEncoder
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.filters.boosts import parse_boosts
from maxsearch.serving.filters.cursors import decode_cursor, request_digest
from maxsearch.serving.filters.facets import FacetCounts, count_facets, parse_facets
from maxsearch.serving.filters.masks import MaskCache, Selection
from maxsearch.serving.filters.pages import Entry, Page, Paging, Pin, SegmentGroups, first_page, page, parse_pins
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.filters.planner import Plan, Ranking
from maxsearch.serving.filters.segments import locate
from maxsearch.serving.hybrid.match import Match, matching
from maxsearch.serving.hybrid.ranking import Fusion, HybridPlan, HybridRanking, HybridSettings
from maxsearch.serving.hybrid.refine import RefineSettings
from maxsearch.serving.items import Item
from maxsearch.serving.shop.answer import Answer, Found, Wanted
from maxsearch.serving.shop.view import View

FUSIONS = {"rrf": Fusion.RRF, "weights": Fusion.WEIGHTED}


def answer(
    view: View, vector: Float32[np.ndarray, " D"], wanted: Wanted, cache: MaskCache, model: EmbeddingModel
) -> Answer:
    """Answers a search from a view.

    Args:
      view: what is searched.
      vector: the query's.
      wanted: what else is asked.
      cache: where masks are remembered.
      model: for re-ranking.

    Raises:
      UsageError: a filter, facet, boost or cursor cannot be used, or the index or model cannot do what is asked.
    """
    keep = parse_filter(wanted.filter, view.kinds)
    boosts = parse_boosts(list(wanted.boosts) or None, view.kinds)
    facets = parse_facets(list(wanted.facets) or None, view.kinds)
    plan = Plan.make(view.segments, vector, cache=cache, keep=keep, boosts=boosts)
    plan = without(plan, view, wanted.without)
    request = digest(vector, wanted)
    name = view.generation.name
    start = first_page(name, request)
    if wanted.cursor is not None:
        start = decode_cursor(wanted.cursor, generation=name, request=request)
    paging = Paging(wanted.k, collapse=wanted.collapse, pins=pins_of(wanted, view.snapshot.row, plan.kept))
    hybrid = hybrid_plan(plan, view, wanted, model)
    rank = plan.ranking if hybrid is None else hybrid.ranking
    shown, ranking = page(rank, SegmentGroups(plan.segments, plan.selections), paging, start)
    assert isinstance(ranking, Ranking | HybridRanking)
    items = view.snapshot.take([entry.row for entry in shown.entries])
    return Answer(
        hits=found(shown, ranking, items, view.snapshot.pictured),
        generation=name,
        exact=shown.exact,
        scanned=ranking.scanned + ranking.fetched if isinstance(ranking, Ranking) else len(ranking.rows),
        total=plan.count,
        facets={one.field: counted(one) for one in count_facets(facets, view.segments, keep, cache)},
        cursor=None if shown.following is None else shown.following.encode(),
    )


def pins_of(wanted: Wanted, find: Callable[[str], int | None], kept: Callable[[int], bool]) -> tuple[Pin, ...]:
    """The pins that are asked for; see `parse_pins`."""
    pins = [{"product_id": product_id, "rank": rank} for product_id, rank in wanted.pins.items()]
    return parse_pins(pins or None, find, kept)


def digest(vector: Float32[np.ndarray, " D"], wanted: Wanted) -> str:
    """What a cursor belongs to: all of a request but the size of its page."""
    fields = asdict(replace(wanted, k=0, cursor=None, without=frozenset()))
    fields["without"] = sorted(wanted.without)
    fields["vector"] = hashlib.sha256(vector.tobytes()).hexdigest()
    return request_digest(fields)


def without(plan: Plan, view: View, product_ids: frozenset[str]) -> Plan:
    """The plan without some products."""
    rows = [row for row in map(view.snapshot.row, sorted(product_ids)) if row is not None]
    if not rows:
        return plan
    masks = [selection.mask.copy() for selection in plan.selections]
    for segment, row in locate(plan.segments, np.array(rows, np.int64)).tolist():
        masks[segment][row] = False
    return replace(plan, selections=tuple(Selection(mask) for mask in masks))


def hybrid_plan(plan: Plan, view: View, wanted: Wanted, model: EmbeddingModel) -> HybridPlan | None:
    """The hybrid search that is asked for; None ranks by vectors alone.

    Raises:
      UsageError: the index has no words, or the model no matching head.
    """
    if wanted.hybrid is None and not wanted.refine and not wanted.rerank:
        return None
    settings = hybrid_settings(wanted, lexical=bool(view.legs))
    match = matcher(wanted, model, view.products) if wanted.rerank else None
    return HybridPlan(plan, view.legs, view.words(wanted.text), settings, match)


def hybrid_settings(wanted: Wanted, *, lexical: bool) -> HybridSettings:
    """The settings of the hybrid search that is asked for.

    Raises:
      UsageError: the index has no words, or no leg has a weight.
    """
    if not lexical:
        raise UsageError("hybrid: this index keeps no words: build it with `maxsearch index build --lexical`")
    settings = HybridSettings(rerank=wanted.rerank, refine=RefineSettings() if wanted.refine else None)
    if wanted.hybrid is not None:
        total = wanted.hybrid.dense + wanted.hybrid.lexical
        if total <= 0:
            raise UsageError("hybrid: the weights dense and lexical are both 0: give one of them a weight")
        settings = replace(settings, fusion=FUSIONS[wanted.hybrid.method], weight=wanted.hybrid.dense / total)
    return settings


def matcher(wanted: Wanted, model: EmbeddingModel, products: Callable[[list[int]], Sequence[Product]]) -> Match:
    """The matching head, asked about the products of rows.

    Raises:
      UsageError: the model has none.
    """
    if not isinstance(model, PairEncoder) or not model.matches:
        raise UsageError("rerank: this model has no matching head: train one with --loss.matching above 0")
    return matching(model, wanted.text, products)


def found(
    shown: Page, ranking: Ranking | HybridRanking, items: Sequence[Item], pictured: Callable[[int], bool]
) -> list[Found]:
    """The products of a page.

    Args:
      shown: the page.
      ranking: what it was cut from.
      items: its products.
      pictured: whether the product at a row has a picture.
    """
    dense = {} if isinstance(ranking, HybridRanking) else dict(zip(ranking.rows.tolist(), ranking.dense, strict=True))

    def legs(row: int) -> dict[str, float]:
        if isinstance(ranking, HybridRanking):
            said: dict[str, Any] = asdict(ranking.legs(row))
            return {name: value for name, value in said.items() if value is not None}
        return {"dense": float(dense[row])} if row in dense else {}

    def one(entry: Entry, item: Item) -> Found:
        return Found(
            entry.rank,
            item.product_id,
            item.title,
            0.0 if entry.score is None else float(entry.score),
            legs(entry.row),
            item.attributes,
            item.variant,
            entry.variants,
            pictured(entry.row),
        )

    return [one(entry, item) for entry, item in zip(shown.entries, items, strict=True)]


def counted(one: FacetCounts) -> list[dict[str, Any]]:
    """The counts of a facet as JSON values."""
    return [
        {"value": list(value) if isinstance(value, tuple) else value, "count": count} for value, count in one.counts
    ]
