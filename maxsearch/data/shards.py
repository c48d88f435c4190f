"""Records written as ArrayRecord files of bounded length."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from array_record.python.array_record_module import ArrayRecordWriter

from maxsearch.data.dataset import Shard
from maxsearch.data.tables.formats import first_line
from maxsearch.errors import MaxsearchError
from maxsearch.files import account_of

T = TypeVar("T")


class ShardWriter:
    """Writes records of one kind as they come; a folder of its own keeps the files until all are written."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        """Opens nothing yet.

        Args:
          folder: where the files are drafted.
          name: the records' kind.
          limit: records in one file.
        """
        self._folder, self._name, self._limit = folder, name, limit
        self._written: list[tuple[Path, int]] = []
        self._writer: ArrayRecordWriter | None = None
        self._count = 0

    def write(self, record: bytes) -> None:
        """Adds a packed record.

        Raises:
          MaxsearchError: a file cannot be written.
        """
        if self._writer is None:
            # The number of files, which is part of their names, is known only in the end.
            self._path = self._folder / f"{self._name}-{len(self._written):05d}"
            # Groups of one record: a random read then decompresses no other record.
            self._writer = _written(self._path, ArrayRecordWriter, str(self._path), "group_size:1")
        _written(self._path, self._writer.write, record)
        self._count += 1
        if self._count == self._limit:
            self._close()

    def finish(self) -> list[Shard]:
        """Completes the drafts, which stay where they are until `place`."""
        self._close()
        return [Shard(str(path), count) for path, count in self._written]

    def place(self, folder: Path, name: str | None = None) -> dict[str, Any]:
        """Completes the files and moves them to a folder as NAME-00000-of-00004.array_record and so on.

        Args:
          folder: where they go.
          name: the NAME, when it differs from the drafts'.

        Returns:
          {"count", "bytes", "shards": [{"name", "records", "bytes", "sha256"}]}.

        Raises:
          MaxsearchError: a file cannot be written.
        """
        self._close()
        name = name or self._name
        shards = []
        for number, (draft, count) in enumerate(self._written):
            path = draft.replace(folder / f"{name}-{number:05d}-of-{len(self._written):05d}.array_record")
            shards.append({**account_of(path, folder), "records": count})
        return {
            "count": sum(shard["records"] for shard in shards),
            "bytes": sum(shard["bytes"] for shard in shards),
            "shards": shards,
        }

    def _close(self) -> None:
        if self._writer is None:
            return
        _written(self._path, self._writer.close)
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())
        self._written.append((self._path, self._count))
        self._writer, self._count = None, 0


def write_shards(folder: Path, name: str, records: Iterable[bytes], limit: int) -> dict[str, Any]:
    """Writes records in their order to NAME-00000-of-00004.array_record and so on.

    Args:
      folder: where the files go.
      name: the records' kind.
      records: packed records; read once, one at a time.
      limit: records in one file.

    Returns:
      As `ShardWriter.place`.

    Raises:
      MaxsearchError: a file cannot be written.
    """
    writer = ShardWriter(folder, name, limit)
    for record in records:
        writer.write(record)
    return writer.place(folder)


def _written(path: Path, action: Callable[..., T], *arguments: Any) -> T:
    try:
        return action(*arguments)
    except RuntimeError as error:  # what ArrayRecord raises when the disk is full or the like
        raise MaxsearchError(f"cannot write {path} ({first_line(error)}): make room or choose another --out") from None
