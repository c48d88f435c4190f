"""The rows of one file in each table format: CSV, TSV, JSON lines and Parquet.

Each reader yields (row, cells), with the row number from 1, or (row, BadRecord) for a malformed row after which it goes
on.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maxsearch.data.tables.remote import RemoteFile
from maxsearch.errors import MaxsearchError

PARQUET_BATCH = 256  # rows held at once; they may carry images
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class BadRecord(Exception):  # noqa: N818 - it describes a row, and is a value as often as it is raised
    """One row that cannot be used.

    Attributes:
      code: the kind of fault, such as "missing_id"; faults are counted by it.
      reason: the fault in words that follow "row 7 ...", for the one who mends the row.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


Rows = Iterator[tuple[int, dict[str, Any] | BadRecord]]


class TextLines:
    """The lines of a text file, gzipped or not, whose failures become MaxsearchError.

    Bytes that are not UTF-8 come through as lone surrogates, so that one bad row does not hide the others.
    """

    def __init__(self, path: Path | RemoteFile, what: str) -> None:
        self._path = path
        self._what = what
        self._files = ExitStack()
        self._stream: IO[str] = io.StringIO()

    def __enter__(self) -> "TextLines":
        try:
            raw = self._files.enter_context(self._path.open("rb"))
            # A gzip reader does not close the file below it.
            zipped = self._path.suffix.lower() == ".gz"
            stream: Any = self._files.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
            start = stream.read(2)
            stream.seek(0)
        except (OSError, EOFError, zlib.error) as error:
            self._files.close()
            raise self._unreadable(error) from None
        if start in UTF16_MARKS:
            self._files.close()
            raise MaxsearchError(f"the {self._what} {self._path} is UTF-16 text: save it as UTF-8")
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._stream = self._files.enter_context(text)
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._stream
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> MaxsearchError:
        return MaxsearchError(
            f"cannot read the {self._what} {self._path} ({first_line(error)}): check that it is whole and readable"
        )


def delimited_names(path: Path | RemoteFile, delimiter: str, what: str) -> list[str]:
    """The column names in the header of a CSV or TSV file."""
    with TextLines(path, what) as lines:
        return _read_header(csv.reader(lines, delimiter=delimiter, strict=True), delimiter, path, what)


def delimited_rows(path: Path | RemoteFile, delimiter: str, what: str) -> Rows:
    """Rows of a CSV or TSV file with a header; blank lines are not counted."""
    with TextLines(path, what) as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        names = _read_header(reader, delimiter, path, what)
        row = 0
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row += 1
                if "unexpected end of data" in str(error) or "field limit" in str(error):
                    raise MaxsearchError(
                        f"row {row} (line {line}) of the {what} {path} opens a quote that is not closed, or has a cell "
                        f"of over {csv.field_size_limit():,} characters: close or double the quote"
                    ) from None
                yield row, BadRecord("bad_row", f"is malformed near line {reader.line_num} ({error})")
                continue
            if not cells:
                continue
            row += 1
            if len(cells) == len(names):
                yield row, dict(zip(names, cells, strict=True))
            else:
                counts = f"has {len(cells)} cells where the header has {len(names)}"
                yield row, BadRecord("bad_row", f"{counts} (line {line})")


def json_rows(path: Path | RemoteFile, what: str) -> Rows:
    """Rows of a file with one JSON object a line; blank lines are not counted."""
    row = 0
    with TextLines(path, what) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row += 1
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield row, BadRecord("bad_row", f"is not JSON ({error}; line {number})")
                continue
            if isinstance(cells, dict):
                yield row, {name.strip(): value for name, value in cells.items()}
            else:
                yield row, BadRecord("bad_row", f"is not a JSON object (line {number})")


def open_parquet(path: Path | RemoteFile, what: str) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
      MaxsearchError: it is none, or is damaged.
    """
    try:
        # A small read buffer instead of pre-buffering keeps memory bounded when a row group holds many images.
        source = path if isinstance(path, Path) else path.open("rb")
        return pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise MaxsearchError(
            f"cannot read the {what} {path} as Parquet ({first_line(error)}): check that it is whole"
        ) from None


def parquet_rows(path: Path | RemoteFile, what: str) -> Rows:
    """Rows of a Parquet file. Dates and times become text."""
    row = 0
    with open_parquet(path, what) as file:
        names = header(file.schema_arrow.names)
        batches = file.iter_batches(batch_size=PARQUET_BATCH, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                columns = [] if batch is None else [_values(column) for column in batch.columns]
            except (pa.ArrowException, OSError) as error:
                raise MaxsearchError(
                    f"cannot read the {what} {path} past row {row} ({first_line(error)}): check that it is whole"
                ) from None
            if batch is None:
                return
            for cells in zip(*columns, strict=True):
                row += 1
                yield row, dict(zip(names, cells, strict=True))


def header(names: Sequence[str]) -> list[str]:
    """Column names without surrounding space; one that comes again is numbered: "name (2)"."""
    counts: dict[str, int] = {}
    numbered = []
    for name in (name.strip() for name in names):
        counts[name] = counts.get(name, 0) + 1
        numbered.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return numbered


def is_text(values: Iterable[Any]) -> bool:
    """Whether every str among the values can be written as UTF-8."""
    for value in values:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
    return True


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name when it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_header(reader: Any, delimiter: str, path: Path | RemoteFile, what: str) -> list[str]:
    try:
        names = next((cells for cells in reader if cells), None)
    except csv.Error as error:
        raise MaxsearchError(f"the header of the {what} {path} is malformed ({error}): mend its first line") from None
    if names is None:
        raise MaxsearchError(f"the {what} {path} has no header line: name the columns in its first line")
    if not is_text(names):
        raise MaxsearchError(f"the header of the {what} {path} is not UTF-8 text: save the file as UTF-8")
    for other in {",", ";", "\t", "|"} - {delimiter}:
        if len(names) == 1 and other in names[0]:
            raise MaxsearchError(
                f"the {what} {path} is separated by {other!r}: separate a .csv by ',' and a .tsv by tabs, or rename it"
            )
    return header(names)


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values that read as the file shows them."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return pc.cast(column, pa.string()).to_pylist()
    if pa.types.is_float32(kind):
        # The shortest text of 19.99 as float32 is "19.99", but as the float64 it widens to 19.989999771118164.
        return [None if value is None else float(value) for value in pc.cast(column, pa.string()).to_pylist()]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise pa.ArrowInvalid("nested text that is not UTF-8") from None
        binary = pc.cast(column, pa.large_binary())
        return [None if value is None else value.decode(errors="surrogateescape") for value in binary.to_pylist()]
