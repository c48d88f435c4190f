"""Filters: JSON to trees, attributes to typed columns, and which rows a filter keeps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.filters.columns import BadCells, Columns
from maxsearch.serving.filters.kinds import Kind, infer_kind, parse_schema
from maxsearch.serving.filters.masks import MaskCache, matches
from maxsearch.serving.filters.parse import Limits, parse_filter
from maxsearch.serving.filters.tree import And, Exists, In, Not, Or, Prefix, Range, without_field
from maxsearch.serving.items import items_table, write_items
from tests.filter_fakes import CELLS, SCHEMA, attributes, columns, filters, truth

ROWS = attributes(400, seed=0)
COLUMNS = columns(ROWS)


@given(filters())
@settings(max_examples=200, deadline=None)
def test_a_filter_keeps_the_rows_for_which_it_is_true(value: dict[str, Any]) -> None:
    node = parse_filter(value, SCHEMA)
    assert node is not None
    truths = [truth(node, row) for row in ROWS]
    assert matches(node, COLUMNS).tolist() == [found is True for found in truths]
    assert matches(node, COLUMNS, negated=True).tolist() == [found is False for found in truths]


@given(filters(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_rare_and_common_values_are_found_alike(value: dict[str, Any], seed: int) -> None:
    """Among many rows of one kind the rare ones are looked up in lists, among few they are found by a pass."""
    rows = [*attributes(12, seed), *[dict.fromkeys(CELLS, "")] * 400]
    node = parse_filter(value, SCHEMA)
    assert node is not None
    few, many = matches(node, columns(rows[:12])), matches(node, columns(rows))
    np.testing.assert_array_equal(many[:12], few)
    assert len(set(many[12:].tolist())) == 1


def test_missing_values_are_unknown_and_stay_so_under_not() -> None:
    found = columns([{"colour": "red"}, {"colour": "blue"}, {"colour": " "}, {}])
    red = In("colour", ("red",))
    assert matches(red, found).tolist() == [True, False, False, False]
    assert matches(Not(red), found).tolist() == [False, True, False, False]
    assert matches(Or((Not(red), Not(Exists("colour")))), found).tolist() == [False, True, True, True]
    assert matches(Not(And((red, Exists("price")))), found).tolist() == [True] * 4  # nothing has a price: false


def test_json_becomes_a_tree_of_stored_values() -> None:
    value = {
        "and": [
            {"prefix": {"field": "category", "path": "A>B"}},
            {"in": {"field": "colour", "values": ["red", "blue", "red"]}},
            {"range": {"field": "stock", "gt": 1.5, "lt": 3}},
            {"range": {"field": "since", "gt": "1970-01-01", "lte": "1970-01-10"}},
            {"not": {"missing": {"field": "tags"}}},
        ]
    }
    assert parse_filter(value, SCHEMA) == And(
        (
            Prefix("category", ("A", "B")),
            In("colour", ("blue", "red")),
            Range("stock", 2, 2),
            Range("since", 1, 9),
            Not(Not(Exists("tags"))),
        )
    )
    assert parse_filter(None, SCHEMA) is None
    exclusive = parse_filter({"range": {"field": "price", "gt": 9.5, "lt": 10}}, SCHEMA)
    assert isinstance(exclusive, Range)
    assert exclusive.low is not None and exclusive.high is not None
    assert 9.5 < exclusive.low < 9.500001 and 9.999999 < exclusive.high < 10


REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ([], "filter: expected an object with exactly one key of and, or, not, eq"),
    "two keys": ({"and": [], "or": []}, "filter: expected an object with exactly one key"),
    "empty and": ({"and": []}, r"filter\.and: expected a list of at least one condition"),
    "unknown condition": ({"or": [{"near": {}}]}, r"filter\.or\[0\]: expected an object with exactly one key"),
    "unknown field": (
        {"and": [{"exists": {"field": "tags"}}, {"range": {"field": "prise", "gt": 1}}]},
        r"filter\.and\[1\]\.range\.field: no attribute is called 'prise': did you mean 'price'\?",
    ),
    "field of no name": ({"exists": {"field": 3}}, r"filter\.exists\.field: expected the name of an attribute"),
    "no value": ({"eq": {"field": "colour"}}, r"filter\.eq: lacks 'value'"),
    "further key": ({"eq": {"field": "colour", "value": "a", "x": 1}}, r"filter\.eq: does not know 'x': it takes"),
    "number for text": (
        {"not": {"eq": {"field": "colour", "value": 3}}},
        r"filter\.not\.eq\.value: expected text in quotes, not 3",
    ),
    "text for number": (
        {"in": {"field": "price", "values": [1, "2"]}},
        r"filter\.in\.values\[1\]: expected a number, not '2'",
    ),
    "truth for number": ({"eq": {"field": "stock", "value": True}}, "expected a number, not True"),
    "broken for whole": ({"eq": {"field": "stock", "value": 1.5}}, "expected a whole number, not 1.5"),
    "text for truth": ({"eq": {"field": "in_stock", "value": "yes"}}, "expected true or false, not 'yes'"),
    "no number": ({"range": {"field": "price", "gt": float("nan")}}, r"filter\.range\.gt: expected a number between"),
    "too large": ({"range": {"field": "stock", "lt": 10**19}}, r"filter\.range\.lt: expected a number between"),
    "range of text": ({"range": {"field": "colour", "gt": "a"}}, r"filter\.range: needs a number or a date and colour"),
    "no bound": ({"range": {"field": "price"}}, r"filter\.range: has no bound: give at least one of gt, gte"),
    "two lower bounds": ({"range": {"field": "price", "gt": 1, "gte": 2}}, "has both gt and gte: give one"),
    "no date": ({"range": {"field": "since", "gt": "2023-02-29"}}, r"filter\.range\.gt: expected a date as 2024-12-31"),
    "number for date": ({"range": {"field": "since", "gt": 5}}, r"filter\.range\.gt: expected a date as 2024-12-31"),
    "no time": ({"range": {"field": "seen", "lt": "noon"}}, "expected a time as 2024-12-31T18:00:00Z, not 'noon'"),
    "prefix of text": ({"prefix": {"field": "colour", "path": "A"}}, "needs a category path and colour is of type str"),
    "empty path": ({"prefix": {"field": "category", "path": " > "}}, r"filter\.prefix\.path: the path is empty"),
    "many values": ({"in": {"field": "colour", "values": ["a"] * 6}}, "holds 6 values and may hold 5: send fewer"),
    "long text": ({"eq": {"field": "colour", "value": "a" * 21}}, "the text is longer than 20 characters"),
    "deep": ({"not": {"not": {"not": {"exists": {"field": "tags"}}}}}, r"filter\.not\.not\.not: conditions are nested"),
    "large": ({"or": [{"exists": {"field": "tags"}}] * 9}, r"filter\.or\[8\]: the filter has more than 9 conditions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_filter_is_refused_with_its_place(name: str) -> None:
    value, expected = REFUSED[name]
    limits = Limits(depth=3, nodes=9, values=5, characters=20)
    with pytest.raises(UsageError, match=f"^{expected}|{expected}") as error:
        parse_filter(value, SCHEMA, limits=limits)
    assert str(error.value).startswith("filter")
    assert "\n" not in str(error.value)


def test_without_its_own_condition_a_facet_still_keeps_the_rest() -> None:
    colour, price = In("colour", ("red",)), Range("price", 1.0, None)
    either = Or((colour, price))
    assert without_field(And((colour, price)), "colour") == price
    assert without_field(And((colour, Not(colour))), "colour") is None
    assert without_field(And((And((colour, price)), either, Exists("tags"))), "colour") == And(
        (price, either, Exists("tags"))
    )
    assert without_field(either, "colour") == either
    assert without_field(Not(colour), "colour") is None
    assert without_field(None, "colour") is None


def test_types_are_inferred_from_all_cells() -> None:
    expected = {
        Kind.BOOL: ["true", "No", ""],
        Kind.INT: ["0", "1", "-12"],
        Kind.FLOAT: ["1", "2.5", "1e3"],
        Kind.DATE: ["2024-02-29", "1999-12-31"],
        Kind.TIME: ["2024-02-29T10:00:00", "2024-02-29 10:00:00+01:00"],
        Kind.PATH: ["A > B", "A > C > D", "A"],
    }
    for kind, cells in expected.items():
        assert infer_kind(cells) is kind
        assert infer_kind([*cells, "something else"]) is (Kind.PATH if kind is Kind.PATH else Kind.TEXT)
    for cells in ([], [" "], ["007", "008"], ["1_000"], ["nan"], ["1.5", "inf"], ["A > B", "x", "y"], ["9" * 20]):
        assert infer_kind(cells) is (Kind.FLOAT if cells == ["9" * 20] else Kind.TEXT), cells


def test_a_schema_is_read_or_refused() -> None:
    assert parse_schema(" price : float,in_stock:bool,a:b:path") == {
        "price": Kind.FLOAT,
        "in_stock": Kind.BOOL,
        "a:b": Kind.PATH,
    }
    for text, expected in {
        "price": "'price' is no attribute with a type: write NAME:TYPE with a type of str, path, list",
        "price:money": "'price:money' is no attribute with a type",
        ":int": "':int' is no attribute with a type",
        "a:int,a:str": "the attribute 'a' is given two types: name it once",
    }.items():
        with pytest.raises(UsageError, match=expected):
            parse_schema(text)


def items(folder: Path, products: list[Product]) -> Path:
    write_items(folder / "items.parquet", [items_table(products)])
    return folder / "items.parquet"


CATALOGUE = [
    Product("p1", "a", variant="g1", attributes={"price": "9.50", "category": "A > B", "tags": "new|sale"}),
    Product("p2", "b", variant="g1", attributes={"price": "free", "category": "A", "variant": "shadowed"}),
    Product("p3", "c", attributes={"price": " ", "category": "A > C", "in_stock": "yes"}),
    Product("p4", "d", attributes={"price": "free"}),
]


def test_columns_of_items_are_typed_and_count_bad_cells(tmp_path: Path) -> None:
    found = Columns.of_items(items(tmp_path, CATALOGUE), parse_schema("price:float,tags:list"))
    assert found.kinds == {
        "variant": Kind.TEXT,
        "category": Kind.PATH,
        "in_stock": Kind.BOOL,
        "price": Kind.FLOAT,
        "tags": Kind.LIST,
    }
    assert found.bad == {"price": BadCells(2, 1, "free")}
    assert found.table.schema.field("price").type == pa.float64()
    assert found.table.schema.field("tags").type == pa.list_(pa.string())
    assert pa.types.is_dictionary(found.table.schema.field("category").type)
    assert found.table.column("price").to_pylist() == [9.5, None, None, None]
    assert found.table.column("in_stock").to_pylist() == [None, None, True, None]
    assert found.variants(np.array([2, 0, 1])) == ["", "g1", "g1"]
    with pytest.raises(UsageError, match="no item has the attribute 'prize' that the schema names: the items have cat"):
        Columns.of_items(tmp_path / "items.parquet", parse_schema("prize:float"))


@pytest.mark.parametrize("count", [0, 1, 60])
def test_columns_are_read_back_as_they_were(tmp_path: Path, count: int) -> None:
    before = columns(attributes(count, seed=3))
    before.write(tmp_path / "attributes.arrow")
    after = Columns.read(tmp_path / "attributes.arrow")
    assert (after.kinds, after.bad, len(after)) == (before.kinds, before.bad, count)
    assert after.table.equals(before.table)
    for name in SCHEMA:
        np.testing.assert_array_equal(after[name].known(), before[name].known())
    for node in (In("tags", ("sale",)), Range("seen", None, 10**18), Prefix("category", ("A", "B"))):
        np.testing.assert_array_equal(matches(node, after), matches(node, before))


def test_prepared_columns_make_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (In("tags", ("sale",)), Range("price", 0.0, 9.5), Prefix("category", ("A", "B")), In("stock", (1,)))
    expected = [matches(node, COLUMNS)[:50] for node in nodes]
    found = columns(ROWS[:50])
    found.prepare()
    for name in ("argsort", "cumsum"):
        monkeypatch.setattr(np, name, None)
    for node, mask in zip(nodes, expected, strict=True):
        np.testing.assert_array_equal(matches(node, found), mask)


def test_damaged_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "attributes.arrow"
    columns(ROWS[:5]).write(path)
    whole = path.read_bytes()
    for content in (b"", b"not arrow", whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(MaxsearchError, match=r"the attributes .* cannot be read \(.*\): build the index again"):
            Columns.read(path)


def test_masks_are_remembered_by_key_and_filter_within_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from maxsearch.serving.filters import masks

    made = []
    monkeypatch.setattr(masks, "matches", lambda node, columns: made.append(node) or matches(node, columns))
    cache = MaskCache(max_bytes=2 * len(COLUMNS))
    red, blue, priced = In("colour", ("red",)), In("colour", ("blue",)), Exists("price")
    for node in (red, blue, red, priced, red, blue):  # blue is the one dropped
        np.testing.assert_array_equal(cache.get("g1", node, COLUMNS), matches(node, COLUMNS))
    assert made == [red, blue, priced, blue]
    cache.get("g2", blue, COLUMNS)
    assert made[-1] == blue and len(made) == 5
    with pytest.raises(ValueError, match="read-only"):
        cache.get("g2", blue, COLUMNS)[0] = True


def test_equal_filters_in_json_are_equal_trees() -> None:
    one = json.loads('{"in": {"field": "stock", "values": [1, 2.0]}}')
    other = json.loads('{"in": {"values": [2, 1], "field": "stock"}}')
    assert parse_filter(one, SCHEMA) == parse_filter(other, SCHEMA)
    assert hash(parse_filter(one, SCHEMA)) == hash(parse_filter(other, SCHEMA))
