"""Filters as Milvus expressions: the same products as our own masks, on a real Milvus-Lite."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxsearch.serving.engines.milvus.expressions import expression, literal
from maxsearch.serving.engines.milvus.schema import (
    PRODUCT_ID,
    ROW,
    Facts,
    attribute_indexes,
    collection_schema,
    fields_of,
    vector_indexes,
)
from maxsearch.serving.filters.columns import Columns
from maxsearch.serving.filters.kinds import LARGEST_INT
from maxsearch.serving.filters.masks import matches
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.items import Item
from tests import filter_fakes

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")

NASTY = [
    'he said "no"',
    "it's",
    "back\\slash",
    "new\nline",
    "tab\tand\rreturn",
    "100 % _wool_",
    "größe 靴",
    "null",
    "a\x01b",
]
ODD_PATHS = ["A", "A > B%", "A > B_", "A > BB", 'A > "B"', "A > B > C", "A > B", "A !", "A! > x", "A > B\\ > C"]
ROWS = filter_fakes.attributes(90, seed=3) + [
    {"colour": NASTY[n % len(NASTY)], "category": ODD_PATHS[n % len(ODD_PATHS)], "tags": NASTY[n % len(NASTY)]}
    for n in range(20)
]
COLUMNS = Columns.of_attributes(ROWS, [f"v{n % 7}" if n % 3 else "" for n in range(len(ROWS))], filter_fakes.SCHEMA)
FIELDS = fields_of(COLUMNS.kinds)


@pytest.fixture(scope="module", params=["memory", "indexed"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The rows in a collection, before and after its segments are flushed and indexed: two ways through Milvus-Lite."""
    from maxsearch.serving.engines.milvus.client import connect
    from maxsearch.serving.engines.milvus.options import MilvusOptions
    from maxsearch.serving.engines.milvus.records import records

    facts = Facts("a", "g", "m", 2, len(ROWS), "", FIELDS, None, "FLAT")
    client = connect(MilvusOptions(uri=str(tmp_path_factory.mktemp("milvus") / "a.db")), {})
    client.create_collection("c", schema=collection_schema(facts))
    variants = COLUMNS.variants(np.arange(len(ROWS)))
    items = [Item(f"p{n}", "", variants[n], row) for n, row in enumerate(ROWS)]
    client.insert("c", records(items, np.ones((len(ROWS), 2), np.float32), range(len(ROWS)), facts))
    if request.param == "indexed":
        client.flush("c")
    client.create_index("c", attribute_indexes(facts, lite=True), sync=False)
    client.create_index("c", vector_indexes(facts))
    client.load_collection("c")
    yield client
    client.close()


def kept(client: Any, value: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Rows that Milvus keeps, and those that our masks keep."""
    node = parse_filter(value, COLUMNS.kinds)
    assert node is not None
    found = client.query("c", filter=expression(node, FIELDS), output_fields=[ROW])
    return sorted(row[ROW] for row in found), np.flatnonzero(matches(node, COLUMNS)).tolist()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=filter_fakes.filters())
def test_any_filter_keeps_what_our_masks_keep(client: Any, value: dict[str, Any]) -> None:
    theirs, ours = kept(client, value)
    assert theirs == ours


@settings(max_examples=25, deadline=None)
@given(value=st.sampled_from(NASTY), path=st.sampled_from(ODD_PATHS), negate=st.booleans())
def test_quotes_wildcards_and_odd_characters(client: Any, value: str, path: str, negate: bool) -> None:
    for condition in (
        {"eq": {"field": "colour", "value": value}},
        {"eq": {"field": "tags", "value": value}},
        {"prefix": {"field": "category", "path": path}},
        {"eq": {"field": "category", "value": path}},
    ):
        theirs, ours = kept(client, {"not": condition} if negate else condition)
        assert theirs == ours
        assert negate or len(ours) >= 1


@pytest.mark.parametrize("bound", ["gt", "gte", "lt", "lte"])
@pytest.mark.parametrize("field", ["stock", "price"])
@pytest.mark.parametrize("end", [LARGEST_INT, -LARGEST_INT, 1e-300, 1e18, 2.5])
def test_ends_of_ranges(client: Any, field: str, bound: str, end: float) -> None:
    for value in ({"range": {"field": field, bound: end}}, {"not": {"range": {"field": field, bound: end}}}):
        theirs, ours = kept(client, value)
        assert theirs == ours


@settings(max_examples=25, deadline=None)
@given(product_id=st.text(max_size=20))
def test_a_text_reads_back_as_it_was(client: Any, product_id: str) -> None:
    """An id that no product has keeps none; written wrongly it would be refused, or end its text too soon."""
    ours = [
        row[PRODUCT_ID] for row in client.query("c", filter=f"product_id in [{literal(product_id)}, {literal('p1')}]")
    ]
    assert ours == ["p1"]
