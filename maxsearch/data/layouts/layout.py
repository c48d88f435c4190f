"""What a public dataset's layout on disk is to `maxsearch prepare`, and what its readers share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxsearch.data.judgment_files import JUDGMENTS, write_judgment_files
from maxsearch.data.tables.files import Columns, Table
from maxsearch.data.tables.formats import Rows
from maxsearch.errors import MaxsearchError, UsageError

ALL = "all"

Judged = tuple[str, str, str, int]
"""A judgment: query identifier, query, product identifier and grade, 0 for irrelevant."""


@dataclass(frozen=True)
class Download:
    """One split of a user's download, as `prepare` reads it.

    Attributes:
      products: the products that the split names.
      interactions: query, product_id and weight.
      image_dir: the folder that the products' images are paths below; None when they have none.
      judgments: gives the split's graded judgments; None where the dataset has none.
    """

    products: Table
    interactions: Table
    image_dir: Path | None = None
    judgments: Callable[[], Iterable[Judged]] | None = None


@dataclass(frozen=True)
class Layout:
    """A public dataset's files on disk.

    Attributes:
      splits: what --split may be.
      open: from the folder, the split and the options to what `prepare` reads; raises UsageError where a file or a
        column is missing.
      options: the values that each of --source-options may have, the default first.
    """

    splits: tuple[str, ...]
    open: Callable[[Path, str, Mapping[str, str]], Download]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class RowsTable(Table):
    """A table that a function makes from another; its rows keep the numbers that they have there.

    Attributes:
      source: the other one, of a download.
      columns: the columns.
      make: yields the rows.
      fields: the columns of fields whose names differ.
    """

    source: Table
    columns: tuple[str, ...]
    make: Callable[[], Rows]
    fields: Columns = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.source)

    def names(self, what: str) -> list[str] | None:
        """The columns."""
        return list(self.columns)

    def rows(self, what: str) -> Rows:
        """The rows, as `make` gives them."""
        return self.make()

    def place(self, row: int) -> tuple[str, int]:
        """The place in the source."""
        return self.source.place(row)

    def said(self, row: int) -> str:
        """The row as the source says it."""
        return self.source.said(row)


def find_file(folder: Path, names: Sequence[str], where: Sequence[str] = (".",)) -> Path:
    """The first file of these names in these sub-folders.

    Raises:
      UsageError: there is none.
    """
    path = find_optional(folder, names, where)
    if path is None:
        raise UsageError(f"--path {folder} has no file {' or '.join(names)}: name the folder of the unpacked download")
    return path


def find_optional(folder: Path, names: Sequence[str], where: Sequence[str] = (".",)) -> Path | None:
    """As `find_file`, but None when there is none."""
    paths = (folder / part / name for part in where for name in names)
    return next((path for path in paths if path.is_file()), None)


def require(table: Table, columns: Iterable[str], what: str) -> list[str]:
    """The names of a table's columns, when these are among them.

    Raises:
      UsageError: one is not.
    """
    names = table.names(what) or []
    for column in columns:
        if column not in names:
            raise UsageError(
                f"the {what} {table} has no column {column!r} (it has {', '.join(names)}): "
                "give the file as it was published"
            )
    return names


def graded(row: int, label: Any, grades: Mapping[str, int], table: Table, what: str) -> int:
    """The grade of a label.

    Raises:
      MaxsearchError: the label is none of the dataset's.
    """
    try:
        return grades[label]
    except (KeyError, TypeError):
        raise MaxsearchError(
            f"row {table.said(row)} of the {what} {table} has the label {label!r}, which is none of "
            f"{', '.join(grades)}: give the file as it was published"
        ) from None


def write_judgments(folder: Path, judgments: Iterable[Judged]) -> dict[str, Any]:
    """Writes the judgments of a split into a folder of prepared data.

    A pair that is judged twice keeps its higher grade; memory holds the judgments once.

    Returns:
      {"queries", "judgments", "files": [{"name", "bytes", "sha256"}]}.

    Raises:
      MaxsearchError: there is no judgment.
    """
    texts: dict[str, str] = {}
    grades: dict[tuple[str, str], int] = {}
    for query_id, query, product_id, grade in judgments:
        texts.setdefault(query_id, " ".join(query.split()))
        grades[query_id, product_id] = max(grade, grades.get((query_id, product_id), grade))
    if not grades:
        raise MaxsearchError("the split has no judgment: choose another --split")
    return write_judgment_files(
        folder, folder / JUDGMENTS, texts.items(), ((*pair, grade) for pair, grade in grades.items())
    )
