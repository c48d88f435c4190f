"""Tables that users bring (CSV, TSV, JSON lines, Parquet), read row by row in bounded memory."""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from maxsearch.data.tables.files import Columns
from maxsearch.data.tables.formats import BadRecord, Rows, is_text
from maxsearch.data.tables.parts import TableSource, table_at
from maxsearch.errors import MaxsearchError, UsageError

REPEATED = ("image", "text")


def read_table(path: TableSource, *, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Streams a table whose every row must be sound.

    Args:
      path: a table in any form that `table_at` takes.
      what: the file's role in words, for the messages ("queries file").

    Yields:
      (row, cells): the row number, 1 for the first row of data (a header and blank lines are not counted; the rows of
      several files are numbered on), and its cells by column name. Cells of CSV and TSV are str; those of JSON lines
      and Parquet may also be None, bool, int, float, bytes, Decimal, list or dict. A column name that comes again is
      kept as "name (2)".

    Raises:
      UsageError: there is no such file, or its format is unknown.
      MaxsearchError: the file or one of its rows is malformed.
    """
    path = table_at(path, what)
    for row, cells in read_rows(path, what=what):
        if isinstance(cells, BadRecord):
            raise MaxsearchError(f"row {path.said(row)} of the {what} {path} {cells.reason}: mend or remove that row")
        yield row, cells


def read_fields(
    path: TableSource, fields: Sequence[str], columns: Columns, *, what: str
) -> Iterator[tuple[str, list[str]]]:
    """Streams the texts of some columns of a table whose every row must be sound.

    Args:
      path: a table in any form that `table_at` takes.
      fields: what is read, by the names that their columns have unless `columns` names others.
      columns: column per field (`--map`).
      what: the file's role in words, for the messages.

    Yields:
      where the row stands, for messages ("row 3 of the pairs file ..."), and the text of each field.

    Raises:
      UsageError: there is no such file, or a column is missing.
      MaxsearchError: the file, a row or a cell is malformed.
    """
    table = table_at(path, what)
    wanted = {name: single(columns, name) or name for name in fields}
    require_columns(columns_until(table, list(wanted.values()), what=what), wanted, table, what)
    for row, cells in read_table(table, what=what):
        place = f"row {table.said(row)} of the {what} {path}"
        try:
            texts = [cell_text(cells.get(wanted[name])) for name in fields]
        except BadRecord as bad:
            raise MaxsearchError(f"{place} {bad.reason}: mend that row") from None
        yield place, texts


def read_rows(path: TableSource, *, what: str) -> Rows:
    """Streams a table as `read_table` does, but yields a BadRecord in place of a malformed row and goes on."""
    for row, cells in table_at(path, what).rows(what):
        if isinstance(cells, dict) and not (is_text(cells.values()) and is_text(cells)):
            yield row, BadRecord("bad_encoding", "holds text that is not UTF-8")
        else:
            yield row, cells


def column_names(path: TableSource, *, what: str = "file") -> list[str] | None:
    """Column names in the file's order; None for JSON lines and tar, where each row has names of its own.

    Raises:
      UsageError, MaxsearchError: as `read_table`, and for a file without a header.
    """
    return table_at(path, what).names(what)


def columns_until(path: TableSource, wanted: Collection[str], *, what: str) -> list[str]:
    """Column names of any format; JSON lines are read until every wanted name has been seen, or to their end."""
    names = column_names(path, what=what)
    if names is not None:
        return names
    seen: dict[str, None] = {}
    for _, cells in read_rows(path, what=what):
        if isinstance(cells, dict):
            seen.update(dict.fromkeys(cells))
            if all(name in seen for name in wanted):
                break
    return list(seen)


def require_columns(names: Sequence[str], wanted: Columns, path: TableSource, what: str) -> None:
    """Checks that a table has the column of each wanted field.

    Args:
      names: the table's columns.
      wanted: the column, or columns, of each field.
      path, what: the file and its role, for the message.

    Raises:
      UsageError: a column is absent; the message names those that are there.
    """
    for name in wanted:
        for column in several(wanted, name):
            if column not in names:
                raise UsageError(
                    f"the {what} {path} has no column {column!r} for the field {name}: {suggestion(column, names)} "
                    f"(--map {name}=COLUMN)"
                )


def row_count(path: TableSource, *, what: str = "file") -> int | None:
    """Number of rows where that is cheap to know (Parquet), else None."""
    return table_at(path, what).count(what)


def several(columns: Columns, field: str) -> tuple[str, ...]:
    """The columns of a field, in order; none when it has no entry."""
    column = columns.get(field, ())
    return (column,) if isinstance(column, str) else column


def single(columns: Columns, field: str) -> str | None:
    """The column of a field that has one at most."""
    return next(iter(several(columns, field)), None)


def parse_mapping(pairs: Sequence[str], fields: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """Parses `--map` pairs such as "title=productDisplayName" into {field: column}.

    A field in REPEATED may come again: "image=front", "image=back" gives {"image": ("front", "back")}.

    Raises:
      UsageError: a pair is not FIELD=COLUMN, names an unknown field, or names another field or the same pair twice.
    """
    columns: dict[str, str | tuple[str, ...]] = {}
    for pair in pairs:
        name, separator, column = (part.strip() for part in pair.partition("="))
        if not (name and separator and column):
            raise UsageError(f"--map {pair!r} is not of the form FIELD=COLUMN: write for example {fields[0]}=my_column")
        if name not in fields:
            raise UsageError(f"--map {pair!r} names no known field: {suggestion(name, fields)}")
        known = several(columns, name)
        if column in known or (known and name not in REPEATED):
            raise UsageError(f"--map gives the field {name!r} twice ({known[-1]!r} and {column!r}): keep one")
        columns[name] = (*known, column) if known else column
    return columns


def suggestion(name: str, known: Iterable[str]) -> str:
    """Says what `name` may have been meant to be, and what there is to choose from."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}choose from {', '.join(known) or 'nothing, as it has no columns'}"


def cell_text(value: Any) -> str:
    """A cell as text without surrounding space: None and NaN are empty, 12.0 is "12", true is "true".

    Raises:
      BadRecord: the cell holds bytes, or a nested text, that are not UTF-8.
    """
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    whole = value.is_integer() if isinstance(value, float) else isinstance(value, Decimal) and value == round(value)
    if whole:
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise BadRecord("bad_encoding", "holds bytes where text is expected") from None
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
        if not is_text([text]):
            raise BadRecord("bad_encoding", "holds text that is not UTF-8")
        return text
    return str(value)
