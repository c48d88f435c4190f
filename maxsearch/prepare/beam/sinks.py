"""Files that the workers of a pipeline write: shards, and what the process that started it reads in the end.

A file appears whole, so that work which a runner repeats, or does twice at the same time, leaves the same file as work
done once.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from maxsearch.data.shards import ShardWriter
from maxsearch.files import sha256_of
from maxsearch.prepare.options import PrepareOptions
from maxsearch.prepare.store import SCRATCH, Store

ACCOUNTS = "accounts"


class WriteShards(beam.PTransform):
    """From (part, number, record) to shards, and (part, shard's number, name, records, bytes, sha256) of each."""

    def __init__(self, store: Store, name: str, options: PrepareOptions, totals: Any) -> None:
        """Takes the place, the records' kind, and the pipeline's {part: number of records}."""
        super().__init__()
        self._store, self._name, self._totals, self._limit = store, name, totals, options.shard_records
        self._split = options.splits is not None

    def expand(self, records: Any) -> Any:
        """Builds the steps."""
        limit = self._limit
        write = _WriteShard(self._store, self._name, limit, self._split)
        return (
            records
            | "Key by shard" >> beam.Map(lambda record: ((record[0], record[1] // limit), (record[1], record[2])))
            | "Gather shards" >> beam.GroupByKey()
            | "Write shards" >> beam.ParDo(write, AsSingleton(self._totals))
        )


class _WriteShard(beam.DoFn):
    def __init__(self, store: Store, name: str, limit: int, split: bool) -> None:
        self._store, self._name, self._limit, self._split = store, name, limit, split

    def process(
        self, element: tuple[tuple[str, int], Iterable[tuple[int, bytes]]], totals: dict[str, int]
    ) -> Iterator[tuple[str, int, str, int, int, str]]:
        (part, number), group = element
        name = f"{self._name}-{number:05d}-of-{-(-totals[part] // self._limit):05d}.array_record"
        with self._store.drafting() as folder:
            writer = ShardWriter(folder, uuid.uuid4().hex, self._limit)
            for _, record in sorted(group):
                writer.write(record)
            (shard,) = writer.finish()
            written = Path(shard.filename)
            size, digest = written.stat().st_size, sha256_of(written)
            self._store.keep(written, f"{part}/{name}" if self._split else name)
        yield part, number, name, shard.take, size, digest


class WriteSorted(beam.PTransform):
    """From (name, line) to a file per name, with its lines sorted; lines are what JSON can hold."""

    def __init__(self, store: Store, folder: str) -> None:
        """Takes the place, and the files' folder in its scratch folder."""
        super().__init__()
        self._store, self._folder = store, f"{SCRATCH}/{folder}"

    def expand(self, lines: Any) -> Any:
        """Builds the steps."""
        store, folder = self._store, self._folder
        return (
            lines
            | "Gather lines" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda name, group: store.write(f"{folder}/{name}.jsonl", _sorted(group)))
        )


def read_accounts(store: Store) -> dict[str, list[Any]]:
    """The lines that `WriteSorted` wrote to ACCOUNTS, by name."""
    return {PurePosixPath(name).stem: list(read_sorted(store, name)) for name in sorted_files(store, ACCOUNTS)}


def read_sorted(store: Store, name: str) -> Iterator[Any]:
    """The lines of one file that `WriteSorted` wrote."""
    return map(json.loads, store.lines(name))


def sorted_files(store: Store, folder: str, start: str = "") -> list[str]:
    """The files that `WriteSorted` wrote, in order, whose names start so; not what a lost worker left half-written."""
    names = store.names(f"{SCRATCH}/{folder}")
    return [name for name in names if name.endswith(".jsonl") and PurePosixPath(name).name.startswith(start)]


def _sorted(lines: Iterable[Any]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sorted(lines)).encode()
