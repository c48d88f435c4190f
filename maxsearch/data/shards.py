"""Records written as ArrayRecord files of bounded length."""

import os
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from array_record.python.array_record_module import ArrayRecordWriter

from maxsearch.data.table_formats import first_line
from maxsearch.errors import MaxsearchError
from maxsearch.files import sha256_of

T = TypeVar("T")


def write_shards(folder: Path, name: str, records: Iterable[bytes], limit: int) -> dict[str, Any]:
    """Writes records in their order to NAME-00000-of-00004.array_record and so on.

    Args:
      folder: where the files go.
      name: the records' kind.
      records: packed records; read once, one at a time.
      limit: records in one file.

    Returns:
      {"count", "bytes", "shards": [{"name", "records", "bytes", "sha256"}]}.

    Raises:
      MaxsearchError: a file cannot be written.
    """
    records = iter(records)
    written: list[tuple[Path, int]] = []
    while first := list(islice(records, 1)):
        # The number of files, which is part of their names, is known only in the end.
        path = folder / f"{name}-{len(written):05d}"
        written.append((path, write_shard(path, chain(first, islice(records, limit - 1)))))
    shards = []
    for number, (draft, count) in enumerate(written):
        path = draft.replace(folder / f"{name}-{number:05d}-of-{len(written):05d}.array_record")
        shards.append({"name": path.name, "records": count, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
    return {
        "count": sum(shard["records"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
    }


def write_shard(path: Path, records: Iterable[bytes]) -> int:
    """Writes one file and flushes it to disk.

    Returns:
      The number of records.

    Raises:
      MaxsearchError: it cannot be written.
    """
    count = 0
    # Groups of one record: a random read then decompresses no other record.
    writer = _written(path, ArrayRecordWriter, str(path), "group_size:1")
    for record in records:
        _written(path, writer.write, record)
        count += 1
    _written(path, writer.close)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return count


def _written(path: Path, action: Callable[..., T], *arguments: Any) -> T:
    try:
        return action(*arguments)
    except RuntimeError as error:  # what ArrayRecord raises when the disk is full or the like
        raise MaxsearchError(f"cannot write {path} ({first_line(error)}): make room or choose another --out") from None
