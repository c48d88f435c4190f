"""Small catalogues with typed attributes, random filters over them, and the plain reading of what a filter means."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.filters.costs import Costs
from maxsearch.serving.filters.kinds import parse_schema, path_of, read_cell
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.tree import And, Exists, In, Node, Not, Or, Prefix, Range
from maxsearch.serving.filters.vector_table import ArrayVectors
from maxsearch.serving.nearest import ExactNearest, Rows, Scores
from tests.serving_fakes import unit

SCHEMA = parse_schema("colour:str,price:float,stock:int,in_stock:bool,category:path,tags:list,since:date,seen:time")
COLOURS = ["red", "blue", "navy", "weiß", ""]
PATHS = ["A", "A > B", "A > B > C", "A > Bx", "Z > B", "A B", ""]
CELLS: dict[str, list[str]] = {
    "colour": COLOURS,
    "price": ["0", "9.5", "10", "-3.25", "1e3", "free", ""],
    "stock": ["0", "1", "7", "-2", "many", ""],
    "in_stock": ["true", "false", "yes", "no", "perhaps", ""],
    "category": PATHS,
    "tags": ["new", "new|sale", "sale|eco|sale", "", "|"],
    "since": ["2024-01-01", "2024-02-29", "1969-12-31", "2023-02-29", ""],
    "seen": ["2024-01-01T10:00:00Z", "2024-01-01T11:00:00+02:00", "never", ""],
}


def attributes(count: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    return [{name: str(rng.choice(cells)) for name, cells in CELLS.items() if rng.random() < 0.8} for _ in range(count)]


def read(row: dict[str, str], name: str) -> Any:
    """The row's value as its column stores it; None where it has none or an unreadable one."""
    try:
        return read_cell(row.get(name, ""), SCHEMA[name])
    except ValueError:
        return None


def truth(node: Node, row: dict[str, str]) -> bool | None:
    """Kleene's logic over one product; None is unknown."""
    match node:
        case And(children):
            found = [truth(child, row) for child in children]
            return False if False in found else None if None in found else True
        case Or(children):
            found = [truth(child, row) for child in children]
            return True if True in found else None if None in found else False
        case Not(child):
            inner = truth(child, row)
            return None if inner is None else not inner
        case Exists(name):
            return read(row, name) is not None
    value = read(row, node.field)
    if value is None:
        return None
    match node:
        case In(_, values):
            return bool(set(value) & set(values)) if isinstance(value, tuple) else value in values
        case Range(_, low, high):
            return (low is None or value >= low) and (high is None or value <= high)
        case Prefix(_, path):
            return path_of(value)[: len(path)] == path


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    numbers = st.sampled_from([-3.25, -2, 0, 1, 7, 9.5, 10, 1000, 6.5])
    dates = st.sampled_from(["1969-12-31", "2024-01-01", "2024-02-29", "2030-01-01"])
    times = st.sampled_from(["2024-01-01T09:00:00Z", "2024-01-01T10:00:00Z"])
    low, high = st.sampled_from(["gt", "gte"]), st.sampled_from(["lt", "lte"])

    def span(field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        one = st.tuples(st.one_of(low, high), values).map(lambda x: {x[0]: x[1]})
        two = st.tuples(low, values, high, values).map(lambda x: {x[0]: x[1], x[2]: x[3]})
        return st.one_of(one, two).map(lambda bounds: {"range": {"field": field, **bounds}})

    def chosen(field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.lists(values, min_size=1, max_size=3).map(lambda x: {"in": {"field": field, "values": x}})

    return st.one_of(
        st.sampled_from(sorted(SCHEMA)).map(lambda x: {"exists": {"field": x}}),
        st.sampled_from(sorted(SCHEMA)).map(lambda x: {"missing": {"field": x}}),
        chosen("colour", st.sampled_from(["red", "blue", "weiß", "pink"])),
        chosen("tags", st.sampled_from(["new", "sale", "eco", "old"])),
        chosen("stock", st.sampled_from([0, 1, 7, 8])),
        chosen("price", st.sampled_from([0, 9.5, 10, 11])),
        st.booleans().map(lambda x: {"eq": {"field": "in_stock", "value": x}}),
        st.sampled_from(["A", "A > B", "A>B > C", "Z", "Q"]).map(
            lambda x: {"prefix": {"field": "category", "path": x}}
        ),
        st.sampled_from(["A > B", "Z"]).map(lambda x: {"eq": {"field": "category", "value": x}}),
        span("price", numbers),
        span("stock", numbers),
        span("since", dates),
        span("seen", times),
    )


def filters() -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        conditions(),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda x: {"and": x}),
            st.lists(inner, min_size=1, max_size=3).map(lambda x: {"or": x}),
            inner.map(lambda x: {"not": x}),
        ),
        max_leaves=6,
    )


CHEAP_FETCH = Costs(scan=1e6, scan_row=1e3, block_row=1e3, fetch=1.0, fetch_row=1e-3, depth=10**9)
CHEAP_SCAN = Costs(scan=0.0, scan_row=1e-3, block_row=1e-3, fetch=1e6, fetch_row=1.0, depth=10**9)


def columns(rows: list[dict[str, str]], variants: list[str] | None = None) -> Columns:
    return Columns.of_attributes(rows, variants or [""] * len(rows), SCHEMA)


def vectors(count: int, dim: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, dim)))


def segment(
    rows: list[dict[str, str]],
    data: np.ndarray,
    key: str = "base",
    variants: list[str] | None = None,
    alive: np.ndarray | None = None,
) -> Segment:
    return Segment(key, columns(rows, variants), ArrayVectors(data), ExactNearest(data), exact=True, alive=alive)


class Forgetful:
    """Finds the nearest but every third one."""

    def __init__(self, data: np.ndarray) -> None:
        self._exact = ExactNearest(data)
        self.asked: list[int] = []

    def search(self, queries: np.ndarray, k: int) -> tuple[Rows, Scores]:
        self.asked.append(k)
        rows, scores = self._exact.search(queries, 2 * k)
        kept = np.arange(2 * k) % 3 != 2
        return rows[:, kept][:, :k], scores[:, kept][:, :k]
