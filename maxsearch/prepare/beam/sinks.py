"""Files that the workers of a pipeline write: shards, and what the process that started it reads in the end.

A worker writes a file beside its place and renames it, so that work which a runner repeats, or does twice at the same
time, leaves the same file as work done once.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from maxsearch.data.shards import ShardWriter
from maxsearch.files import sha256_of, write_bytes, write_json
from maxsearch.prepare.options import PrepareOptions

SCRATCH = "scratch"
ACCOUNTS = "accounts"


class WriteShards(beam.PTransform):
    """From (part, number, record) to shards, and the manifest's account of them by part, as `write_shards` gives it."""

    def __init__(self, draft: Path, name: str, options: PrepareOptions, totals: Any) -> None:
        """Takes the draft's folder, the records' kind, and the pipeline's {part: number of records}."""
        super().__init__()
        self._draft, self._name, self._totals, self._limit = draft, name, totals, options.shard_records
        self._split = options.splits is not None

    def expand(self, records: Any) -> Any:
        """Builds the steps."""
        limit = self._limit
        write = _WriteShard(self._draft, self._name, limit, self._split)
        return (
            records
            | "Key by shard" >> beam.Map(lambda record: ((record[0], record[1] // limit), (record[1], record[2])))
            | "Gather shards" >> beam.GroupByKey()
            | "Write shards" >> beam.ParDo(write, AsSingleton(self._totals))
            | "List shards" >> beam.combiners.ToList()
            | "Account for shards" >> beam.Map(_account)
        )


class _WriteShard(beam.DoFn):
    def __init__(self, draft: Path, name: str, limit: int, split: bool) -> None:
        self._draft, self._name, self._limit, self._split = draft, name, limit, split

    def process(
        self, element: tuple[tuple[str, int], Iterable[tuple[int, bytes]]], totals: dict[str, int]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        (part, number), group = element
        writer = ShardWriter(self._draft / SCRATCH, uuid.uuid4().hex, self._limit)
        for _, record in sorted(group):
            writer.write(record)
        (shard,) = writer.finish()
        written = Path(shard.filename)
        folder = self._draft / part if self._split else self._draft
        folder.mkdir(exist_ok=True)
        name = f"{self._name}-{number:05d}-of-{-(-totals[part] // self._limit):05d}.array_record"
        account = {"name": name, "records": shard.take, "bytes": written.stat().st_size, "sha256": sha256_of(written)}
        written.replace(folder / name)
        yield part, account


class WriteAccount(beam.PTransform):
    """Writes the one value of a collection for the process that started the pipeline; see `read_accounts`."""

    def __init__(self, draft: Path, name: str) -> None:
        """Takes the draft's folder and the value's name."""
        super().__init__()
        self._path = draft / SCRATCH / ACCOUNTS / f"{name}.json"

    def expand(self, value: Any) -> Any:
        """Builds the step."""
        path = self._path
        return value | "Write" >> beam.Map(lambda value: write_json(path, value))


class WriteSorted(beam.PTransform):
    """From (name, line) to a file per name, with its lines sorted; lines are what JSON can hold."""

    def __init__(self, draft: Path, folder: str) -> None:
        """Takes the draft's folder, and that of the files."""
        super().__init__()
        self._folder = draft / SCRATCH / folder

    def expand(self, lines: Any) -> Any:
        """Builds the steps."""
        folder = self._folder
        return (
            lines
            | "Gather lines" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda name, group: _write(folder / f"{name}.jsonl", group))
        )


def read_accounts(draft: Path) -> dict[str, Any]:
    """What `WriteAccount` wrote, by name."""
    return {path.stem: json.loads(path.read_text()) for path in (draft / SCRATCH / ACCOUNTS).iterdir()}


def read_sorted(path: Path) -> Iterator[Any]:
    """The lines of one file that `WriteSorted` wrote."""
    with path.open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def sorted_files(draft: Path, folder: str, pattern: str = "*") -> list[Path]:
    """The files that `WriteSorted` wrote, by name."""
    return sorted((draft / SCRATCH / folder).glob(f"{pattern}.jsonl"))


def _write(path: Path, lines: Iterable[Any]) -> None:
    write_bytes(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sorted(lines)).encode())


def _account(shards: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    accounts: dict[str, Any] = {}
    for part, shard in sorted(shards, key=lambda pair: (pair[0], pair[1]["name"])):
        account = accounts.setdefault(part, {"count": 0, "bytes": 0, "shards": []})
        account["count"] += shard["records"]
        account["bytes"] += shard["bytes"]
        account["shards"].append(shard)
    return accounts
