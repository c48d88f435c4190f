"""Marqo-GS-10M, ranked products of 10^7 queries and products of Google Shopping (arXiv 2404.08535).

https://github.com/marqo-ai/GCL: a folder per subset (marqo_gs_full_10m, marqo_gs_fashion_5m, marqo_gs_wfash_1m) with a
CSV per split, one row per query and product: query, product_id, position, title, image_local, score_linear,
score_reciprocal, ... `--path` is the folder of a subset. Pictures lie below --image-dir, as image_local says; the
authors' script may have made those paths absolute, and then the image folder is the one that they lie in.

| --split | file | queries | products |
|---|---|---|---|
| train | query_0_product_id_0.csv | of training | of training |
| novel_query | query_1_product_id_0.csv | new | of training |
| novel_corpus | query_0_product_id_1.csv | of training | new |
| zero_shot | query_1_product_id_1.csv | new | new |

The same rows come as Parquet with the pictures inside (in_domain-*.parquet, novel_query-*.parquet,
novel_document-*.parquet, zero_shot-*.parquet, in the folder or in its data/), and are read where the CSV is absent.

The weight is the score, score_linear (100 for the first of 100 positions, 1 for the last) unless `--source-options
score=score_reciprocal` says otherwise. The grade of a judgment is 1 to 4, by the quarter of 0 to 100 that score_linear
lies in: with the score itself as the grade, as the authors have it, nDCG's gain of 2^grade - 1 would see the first
product only. All queries of a split are judged; the authors' samples of them (the *_gt_*.json files) are not read, nor
are corpus_1.json and corpus_2.json, which hold the products of the CSV files once more.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from maxsearch.data.layouts.layout import Download, Judged, Layout, RowsTable, find_optional, require
from maxsearch.data.tables.files import Table
from maxsearch.data.tables.formats import BadRecord, Rows
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import cell_text, read_rows
from maxsearch.errors import MaxsearchError, UsageError

CSV_NAMES = {
    "train": "query_0_product_id_0.csv",
    "novel_query": "query_1_product_id_0.csv",
    "novel_corpus": "query_0_product_id_1.csv",
    "zero_shot": "query_1_product_id_1.csv",
}
PARQUET_NAMES = {"train": "in_domain", "novel_corpus": "novel_document"}
PAIRS = "Marqo-GS pairs file"
LINEAR = "score_linear"
HIGHEST = 100


def open_marqo_gs(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of Marqo-GS-10M."""
    table, image = _table(folder, split)
    require(table, ("query", "product_id", "title", image, LINEAR, options["score"]), PAIRS)
    return Download(
        products=RowsTable(table, ("product_id", "title", "image"), partial(_products, table, image)),
        interactions=RowsTable(
            table, ("query", "product_id", "weight"), partial(_interactions, table, options["score"])
        ),
        judgments=partial(_judgments, table),
    )


LAYOUT = Layout(tuple(CSV_NAMES), open_marqo_gs, {"score": (LINEAR, "score_reciprocal")})


def _table(folder: Path, split: str) -> tuple[Table, str]:
    """The rows of a split, and their image column."""
    path = find_optional(folder, [CSV_NAMES[split]])
    if path is not None:
        return table_at(path, PAIRS), "image_local"
    pattern = f"{PARQUET_NAMES.get(split, split)}-*.parquet"
    for part in (folder, folder / "data"):
        if any(part.glob(pattern)):
            return table_at(str(part / pattern), PAIRS), "image"
    raise UsageError(
        f"--path {folder} has no file {CSV_NAMES[split]} or {pattern}: name the folder of a subset, such as "
        "marqo_gs_wfash_1m"
    )


def _products(table: Table, image: str) -> Rows:
    """Each product at its first row."""
    seen: set[str] = set()
    for row, cells in read_rows(table, what=PAIRS):
        if isinstance(cells, BadRecord):
            yield row, cells
            continue
        product_id = cell_text(cells["product_id"])
        if product_id not in seen:
            seen.add(product_id)
            yield row, {"product_id": product_id, "title": cells["title"], "image": cells[image]}


def _interactions(table: Table, score: str) -> Rows:
    for row, cells in read_rows(table, what=PAIRS):
        if isinstance(cells, BadRecord):
            yield row, cells
        else:
            yield row, {"query": cells["query"], "product_id": cells["product_id"], "weight": cells[score]}


def _judgments(table: Table) -> Iterator[Judged]:
    """The judgments; queries are numbered, for the file's own numbers differ between its forms."""
    numbers: dict[str, str] = {}
    for row, cells in read_rows(table, what=PAIRS):
        if isinstance(cells, BadRecord):
            continue
        query = " ".join(cell_text(cells["query"]).split())
        number = numbers.setdefault(query, str(len(numbers) + 1))
        yield number, query, cell_text(cells["product_id"]), _grade(row, cells[LINEAR], table)


def _grade(row: int, score: object, table: Table) -> int:
    try:
        value = float(cell_text(score))
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST:
        raise MaxsearchError(
            f"row {table.said(row)} of the {PAIRS} {table} has the {LINEAR} {score!r}, which is not from 0 to "
            f"{HIGHEST}: give the file as it was published"
        )
    return max(1, math.ceil(value / HIGHEST * 4))
