"""WANDS, Wayfair's annotated product search (ECIR 2022), https://github.com/wayfair/WANDS.

Three tab-separated files, in the folder or in its dataset/: product.csv (product_id, product_name, product_class,
"category hierarchy", product_description, product_features, ...), query.csv (query_id, query, query_class) and
label.csv (id, query_id, product_id, label). There are no pictures.

A label is a weight in training and a grade in judgments: Exact 1 and 2, Partial 0.5 and 1, Irrelevant none (left out)
and 0. The weights are ours.

WANDS has no splits. Here a query is in "test" or in "dev" with a chance of one in ten each, and else in "train", by the
SHA-256 of its identifier; "all" has every query. Each split has the whole catalogue.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from maxsearch.data.layouts.layout import ALL, Download, Judged, Layout, RowsTable, find_file, graded, require
from maxsearch.data.tables.files import TableFile
from maxsearch.data.tables.formats import BadRecord, Rows
from maxsearch.data.tables.read import read_rows, read_table
from maxsearch.errors import MaxsearchError

WEIGHTS = {"Exact": 1.0, "Partial": 0.5}
GRADES = {"Exact": 2, "Partial": 1, "Irrelevant": 0}
FOLDERS = (".", "dataset")
TEXTS = ("product_class", "product_description", "product_features")
PRODUCTS, QUERIES, LABELS = "WANDS products file", "WANDS queries file", "WANDS labels file"


def open_wands(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of WANDS."""
    products, queries, labels = (
        TableFile(find_file(folder, [name], FOLDERS), "tsv") for name in ("product.csv", "query.csv", "label.csv")
    )
    names = require(products, ("product_id", "product_name", *TEXTS), PRODUCTS)
    require(queries, ("query_id", "query"), QUERIES)
    require(labels, ("query_id", "product_id", "label"), LABELS)
    fields: dict[str, str | tuple[str, ...]] = {"title": "product_name", "text": TEXTS}
    return Download(
        products=RowsTable(products, tuple(names), partial(read_rows, products, what=PRODUCTS), fields),
        interactions=RowsTable(
            labels, ("query", "product_id", "weight"), partial(_interactions, labels, queries, split)
        ),
        judgments=partial(_judgments, labels, queries, split),
    )


LAYOUT = Layout(("train", "dev", "test", ALL), open_wands)


def split_of(query_id: str) -> str:
    """The split of a query."""
    tenth = int(hashlib.sha256(query_id.encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "dev"}.get(tenth, "train")


def _interactions(labels: TableFile, queries: TableFile, split: str) -> Rows:
    for row, cells in _labels(labels, queries, split):
        if isinstance(cells, BadRecord):
            yield row, cells
        elif cells["label"] in WEIGHTS:
            yield row, cells | {"weight": WEIGHTS[cells["label"]]}


def _judgments(labels: TableFile, queries: TableFile, split: str) -> Iterator[Judged]:
    for _, cells in _labels(labels, queries, split):
        if not isinstance(cells, BadRecord):
            yield cells["query_id"], cells["query"], cells["product_id"], GRADES[cells["label"]]


def _labels(labels: TableFile, queries: TableFile, split: str) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """The labels of a split with their queries.

    Raises:
      MaxsearchError: a label is unknown, or its query is not in the queries file.
    """
    texts = {cells["query_id"].strip(): cells["query"] for _, cells in read_table(queries, what=QUERIES)}
    for row, cells in read_rows(labels, what=LABELS):
        if isinstance(cells, BadRecord):
            yield row, cells
            continue
        cells = {name: value.strip() for name, value in cells.items()}
        query_id = cells["query_id"]
        graded(row, cells["label"], GRADES, labels, LABELS)
        if query_id not in texts:
            raise MaxsearchError(
                f"row {row} of the {LABELS} {labels} has the query_id {query_id!r}, which {queries} lacks: "
                "give the files as they were published"
            )
        if split in (ALL, split_of(query_id)):
            yield row, cells | {"query": texts[query_id]}
