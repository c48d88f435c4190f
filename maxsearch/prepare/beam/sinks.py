"""Shards and small files of a pipeline, written by whichever worker holds them.

A worker writes a file beside its place and renames it, so that work which a runner repeats, or does twice at the same
time, leaves the same file as work done once.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from maxsearch.data.shards import write_shard
from maxsearch.files import sha256_of, write_json

ACCOUNTS = ".accounts"


class WriteShards(beam.PTransform):
    """From (number, record) to shards of `limit` records, and the manifest's account of them, as `write_shards`."""

    def __init__(self, folder: Path, name: str, limit: int, total: Any) -> None:
        """Takes what `write_shards` takes, and the pipeline's value of the number of records."""
        super().__init__()
        self._folder, self._name, self._limit, self._total = folder, name, limit, total

    def expand(self, records: Any) -> Any:
        """Builds the steps."""
        limit = self._limit
        return (
            records
            | "Key by shard" >> beam.Map(lambda record: (record[0] // limit, record))
            | "Gather shards" >> beam.GroupByKey()
            | "Write shards"
            >> beam.ParDo(_WriteShard(self._folder, self._name, limit), pvalue.AsSingleton(self._total))
            | "List shards" >> beam.combiners.ToList()
            | "Account for shards" >> beam.Map(_account)
        )


class _WriteShard(beam.DoFn):
    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self._folder, self._name, self._limit = folder, name, limit

    def process(self, element: tuple[int, Iterable[tuple[int, bytes]]], total: int) -> Iterator[dict[str, Any]]:
        shard, group = element
        records = [record for _, record in sorted(group)]
        path = self._folder / f"{self._name}-{shard:05d}-of-{-(-total // self._limit):05d}.array_record"
        draft = beside(path)
        write_shard(draft, records)
        digest, size = sha256_of(draft), draft.stat().st_size
        draft.replace(path)
        yield {"name": path.name, "records": len(records), "bytes": size, "sha256": digest}


class WriteAccount(beam.PTransform):
    """Writes the one value of a collection for the process that started the pipeline; see `read_account`."""

    def __init__(self, folder: Path, name: str) -> None:
        """Takes the draft's folder and the account's name."""
        super().__init__()
        self._path = folder / ACCOUNTS / f"{name}.json"

    def expand(self, value: Any) -> Any:
        """Builds the step."""
        path = self._path
        return value | "Write" >> beam.Map(lambda value: write_json(path, value))


def beside(path: Path) -> Path:
    """A name of its own in the same folder."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears whole."""
    draft = beside(path)
    with draft.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def _account(shards: list[dict[str, Any]]) -> dict[str, Any]:
    shards = sorted(shards, key=lambda shard: shard["name"])
    return {
        "count": sum(shard["records"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
    }
