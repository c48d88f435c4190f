"""Pages of filtered results: stable cursors, collapsed variants, pins; and facet counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.errors import UsageError
from maxsearch.serving.filters.cursors import Cursor, decode_cursor, request_digest
from maxsearch.serving.filters.facets import Facet, FacetCounts, count_facets, parse_facets
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.pages import Entry, Page, Paging, Pin, SegmentGroups, first_page, page, parse_pins
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.filters.planner import Plan, Ranking
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.tree import In, without_field
from tests.filter_fakes import CHEAP_FETCH, SCHEMA, Forgetful, attributes, filters, read, segment, truth, vectors

DIM, COUNT, LATE = 8, 120, 20
ROWS = attributes(COUNT + LATE, seed=4)
GROUPS = [f"g{i % 40}" if i % 3 else "" for i in range(COUNT + LATE)]
DATA = vectors(COUNT + LATE, DIM, seed=4)
DATA[10:14] = DATA[10]
BASE = segment(ROWS[:COUNT], DATA[:COUNT], variants=GROUPS[:COUNT], alive=np.arange(COUNT) % 9 != 0)
DELTA = segment(ROWS[COUNT:], DATA[COUNT:], key="delta", variants=GROUPS[COUNT:])
QUERIES = vectors(4, DIM, seed=5)


def plan_of(query: int, value: Any = None, base: Segment = BASE) -> Plan:
    return Plan.make([base, DELTA], QUERIES[query], cache=MaskCache(), keep=parse_filter(value, SCHEMA))


def all_pages(plan: Plan, paging: Paging) -> list[Page]:
    """Every page, each cursor written and read again."""
    start, pages = first_page("gen-1", "r"), []
    while True:
        found, _ = page(plan.ranking, SegmentGroups(plan.segments, plan.selections), paging, start)
        again, _ = page(plan.ranking, SegmentGroups(plan.segments, plan.selections), paging, start)
        assert found == again
        pages.append(found)
        if found.following is None:
            return pages
        start = decode_cursor(found.following.encode(), generation="gen-1", request="r")
        assert start == found.following


def expected_entries(plan: Plan, paging: Paging) -> list[tuple[int, int, bool]]:
    """(row, variants, pinned) of all results, by the plain rules."""
    ranked = plan.ranking(10_000).rows.tolist()
    pinned = [pin.row for pin in paging.pins]
    seen = {GROUPS[row] for row in pinned if GROUPS[row]}
    natural = []
    for row in ranked:
        if row in pinned or (paging.collapse and GROUPS[row] in seen):
            continue
        natural.append(row)
        if GROUPS[row]:
            seen.add(GROUPS[row])
    order, pins = [], list(paging.pins)
    while natural or pins:
        if pins and (pins[0].rank <= len(order) + 1 or not natural):
            order.append((pins.pop(0).row, True))
        else:
            order.append((natural.pop(0), False))
    others = [
        sum(GROUPS[other] == GROUPS[row] for other in ranked) - 1 if paging.collapse and GROUPS[row] else 0
        for row, _ in order
    ]
    return [(row, more, pin) for (row, pin), more in zip(order, others, strict=True)]


@given(
    st.one_of(st.none(), filters()),
    st.integers(0, 3),
    st.integers(1, 30),
    st.integers(1, 50),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, COUNT + LATE - 1)), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_pages_hold_every_product_once_and_in_order(
    value: Any, query: int, size: int, depth: int, collapse: bool, wanted: list[tuple[int, int]]
) -> None:
    plan = plan_of(query, value)
    ranks, rows = {rank: row for rank, row in wanted if plan.kept(row)}, set()
    pins = tuple(Pin(rank, row) for rank, row in sorted(ranks.items()) if row not in rows and not rows.add(row))  # type: ignore[func-returns-value]
    paging = Paging(size, depth=depth, collapse=collapse, pins=pins)
    pages = all_pages(plan, paging)
    entries = [entry for one in pages for entry in one.entries]
    assert [(entry.row, entry.variants, entry.pinned) for entry in entries] == expected_entries(plan, paging)
    assert [entry.rank for entry in entries] == list(range(1, len(entries) + 1))
    assert all(len(one.entries) == size for one in pages[:-1])
    assert all(one.exact and not one.cut for one in pages)


@pytest.mark.parametrize("collapse", [False, True])
def test_pages_of_an_approximate_index_never_repeat_a_product(collapse: bool) -> None:
    base = replace(BASE, nearest=Forgetful(DATA[:COUNT]), exact=False, costs=CHEAP_FETCH)
    for query in range(4):
        plan = plan_of(query, {"not": {"eq": {"field": "colour", "value": "red"}}}, base)
        for depth in (4, 16, 64):
            pages = all_pages(plan, Paging(5, depth=depth, collapse=collapse))
            rows = [entry.row for one in pages for entry in one.entries]
            assert len(set(rows)) == len(rows)
            scores = [entry.score for one in pages for entry in one.entries]
            assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
            assert pages[0].exact == (depth == 64)  # so many are most that the filter keeps: they are scanned
            # The pages that lie within the depth are cut from one ranking, so nothing that it holds is left out.
            first = plan.ranking(max(depth, 6)).rows.tolist()
            whole = (len(first) - 1) // 5 * 5
            assert collapse or rows[:whole] == first[:whole]


def test_what_is_written_between_two_pages_moves_no_other_product() -> None:
    plan = plan_of(0)
    whole = [entry.row for one in all_pages(plan, Paging(7)) for entry in one.entries]
    first, _ = page(plan.ranking, SegmentGroups(plan.segments, plan.selections), Paging(7), first_page("g", "r"))
    assert first.following is not None
    # Two of the first page are deleted, and three that would have been first are added behind the others.
    gone = [entry.row for entry in first.entries[:2]]
    alive = np.ones(COUNT, bool) if BASE.alive is None else BASE.alive.copy()
    alive[[row for row in gone if row < COUNT]] = False
    best = np.repeat(QUERIES[:1], 3, axis=0)
    late = segment(
        [*ROWS[COUNT:], {}, {}, {}],
        np.concatenate([DATA[COUNT:], best]),
        key="delta 2",
        alive=np.array([COUNT + i not in gone for i in range(LATE)] + [True] * 3),
    )
    later = Plan.make([replace(BASE, alive=alive), late], QUERIES[0], cache=MaskCache())
    rest, start = [], first.following
    while start is not None:
        found, _ = page(later.ranking, SegmentGroups(later.segments, later.selections), Paging(7), start)
        rest += [entry.row for entry in found.entries]
        start = found.following
    assert rest == whole[7:]


def test_pages_end_at_the_deepest_row() -> None:
    pages = all_pages(plan_of(0), Paging(20, depth=10, deepest=50))
    assert [len(one.entries) for one in pages] == [20, 20, 10]
    assert [one.cut for one in pages] == [False, False, True]
    assert not all_pages(plan_of(0, {"exists": {"field": "tags"}}), Paging(1000, deepest=1000))[-1].cut


def test_a_pinned_product_keeps_its_score_where_the_ranking_holds_it() -> None:
    plan = plan_of(1)
    ranking: Ranking = plan.ranking(1000)
    last = int(ranking.rows[-1])
    pages = all_pages(plan, Paging(3, depth=5, pins=(Pin(2, last),)))
    assert pages[0].entries[1] == Entry(2, last, None, 0, True)
    assert all_pages(plan, Paging(3, depth=200, pins=(Pin(2, last),)))[0].entries[1].score == ranking.scores[-1]


def test_pins_are_read_or_refused_with_their_place() -> None:
    plan = plan_of(0, {"eq": {"field": "colour", "value": "red"}})
    red = next(row for row in range(1, COUNT) if plan.kept(row))
    other = next(row for row in range(COUNT) if not plan.kept(row))
    rows = {"a": red, "b": other}
    value = [{"rank": 3, "product_id": "gone"}, {"rank": 2, "product_id": "a"}, {"rank": 1, "product_id": "b"}]
    assert parse_pins(value, rows.get, plan.kept) == (Pin(2, red),)
    assert parse_pins(None, rows.get, plan.kept) == ()
    for wrong, expected in (
        ({}, "pins: expected a list of at most 100 pins"),
        (["a"], r"pins\[0\]: expected an object with rank and product_id"),
        ([{"rank": 1, "product_id": 7}], r"pins\[0\]: expected an object with rank and product_id"),
        ([{"rank": 0, "product_id": "a"}], r"pins\[0\]\.rank: expected a whole number from 1 to 10000"),
        ([{"rank": True, "product_id": "a"}], r"pins\[0\]\.rank: expected a whole number"),
        ([*value, {"rank": 2, "product_id": "c"}], r"pins\[3\]: its rank or its product is pinned twice"),
        ([*value, {"rank": 4, "product_id": "a"}], r"pins\[3\]: its rank or its product is pinned twice"),
    ):
        with pytest.raises(UsageError, match=expected):
            parse_pins(wrong, rows.get, plan.kept)


def test_a_cursor_is_refused_when_it_is_broken_or_belongs_elsewhere() -> None:
    cursor = Cursor("2024-01", request_digest({"q": "shoes", "k": 3}), 100, 10, 1, 0.123456789, 77)
    digest = request_digest({"k": 3, "q": "shoes"})
    token = cursor.encode()
    assert decode_cursor(token, generation="2024-01", request=digest) == cursor
    with pytest.raises(
        UsageError, match=r"^cursor: it belongs to index generation '2024-01', which is gone \(now '2024-02'\): ask"
    ):
        decode_cursor(token, generation="2024-02", request=digest)
    with pytest.raises(UsageError, match="cursor: it belongs to another query, filter or option: send that one again"):
        decode_cursor(token, generation="2024-01", request=request_digest({"q": "shirts", "k": 3}))
    broken = [
        "", "?", "ü", "a" * 401, token[:-4], "e30", replace(cursor, depth=-1).encode(),
        replace(cursor, score=None).encode(), replace(cursor, row=2**70).encode(), replace(cursor, pins=2**40).encode(),
    ]  # fmt: skip
    for wrong in broken:
        with pytest.raises(
            UsageError, match="cursor: this is no cursor that a search returned: ask for the first page"
        ):
            decode_cursor(wrong, generation="2024-01", request=digest)


@given(st.text(max_size=60))
def test_any_text_as_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        decode_cursor(text, generation="g", request="r")


FACETS = [
    Facet("colour", limit=2),
    Facet("tags"),
    Facet("in_stock"),
    Facet("category"),
    Facet("category", under=("A",)),
    Facet("stock"),
    Facet("price", edges=(-10.0, 0.0, 10.0)),
    Facet("since"),
]


@given(st.one_of(st.none(), filters()))
@settings(max_examples=50, deadline=None)
def test_facets_count_what_the_rest_of_the_filter_keeps(value: Any) -> None:
    node = parse_filter(value, SCHEMA)
    alive = [*BASE.alive.tolist(), *[True] * LATE]  # type: ignore[union-attr]
    found = count_facets(FACETS, [BASE, DELTA], node, MaskCache())
    for facet, counts in zip(FACETS, found, strict=True):
        rest = without_field(node, facet.field)
        values = [
            read(row, facet.field)
            for row, living in zip(ROWS, alive, strict=True)
            if living and (rest is None or truth(rest, row) is True)
        ]
        assert counts.missing == values.count(None)
        shown: list[Any] = []
        for one in values:
            if isinstance(one, tuple):
                shown += set(one)
            elif facet.field == "category" and one is not None:
                path = one.split(" > ")
                if len(path) > len(facet.under) and path[: len(facet.under)] == list(facet.under):
                    shown.append(" > ".join(path[: len(facet.under) + 1]))
            elif facet.field == "since" and one is not None:
                shown.append({19723: "2024-01-01", 19782: "2024-02-29", -1: "1969-12-31"}[one])
            elif one is not None:
                shown.append(one)
        if facet.edges:
            spans = [(-10.0, 0.0), (0.0, 10.0)]
            assert counts.counts == tuple((span, sum(span[0] <= x < span[1] for x in shown)) for span in spans)
            continue
        ranked = sorted(((shown.count(x), x) for x in set(shown)), key=lambda pair: (-pair[0], str(pair[1])))
        if facet.field != "stock":
            assert counts.counts == tuple((x, n) for n, x in ranked[: facet.limit])
        assert dict(counts.counts).items() <= {x: n for n, x in ranked}.items()
        assert counts.others == max(len(ranked) - facet.limit, 0)


def test_a_chosen_value_still_shows_the_others() -> None:
    [colours] = count_facets([Facet("colour")], [BASE, DELTA], In("colour", ("red",)), MaskCache())
    [without] = count_facets([Facet("colour")], [BASE, DELTA], None, MaskCache())
    assert colours == without
    assert isinstance(colours, FacetCounts)
    assert len(colours.counts) > 1


def test_facets_are_read_or_refused_with_their_place() -> None:
    value = [
        "colour",
        {"field": "category", "under": "A>B", "limit": 3},
        {"field": "since", "edges": ["1970-01-02", "1970-01-05"]},
    ]
    assert parse_facets(value, SCHEMA) == (
        Facet("colour"),
        Facet("category", 3, ("A", "B")),
        Facet("since", edges=(1, 4)),
    )
    for wrong, expected in (
        ("colour", "facets: expected a list of at most 20 facets"),
        ([3], r"facets\[0\]: expected the name of an attribute, or an object"),
        ([{"field": "colour", "top": 1}], r"facets\[0\]: expected the name of an attribute, or an object"),
        (["colours"], r"facets\[0\]\.field: no attribute is called 'colours': did you mean 'colour'"),
        ([{"field": "colour", "limit": 0}], r"facets\[0\]\.limit: expected a whole number from 1 to 1000"),
        ([{"field": "colour", "under": "A"}], r"facets\[0\]\.under: expected a path, of an attribute of type path"),
        (["price"], r"facets\[0\]: price is of type float, whose values rarely repeat: give edges"),
        ([{"field": "price", "edges": [1]}], r"facets\[0\]\.edges: expected a list of 2 to 100 values"),
        ([{"field": "price", "edges": [2, 1]}], r"facets\[0\]\.edges: expected ascending values"),
        ([{"field": "price", "edges": [1, "x"]}], r"facets\[0\]\.edges\[1\]: expected a number"),
    ):
        with pytest.raises(UsageError, match=expected):
            parse_facets(wrong, SCHEMA)
