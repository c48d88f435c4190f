"""One table in several files: a folder, a hive-partitioned one too, a glob, or the same behind an fsspec URL."""

import glob
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from maxsearch.data.tables.files import SUFFIXES, Table, TableFile, format_of
from maxsearch.data.tables.formats import Rows
from maxsearch.data.tables.prepared import PreparedProducts, is_prepared
from maxsearch.data.tables.remote import RemoteFile, is_url, remote_files
from maxsearch.errors import MaxsearchError, UsageError

TableSource = Path | str | Table
HIVE = re.compile(r"([^=/]+)=([^/]*)")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

Part = tuple[TableFile, dict[str, str | None]]  # a file, and the cells that its path gives each of its rows


class Parts(Table):
    """The rows of several files of one format, one file after the other, numbered on from file to file."""

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        """Takes the parts in the order of their rows; `name` is the user's, for messages."""
        self.parts = tuple(parts)
        self._name = name
        self._starts: list[int] = []  # rows before each part, as far as one has been read

    def __str__(self) -> str:
        return self._name

    def names(self, what: str) -> list[str] | None:
        """The columns of the first file, then those that paths give."""
        file, cells = self.parts[0]
        own = file.names(what)
        return None if own is None else [*own, *(name for name in cells if name not in own)]

    def rows(self, what: str) -> Rows:
        """The rows of all files.

        Raises:
          MaxsearchError: a file lacks a column of the first one.
        """
        done = 0
        for number in range(len(self.parts)):
            if number == len(self._starts):
                self._starts.append(done)
            row = 0
            for row, values in self.rows_of(number, what):
                yield done + row, values
            done += row

    def rows_of(self, number: int, what: str) -> Rows:
        """The rows of one file, numbered from 1.

        Raises:
          MaxsearchError: it lacks a column of the first one.
        """
        file, cells = self.parts[number]
        first = self.parts[0][0].names(what)
        lacking = sorted(set(first or ()) - set(file.names(what) or ()))
        if lacking:
            raise MaxsearchError(
                f"the {what} {file} has no column {lacking[0]!r}, which {self.parts[0][0]} has: give files of one table"
            )
        for row, values in file.rows(what):
            yield row, {**cells, **values} if cells and isinstance(values, dict) else values

    def counted(self, rows: Iterable[int]) -> None:
        """Takes the number of rows of each part, for `place` and `said`, where other processes have read them."""
        self._starts = list(accumulate(rows, initial=0))[: len(self.parts)]

    def count(self, what: str) -> int | None:
        """The sum of the files', where all of them lie on disk and state theirs."""
        total = 0
        for file, _ in self.parts:
            count = file.count(what) if isinstance(file.file, Path) else None
            if count is None:
                return None
            total += count
        return total

    def place(self, row: int) -> tuple[str, int]:
        """As `Table.place`, of a row that has been read."""
        number = bisect_right(self._starts, row - 1) - 1
        return self.parts[number][0].file.name, row - self._starts[number]

    def said(self, row: int) -> str:
        """As `Table.said`."""
        number = bisect_right(self._starts, row - 1) - 1
        return f"{row - self._starts[number]} of {self.parts[number][0]}"


def table_at(source: TableSource, what: str = "file") -> Table:
    """The table that a user names.

    Args:
      source: a file (.csv, .tsv, .jsonl, .ndjson, .tar, each perhaps with .gz, or .parquet); a folder of such files of
        one format, in sub-folders too, where those called KEY=VALUE give each row a column; a glob (`part-*.csv`); one
        of these as an fsspec URL; a folder that `maxsearch prepare` wrote, for its products; or a Table, which comes
        back as it is.
      what: its role in words, for the messages ("products file").

    Raises:
      UsageError: a folder or a glob has no file of a known format, or files of several.
      MaxsearchError: a remote store cannot be reached.
    """
    if isinstance(source, Table):
        return source
    text = str(source)
    if isinstance(source, str) and is_url(source):
        files, base = remote_files(source, what)
        if len(files) == 1 and files[0].url == source:
            return TableFile(files[0])
        return _parts(text, [(file, file.url.removeprefix(base)) for file in files if file.size != 0], what)
    path = Path(source)
    if path.is_dir():
        if is_prepared(path):
            return PreparedProducts(path)
        return _parts(text, _below(path), what)
    if glob.has_magic(text) and not path.exists():
        fixed = re.split(r"[*?\[]", text, maxsplit=1)[0].rpartition("/")[0]
        found = [Path(name) for name in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute ones too
        matches = [(path, str(path).removeprefix(fixed)) for path in found if path.is_file() and path.stat().st_size]
        return _parts(text, matches, what)
    return TableFile(path)


def _below(folder: Path) -> list[tuple[Path, str]]:
    """The files below a folder that are not empty, with their paths in it; hidden ones and such as _SUCCESS are not."""
    files = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for path in (Path(root) / name for name in names if not name.startswith((".", "_"))):
            if path.stat().st_size:
                files.append((path, str(path.relative_to(folder))))
    return sorted(files, key=lambda file: file[1])


def _parts(name: str, files: Sequence[tuple[Path | RemoteFile, str]], what: str) -> Table:
    known = [(file, inner) for file, inner in files if format_of(file.name)]
    kinds = sorted({format_of(file.name) or "" for file, _ in known})
    if not known:
        raise UsageError(f"the {what} {name} stands for no file with rows: give one whose name ends in {SUFFIXES}")
    if len(kinds) > 1:
        raise UsageError(
            f"the {what} {name} stands for files of several formats ({', '.join(kinds)}): "
            f"name those of one with a glob, such as '*.{kinds[0]}'"
        )
    return Parts(name, [(TableFile(file), _hive(inner)) for file, inner in known])


def _hive(path: str) -> dict[str, Any]:
    """The columns in a path's KEY=VALUE folders."""
    cells: dict[str, Any] = {}
    for part in path.split("/")[:-1]:
        match = HIVE.fullmatch(part)
        if match:
            cells[unquote(match[1])] = None if match[2] == HIVE_NULL else unquote(match[2])
    return cells
