"""Filtered searches against brute force: the planner, boosts, and segments."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.serving.filters.boosts import FieldBoost, FilterBoost, parse_boosts
from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.filters.costs import Costs, in_order, measure, trusted_depth
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.filters.planner import Plan, own_scores
from maxsearch.serving.filters.segments import Segment, locate
from maxsearch.serving.filters.tree import In, Range
from maxsearch.serving.filters.vector_table import ArrayVectors
from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import items_table
from maxsearch.serving.nearest import ExactNearest, Rows, Scores
from tests.filter_fakes import (
    CHEAP_FETCH,
    CHEAP_SCAN,
    SCHEMA,
    Forgetful,
    attributes,
    columns,
    filters,
    segment,
    truth,
    vectors,
)
from tests.serving_fakes import unit

needs_scann = pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info >= (3, 14), reason="ScaNN has no wheel here"
)
DIM = 16
ROWS = attributes(300, seed=1)
DATA = vectors(300, DIM, seed=1)
DATA[40:60] = DATA[40]  # equal scores
BASE = segment(ROWS, DATA, alive=np.arange(300) % 7 != 3)
LATE_ROWS, LATE = attributes(20, seed=2), np.concatenate([vectors(19, DIM, seed=2), DATA[40:41]])
DELTA = segment(LATE_ROWS, LATE, key="delta", alive=np.arange(20) % 5 != 0)
QUERIES = np.concatenate([vectors(8, DIM, seed=3), DATA[40:41]])


def brute_force(value: Any, query: np.ndarray, k: int, bonus: dict[int, float] | None = None) -> list[int]:
    """The k best living rows of base and delta that the filter keeps."""
    node = parse_filter(value, SCHEMA)
    alive = np.concatenate([BASE.alive, DELTA.alive])  # type: ignore[list-item]
    scores = own_scores(ArrayVectors(np.concatenate([DATA, LATE])), np.arange(320), query)
    kept = [
        row
        for row, cells in enumerate([*ROWS, *LATE_ROWS])
        if alive[row] and (node is None or truth(node, cells) is True)
    ]
    return sorted(kept, key=lambda row: (-(scores[row] + (bonus or {}).get(row, 0.0)), row))[:k]


@given(st.one_of(st.none(), filters()), st.integers(0, 8), st.integers(1, 40), st.sampled_from([None, CHEAP_FETCH]))
@settings(max_examples=100, deadline=None)
def test_an_exact_answer_is_what_brute_force_finds(value: Any, query: int, k: int, costs: Costs | None) -> None:
    plan = Plan.make(
        [replace(BASE, costs=costs), DELTA], QUERIES[query], cache=MaskCache(), keep=parse_filter(value, SCHEMA)
    )
    found = plan.ranking(k)
    assert found.exact
    assert found.rows.tolist() == brute_force(value, QUERIES[query], k)
    assert found.complete == (len(found.rows) == plan.count)
    np.testing.assert_array_equal(found.scores, found.dense)
    np.testing.assert_array_equal(plan.dense(found.rows), found.dense)
    assert all(plan.kept(row) for row in found.rows.tolist())
    assert found.scanned + found.fetched > 0 or plan.count == 0


def test_a_scores_bits_do_not_depend_on_what_it_is_computed_with() -> None:
    data, query = vectors(500, 256, seed=0), vectors(1, 256, seed=1)[0]
    table = ArrayVectors(data)
    whole = own_scores(table, np.arange(500), query)
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 7, 50, 499):
        rows = rng.permutation(500)[:size]
        np.testing.assert_array_equal(own_scores(table, rows, query), whole[rows])


def test_over_fetching_asks_for_more_until_enough_are_left_and_then_scans() -> None:
    """The filter keeps four of what is nearest to the query, and what is farthest."""
    data, query = vectors(8000, DIM, seed=5), vectors(1, DIM, seed=6)[0]
    far = np.argsort(data @ query)
    best = [far[-1], far[-2], far[-4], far[-5], *far[199:193:-1]]
    cells = [{"stock": "0"} for _ in range(8000)]
    for row in {*best, *far[:200]}:
        cells[row]["stock"] = "1"
    nearest = Forgetful(data)
    base = Segment("g", columns(cells), ArrayVectors(data), nearest, exact=False, costs=CHEAP_FETCH)
    keep, cache = In("stock", (1,)), MaskCache()
    found = Plan.make([base], query, cache=cache, keep=keep).ranking(10)
    assert nearest.asked == [641, 2617]
    assert found.fetched == 641 + 2617
    assert found.scanned == 204
    assert found.exact
    assert found.rows.tolist() == best

    nearest.asked.clear()
    scanning = replace(base, costs=CHEAP_SCAN)
    assert Plan.make([scanning], query, cache=cache, keep=keep).ranking(10).rows.tolist() == found.rows.tolist()
    assert nearest.asked == []

    near = Plan.make([base], query, cache=cache, keep=In("stock", (0,))).ranking(10)
    assert not near.exact
    assert near.scanned == 0
    assert len(near.rows) == 10
    assert not near.complete


@given(filters(), filters(), st.integers(0, 8), st.integers(1, 12), st.booleans())
@settings(max_examples=50, deadline=None)
def test_boosts_reorder_the_whole_selection(keep: Any, when: Any, query: int, k: int, fetch: bool) -> None:
    node = parse_filter(when, SCHEMA)
    assert node is not None
    boosts = [FilterBoost(node, add=0.25), FieldBoost("price", 0.0, 10.0, 0.5)]
    bonus = {}
    for row, cells in enumerate([*ROWS, *LATE_ROWS]):
        try:
            price = float(cells.get("price", ""))
        except ValueError:
            price = 0.0
        bonus[row] = 0.25 * (truth(node, cells) is True) + 0.5 * min(max(price / 10, 0), 1)
    plan = Plan.make(
        [replace(BASE, costs=CHEAP_FETCH if fetch else None), DELTA],
        QUERIES[query],
        cache=MaskCache(),
        keep=parse_filter(keep, SCHEMA),
        boosts=boosts,
    )
    found = plan.ranking(k)
    assert found.exact
    wanted = brute_force(keep, QUERIES[query], k, bonus)
    expected = [plan.dense(np.array([row]))[0] + bonus[row] for row in wanted]
    np.testing.assert_allclose(found.scores, expected, atol=1e-12)
    np.testing.assert_allclose(found.scores - found.dense, [bonus[row] for row in found.rows.tolist()], atol=1e-12)


def test_factors_raise_above_one_and_lower_below_whatever_the_sign() -> None:
    query = QUERIES[0]
    plain = Plan.make([BASE], query, cache=MaskCache()).ranking(300)
    own = dict(zip(plain.rows.tolist(), plain.scores.tolist(), strict=True))
    red = In("colour", ("red",))
    for factor in (0.5, 3.0):
        boosted = Plan.make([BASE], query, cache=MaskCache(), boosts=[FilterBoost(red, factor)]).ranking(300)
        for row, score in zip(boosted.rows.tolist(), boosted.scores.tolist(), strict=True):
            expected = own[row]
            if ROWS[row].get("colour") == "red":
                expected = own[row] * factor if own[row] >= 0 else own[row] / factor
                assert (score > own[row]) == (factor > 1)
            assert score == pytest.approx(expected)


def test_boosts_are_read_or_refused_with_their_place() -> None:
    kinds: dict[str, Kind] = SCHEMA
    value = [
        {"filter": {"eq": {"field": "colour", "value": "red"}}, "factor": 2},
        {"field": "since", "low": "1970-01-01", "high": "1970-01-11", "weight": 0.1},
    ]
    assert parse_boosts(value, kinds) == (
        FilterBoost(In("colour", ("red",)), 2.0, 0.0),
        FieldBoost("since", 0.0, 10.0, 0.1),
    )
    assert parse_boosts(None, kinds) == ()
    for wrong, expected in (
        ({}, "boosts: expected a list of at most 20 boosts"),
        ([3], r"boosts\[0\]: expected an object with filter and factor or add, or one with field"),
        ([{"filter": None}], r"boosts\[0\]\.filter: a boost of every product changes nothing"),
        ([{"filter": {"eq": {"field": "color", "value": "x"}}}], r"boosts\[0\]\.filter\.eq\.field: .* mean 'colour'"),
        ([{**value[0], "factor": 0}], r"boosts\[0\]\.factor: expected a number from 0.01 to 100"),
        ([{**value[0], "add": float("nan")}], r"boosts\[0\]\.add: expected a number from -100 to 100"),
        ([{**value[1], "high": "1970-01-01"}], r"boosts\[0\]: low must be below high"),
        ([{**value[1], "low": 3}], r"boosts\[0\]\.low: expected a date as"),
        ([{**value[1], "field": "colour"}], r"boosts\[0\]\.field: needs a number or a date and colour is of type str"),
    ):
        with pytest.raises(UsageError, match=expected):
            parse_boosts(wrong, kinds)


def test_rows_are_numbered_over_the_segments() -> None:
    empty = segment([], np.zeros((0, DIM), np.float32), key="empty")
    assert locate([BASE, empty, DELTA], np.array([0, 299, 300, 319])).tolist() == [[0, 0], [0, 299], [2, 0], [2, 19]]
    found = Plan.make([empty, DELTA, empty], QUERIES[0], cache=MaskCache()).ranking(100)
    assert sorted(found.rows.tolist()) == np.flatnonzero(DELTA.alive).tolist()  # type: ignore[arg-type]
    nothing = Plan.make([empty], QUERIES[0], cache=MaskCache()).ranking(3)
    assert (len(nothing.rows), nothing.exact, nothing.complete) == (0, True, True)


def test_costs_are_measured_and_say_what_is_cheaper() -> None:
    data = vectors(3000, DIM, seed=0)
    costs = measure(ArrayVectors(data), ExactNearest(data), data[:3], repeats=1)
    assert min(costs.scan, costs.scan_row, costs.block_row, costs.fetch, costs.fetch_row) >= 0
    assert costs.block_row > 0
    assert costs.scan_row + costs.scan > 0
    assert costs.fetching(100) > 0
    assert costs.depth == 3000
    assert not in_order(600, 3000)
    assert in_order(601, 3000)
    line = Costs(scan=10.0, scan_row=2.0, block_row=1.0, fetch=5.0, fetch_row=3.0, depth=100)
    assert (line.scanning(100, 3000), line.scanning(2000, 3000), line.fetching(4)) == (210, 3010, 17)


class Shallow:
    """Finds the first 500 and nothing else."""

    def __init__(self, data: np.ndarray) -> None:
        self._exact = ExactNearest(data)

    def search(self, queries: np.ndarray, k: int) -> tuple[Rows, Scores]:
        rows, scores = self._exact.search(queries, k)
        rows[:, 500:], scores[:, 500:] = -1, -np.inf
        return rows, scores


def test_an_index_is_not_asked_deeper_than_it_can_be_trusted() -> None:
    data = vectors(8000, DIM, seed=0)
    table = ArrayVectors(data)
    assert trusted_depth(table, ExactNearest(data), data[:5]) == 8000
    assert trusted_depth(table, Shallow(data), data[:5]) == 400
    assert trusted_depth(table, Forgetful(data), data[:5]) == 8000  # no worse than for the first hundred
    assert trusted_depth(ArrayVectors(data[:50]), ExactNearest(data[:50]), data[:5]) == 50
    base = Segment("g", columns([{"stock": str(i % 50)} for i in range(8000)]), table, Shallow(data), exact=False)
    keep = In("stock", (1,))
    for depth, exact in ((300, True), (400, False)):  # 324 would be asked for
        costs = replace(CHEAP_FETCH, depth=depth)
        plan = Plan.make([replace(base, costs=costs)], data[7], cache=MaskCache(), keep=keep)
        assert plan.ranking(3).exact is exact
    plain = Plan.make([replace(base, costs=replace(CHEAP_FETCH, depth=100))], data[7], cache=MaskCache())
    assert (plain.ranking(200).fetched, plain.ranking(200).scanned) == (229, 0)  # no filter, no limit


@needs_scann
def test_recall_is_kept_at_every_selectivity(tmp_path: Any) -> None:
    """20,000 clustered vectors in a ScaNN index; filters on a random number, and on one that follows the clusters."""
    count, dim, k = 20_000, 32, 10
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, dim))
    cluster = rng.integers(200, size=count)
    data = unit(centres[cluster] + 0.7 * rng.normal(size=(count, dim)))
    queries = unit(centres[rng.integers(200, size=40)] + 0.7 * rng.normal(size=(40, dim)))
    np.save(tmp_path / "vectors.npy", data)
    (tmp_path / "index").mkdir()
    items = items_table(Product(str(row), "") for row in range(count))
    options = IndexOptions("scann", lexical=False)
    write_index(tmp_path / "index", [items], tmp_path / "vectors.npy", data[:100], "f" * 64, options)
    scann = open_index(tmp_path / "index", checksums=False).nearest
    cells = [
        {"price": str(price), "stock": str(of)}
        for price, of in zip(rng.permutation(count).tolist(), cluster.tolist(), strict=True)
    ]
    typed: Columns = columns(cells)
    table, cache, ways = ArrayVectors(data), MaskCache(), set()
    for costs in (measure(table, scann, data[:20]), CHEAP_FETCH):
        base = Segment("g", typed, table, scann, exact=False, costs=costs)
        for share in (0.5, 0.1, 0.01, 0.001, 0.0001):
            for keep in (Range("price", None, share * count - 1.0), Range("stock", None, int(200 * share))):
                hits = 0
                for query in queries:
                    plan = Plan.make([base], query, cache=cache, keep=keep)
                    found = plan.ranking(k)
                    rows = plan.selections[0].rows
                    scores = own_scores(table, rows, query)
                    best = rows[np.lexsort((rows, -scores))[:k]]
                    assert len(found.rows) == len(best) == min(k, plan.count)
                    assert plan.selections[0].mask[found.rows].all()
                    if found.exact:
                        np.testing.assert_array_equal(found.rows, best)
                    hits += len(set(found.rows.tolist()) & set(best.tolist()))
                    ways.add("scan" if found.exact else "fetch")
                assert hits >= 0.95 * len(queries) * len(best), (share, keep, costs)
    assert ways == {"scan", "fetch"}
