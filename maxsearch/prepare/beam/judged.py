"""The held-out pairs of a query and a product, sorted for the judgments of their parts."""

import heapq
import zlib
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam

from maxsearch.data.keywords import normalized
from maxsearch.prepare.beam.clicks import Pair
from maxsearch.prepare.beam.sinks import WriteSorted, read_sorted, sorted_files
from maxsearch.prepare.held_out import query_id, write_judged
from maxsearch.prepare.splits import CONDITIONS, TRAIN, condition
from maxsearch.prepare.store import Store

JUDGED = "judged"
FILES = 256  # of each part and condition, which are sorted on their own and merged


class WriteHeldOut(beam.PTransform):
    """From all pairs to files of those held out, by part and condition."""

    def __init__(self, store: Store) -> None:
        """Takes the place."""
        super().__init__()
        self._store = store

    def expand(self, pairs: Any) -> Any:
        """Builds the steps."""
        seen = (
            pairs
            | "Training pairs" >> beam.Filter(lambda pair: pair.part == TRAIN)
            | "Training queries" >> beam.Map(lambda pair: normalized(pair.query))
            | "Distinct queries" >> beam.Distinct()
            | "Key seen by query" >> beam.Map(lambda plain: (plain, True))
        )
        held = (
            pairs
            | "Held-out pairs" >> beam.Filter(lambda pair: pair.part not in (TRAIN, None))
            | "Key held out by query" >> beam.Map(lambda pair: (normalized(pair.query), tuple(pair)))
        )
        return (
            {"seen": seen, "held": held}
            | "Join held out with training" >> beam.CoGroupByKey()
            | "Tell conditions" >> beam.FlatMap(_told)
            | "Files" >> WriteSorted(self._store, JUDGED)
        )


def write_held_out(store: Store, part: str, folder: Path) -> dict[str, Any]:
    """Writes the judgments of every condition that a part has a pair for.

    Args:
      store: where `WriteHeldOut` has written.
      part: the part.
      folder: its folder.

    Returns:
      {condition: what `write_judged` gives}.
    """
    given = {}
    for name in CONDITIONS:
        files = sorted_files(store, JUDGED, f"{part}-{name}-")
        if files:
            given[name] = write_judged(folder, name, _queries(store, files), _pairs(store, files))
    return given


def _told(element: tuple[str, Any]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    plain, joined = element
    seen_query = any(joined["seen"])
    for values in joined["held"]:
        pair = Pair(*values)
        name = condition(seen_query, pair.home == TRAIN)
        yield f"{pair.part}-{name}-{zlib.crc32(plain.encode()) % FILES:03d}", (plain, pair.product_id, pair.query)


def _merged(store: Store, files: list[str]) -> Iterator[list[str]]:
    return heapq.merge(*(read_sorted(store, name) for name in files))


def _queries(store: Store, files: list[str]) -> Iterator[tuple[str, str]]:
    for plain, group in groupby(_merged(store, files), key=itemgetter(0)):
        yield query_id(plain), min(query for _, _, query in group)


def _pairs(store: Store, files: list[str]) -> Iterator[tuple[str, str]]:
    for (plain, product_id), _ in groupby(_merged(store, files), key=itemgetter(0, 1)):
        yield query_id(plain), product_id
