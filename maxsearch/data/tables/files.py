"""What a table is to its readers, and the table that is one file, on disk or behind an fsspec URL."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maxsearch.data.tables.formats import (
    Rows,
    delimited_names,
    delimited_rows,
    header,
    json_rows,
    open_parquet,
    parquet_rows,
)
from maxsearch.data.tables.remote import RemoteFile
from maxsearch.data.tables.webdataset import tar_rows
from maxsearch.errors import MaxsearchError, UsageError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tar": "tar",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
SUFFIXES = ".csv, .tsv, .jsonl, .ndjson, .tar (or one of these with .gz) or .parquet"

Columns = Mapping[str, str | tuple[str, ...]]
"""The column of each field; image and text may have several."""


class Table(ABC):
    """Rows with named cells, from wherever they come. `str` names it as the user did.

    Attributes:
      fields: columns of fields whose names differ, for a table that knows what it holds; a user's mapping goes first.
    """

    fields: Columns = {}  # noqa: RUF012 - read only

    @abstractmethod
    def names(self, what: str) -> list[str] | None:
        """Column names in their order; None where each row has names of its own.

        Args:
          what: the table's role in words, for the messages ("products file").

        Raises:
          UsageError, MaxsearchError: it is absent, of an unknown format or damaged, or has no header.
        """

    @abstractmethod
    def rows(self, what: str) -> Rows:
        """Yields (row, cells), or (row, BadRecord) for a malformed row, with numbers from 1 that never fall.

        Raises:
          UsageError, MaxsearchError: as `names`.
        """

    def count(self, what: str) -> int | None:
        """Number of rows where that is cheap to know."""
        return None

    def place(self, row: int) -> tuple[str, int]:
        """The name of the file that a row stands in, and its number there, 1 for the first row of data."""
        return Path(str(self)).name, row

    def said(self, row: int) -> str:
        """A row's number for a message that names the table: "7", or "7 of part-3.csv" where it has several files."""
        return str(row)


@dataclass(frozen=True)
class TableFile(Table):
    """One file.

    Attributes:
      file: where it is.
      kind: its format, one of FORMATS' values; None to go by its name.
    """

    file: Path | RemoteFile
    kind: str | None = None

    def __str__(self) -> str:
        return str(self.file)

    def names(self, what: str) -> list[str] | None:
        """As `Table.names`."""
        kind = self._checked(what)
        if kind == "parquet":
            with open_parquet(self.file, what) as file:
                return header(file.schema_arrow.names)
        if kind in DELIMITERS:
            return delimited_names(self.file, DELIMITERS[kind], what)
        return None

    def rows(self, what: str) -> Rows:
        """As `Table.rows`."""
        kind = self._checked(what)
        if kind == "parquet":
            return parquet_rows(self.file, what)
        if kind == "tar":
            return tar_rows(self.file, what)
        if kind == "jsonl":
            return json_rows(self.file, what)
        return delimited_rows(self.file, DELIMITERS[kind], what)

    def count(self, what: str) -> int | None:
        """What Parquet states in its footer."""
        if self._checked(what) != "parquet":
            return None
        with open_parquet(self.file, what) as file:
            return file.metadata.num_rows

    def _checked(self, what: str) -> str:
        kind = self.kind or format_of(self.file.name)
        if kind is None:
            raise UsageError(f"the {what} {self} is of an unknown format: give a file whose name ends in {SUFFIXES}")
        if not self.file.exists():
            raise UsageError(f"the {what} {self} does not exist: check the path")
        if not self.file.is_file():
            raise UsageError(f"the {what} {self} is not a file: give one file")
        if self.file.stat().st_size == 0:
            raise MaxsearchError(f"the {what} {self} is empty: give a file with rows")
        return kind


def format_of(name: str) -> str | None:
    """The format that a file's name tells, None for none."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    zipped = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if zipped else suffixes)[-1:]
    kind = FORMATS.get(suffix[0]) if suffix else None
    return None if zipped and kind == "parquet" else kind
