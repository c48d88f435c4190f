"""Test queries and graded relevance judgments, from the three kinds of files they come in.

- a table (CSV, TSV, JSONL or Parquet) with the columns query_id and query, or query_id, product_id and grade;
- BEIR: queries.jsonl with _id and text, and a TSV with the columns query-id, corpus-id and score;
- TREC: `query<TAB>text` lines, and `query 0 product grade` lines, both without a header.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maxsearch.data.tables.read import BadRecord, Columns, cell_text, read_table, single
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.runs import text_lines

QUERY_FIELDS = ("query_id", "query")
QREL_FIELDS = ("query_id", "product_id", "grade")
SHARED_FIELDS = frozenset({"query_id", "product_id"})
BEIR_NAMES = {
    "query_id": ("_id", "query-id"),
    "query": ("text",),
    "product_id": ("corpus-id",),
    "grade": ("score",),
}
HEADED_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.0+)?")
LARGEST_GRADE = 100  # the gain 2^grade - 1 of anything larger drowns every other judgment


def read_queries(path: Path, columns: Columns) -> dict[str, str]:
    """Reads the test queries.

    Args:
      path: a table, BEIR's queries.jsonl, or TREC topics (`query<TAB>text`).
      columns: column per field (`--map`); fields of other files are ignored.

    Returns:
      text per query identifier, in the order of the file. The text may be empty.

    Raises:
      UsageError: no such file, or a column is missing.
      MaxsearchError: no row, an empty identifier, or one identifier with two texts.
    """
    queries: dict[str, str] = {}
    for place, (query_id, query) in _query_rows(path, columns):
        if not query_id:
            raise MaxsearchError(f"{place}: the query has no identifier: give it one")
        if queries.setdefault(query_id, query) != query:
            raise MaxsearchError(
                f"{place}: query {query_id} has two texts, {queries[query_id]!r} and {query!r}: "
                "give each query its own identifier"
            )
    if not queries:
        raise MaxsearchError(f"the queries file {path} holds no query: give at least one")
    return queries


def read_qrels(path: Path, columns: Columns) -> dict[str, dict[str, int]]:
    """Reads graded relevance judgments.

    Args:
      path: a table, BEIR's qrels TSV, or TREC qrels (`query 0 product grade`).
      columns: column per field (`--map`); fields of other files are ignored.

    Returns:
      grade per product identifier per query identifier. Grades of 0 and below are kept; they mean not relevant.

    Raises:
      UsageError: no such file, or a column is missing.
      MaxsearchError: no row, an empty identifier, a grade that is no whole number or above 100, or
        one pair of query and product with two grades.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, (query_id, product_id, cell) in _qrel_rows(path, columns):
        if not query_id or not product_id:
            missing = "product" if query_id else "query"
            raise MaxsearchError(f"{place}: the judgment names no {missing}: fill in its identifier")
        grade = _grade(cell, place)
        judged = qrels.setdefault(query_id, {})
        if judged.setdefault(product_id, grade) != grade:
            raise MaxsearchError(
                f"{place}: query {query_id} and product {product_id} have two grades, {judged[product_id]} "
                f"and {grade}: keep one"
            )
    if not qrels:
        raise MaxsearchError(f"the qrels file {path} holds no judgment: give at least one")
    return qrels


def _query_rows(path: Path, columns: Columns) -> Iterator[tuple[str, tuple[str, str]]]:
    what = "queries file"
    first = _first_line(path, what)
    if first is not None and not _is_header(first.split("\t"), QUERY_FIELDS, columns) and first.count("\t") == 1:
        for number, line in text_lines(path, what=what):
            cells = line.split("\t")
            if len(cells) != 2:
                raise MaxsearchError(
                    f"{path}, line {number}: {len(cells)} fields instead of two: write `query identifier<TAB>text`"
                )
            yield f"{path}, line {number}", (cells[0].strip(), " ".join(cells[1].split()))
        return
    for place, (query_id, query) in _table_rows(path, QUERY_FIELDS, columns, what):
        yield place, (_text(query_id, place), _text(query, place))


def _qrel_rows(path: Path, columns: Columns) -> Iterator[tuple[str, tuple[str, str, Any]]]:
    what = "qrels file"
    first = _first_line(path, what)
    if first is not None and len(first.split()) == 4 and WHOLE_NUMBER.fullmatch(first.split()[3]):
        for number, line in text_lines(path, what=what):
            cells = line.split()
            if len(cells) != 4:
                raise MaxsearchError(
                    f"{path}, line {number}: {len(cells)} fields instead of four: "
                    "TREC qrels have `query 0 product grade`"
                )
            yield f"{path}, line {number}", (cells[0], cells[2], cells[3])
        return
    for place, (query_id, product_id, grade) in _table_rows(path, QREL_FIELDS, columns, what):
        yield place, (_text(query_id, place), _text(product_id, place), grade)


def _first_line(path: Path, what: str) -> str | None:
    """The first line of a file that may lack a header; None where the format always has one."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(HEADED_SUFFIXES):
        return None
    return next((line for _, line in text_lines(path, what=what)), None)


def _is_header(cells: list[str], fields: tuple[str, ...], columns: Columns) -> bool:
    known = {name for field in fields for name in (field, single(columns, field), *BEIR_NAMES[field])}
    return any(cell.strip().strip('"') in known for cell in cells)


def _table_rows(path: Path, fields: tuple[str, ...], columns: Columns, what: str) -> Iterator[tuple[str, list[Any]]]:
    chosen: list[str] | None = None
    for number, row in read_table(path, what=what):
        if chosen is None:
            chosen = [_column(field, row, columns, path, what) for field in fields]
        yield f"{path}, row {number}", [row.get(column) for column in chosen]


def _column(field: str, row: Mapping[str, Any], columns: Columns, path: Path, what: str) -> str:
    mapped = single(columns, field)
    if mapped is not None and mapped in row:
        return mapped
    # One --map serves every file of the command, and these fields stand in several of them under different names.
    if mapped is None or field in SHARED_FIELDS:
        for name in (field, *BEIR_NAMES[field]):
            if name in row:
                return name
    wanted = f"column {mapped!r}, which --map {field}={mapped} names" if mapped is not None else f"column {field!r}"
    raise UsageError(
        f"the {what} {path} has no {wanted}: it has {', '.join(map(str, row))}; "
        f"name the right one with --map {field}=COLUMN"
    )


def _text(cell: Any, place: str) -> str:
    try:
        return " ".join(cell_text(cell).split())
    except BadRecord as bad:
        raise MaxsearchError(f"{place} {bad.reason}: mend that row") from None


def _grade(cell: Any, place: str) -> int:
    text = _text(cell, place)
    if not WHOLE_NUMBER.fullmatch(text):
        raise MaxsearchError(f"{place}: the grade {text[:40]!r} is not a whole number: write 0, 1, 2 and so on")
    grade = int(text.partition(".")[0])
    if grade > LARGEST_GRADE:
        raise MaxsearchError(
            f"{place}: the grade {grade} is above {LARGEST_GRADE}: write small whole numbers (0, 1, 2)"
        )
    return grade
