"""The rows of a table as elements of a pipeline: each file of the table is read by one worker."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from maxsearch.data.tables.files import Table
from maxsearch.data.tables.formats import BadRecord, Rows
from maxsearch.data.tables.parts import Parts
from maxsearch.data.tables.read import read_rows
from maxsearch.errors import MaxsearchError
from maxsearch.prepare.beam.letters import LETTERS, letter
from maxsearch.prepare.beam.numbering import Order

FAILED = "failed"
COUNTS = "counts"


@dataclass(frozen=True)
class Piece(Table):
    """One file of a table, with rows numbered from 1; a table that is not made of files is one piece.

    Attributes:
      whole: the table.
      number: the file's place in it.
    """

    whole: Table
    number: int

    @classmethod
    def all_of(cls, table: Table) -> "list[Piece]":
        """The pieces of a table in the order of their rows."""
        return [cls(table, number) for number in range(len(table.parts) if isinstance(table, Parts) else 1)]

    def __str__(self) -> str:
        return str(self.whole)

    def names(self, what: str) -> list[str] | None:
        """As `Table.names`."""
        return self.whole.names(what)

    def rows(self, what: str) -> Rows:
        """As `Table.rows`."""
        return self.whole.rows_of(self.number, what) if isinstance(self.whole, Parts) else self.whole.rows(what)

    def place(self, row: int) -> tuple[str, int]:
        """As `Table.place`."""
        return (self._file().name, row) if isinstance(self.whole, Parts) else self.whole.place(row)

    def said(self, row: int) -> str:
        """As `Table.said`."""
        return f"{row} of {self._file()}" if isinstance(self.whole, Parts) else self.whole.said(row)

    def _file(self) -> Any:
        assert isinstance(self.whole, Parts)
        return self.whole.parts[self.number][0].file


def said(table: Table, order: Order) -> str:
    """A row's number for a message that names its table."""
    return Piece(table, order[0]).said(order[2])


class Read(NamedTuple):
    """What reading a table gives.

    Attributes:
      rows: (order, what the row was converted to).
      letters: of the rows that cannot be used.
      counts: (piece, its number of rows).
      failures: (kind, order, exit code, sentence) where a piece cannot be read further, or nothing can be converted.
    """

    rows: Any
    letters: Any
    counts: Any
    failures: Any


class ReadTable(beam.PTransform):
    """Reads a table, one file per element, and converts its rows."""

    def __init__(self, table: Table, what: str, kind: int, convert: Callable[[Any], Any], *, spread: bool) -> None:
        """Takes a table.

        Args:
          table: the table.
          what: its role in words.
          kind: its role as a number, which orders letters and failures.
          convert: from cells, or the BadRecord in their place, to an element or a BadRecord.
          spread: whether all workers share the rows of one file before they are converted.
        """
        super().__init__()
        self._table, self._what, self._kind, self._convert, self._spread = table, what, kind, convert, spread

    def expand(self, begin: Any) -> Any:
        """Builds the steps."""
        read = (
            begin
            | "Files" >> beam.Create(range(len(Piece.all_of(self._table))), reshuffle=True)
            | "Read rows"
            >> beam.ParDo(_Read(self._table, self._what, self._kind)).with_outputs(COUNTS, FAILED, main="rows")
        )
        rows = read["rows"]
        if self._spread:
            rows = rows | "Spread rows over workers" >> beam.Reshuffle()
        made = rows | "Convert rows" >> beam.ParDo(_Convert(self._kind, self._convert)).with_outputs(
            LETTERS, FAILED, main="made"
        )
        failures = (read[FAILED], made[FAILED]) | "Failures" >> beam.Flatten()
        return Read(made["made"], made[LETTERS], read[COUNTS], failures)


class _Read(beam.DoFn):
    def __init__(self, table: Table, what: str, kind: int) -> None:
        self._table, self._what, self._kind = table, what, kind

    def process(self, number: int) -> Iterator[Any]:
        index = row = 0
        try:
            for index, (row, cells) in enumerate(read_rows(Piece(self._table, number), what=self._what), start=1):
                yield (number, index, row), cells
        except MaxsearchError as error:
            yield _failure(self._kind, (number, index + 1, row + 1), error)
        yield TaggedOutput(COUNTS, (number, index))


class _Convert(beam.DoFn):
    def __init__(self, kind: int, convert: Callable[[Any], Any]) -> None:
        self._kind, self._convert = kind, convert

    def process(self, element: Any) -> Iterator[Any]:
        order, cells = element
        try:
            made = self._convert(cells)
        except MaxsearchError as error:
            yield _failure(self._kind, order, error)
        else:
            yield (
                TaggedOutput(LETTERS, letter(self._kind, order, made)) if isinstance(made, BadRecord) else (order, made)
            )


def _failure(kind: int, order: Order, error: MaxsearchError) -> Any:
    return TaggedOutput(FAILED, (kind, order, error.exit_code, str(error)))
