"""Dense numbers for the elements of a pipeline, in their order, without any worker seeing them all.

The elements are cut into ranges of neighbours; each range is counted and sorted by itself, and starts where the ranges
before it end.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

Order = tuple[int, int, int]
"""A row's place in its table: the file's number, how many rows of the file come before, and the row's number there.

Of two rows, the one that a reader of the whole table meets first has the smaller one.
"""

RANGE = 1 << 16  # neighbours that are sorted in memory: they are small, never pictures

Range = tuple[str, int, int]


class Number(beam.PTransform):
    """From (part, order, value) to (part, number, order, value), and {part: count} as a second output.

    An order comes once; the numbers of each part count from 0.
    """

    def expand(self, elements: Any) -> Any:
        """Builds the steps."""
        ranges = elements | "Key by range" >> beam.Map(_with_range) | "Gather ranges" >> beam.GroupByKey()
        counts = (
            ranges
            | "Count ranges" >> beam.MapTuple(lambda key, group: (key, sum(1 for _ in group)))
            | "List counts" >> beam.combiners.ToList()
        )
        starts = counts | "Where ranges start" >> beam.Map(_starts)
        return ranges | "Number" >> beam.FlatMap(_numbered, AsSingleton(starts)), counts | "Totals" >> beam.Map(_totals)


def _with_range(element: tuple[str, Order, Any]) -> tuple[Range, tuple[Order, Any]]:
    part, order, value = element
    return (part, order[0], order[1] // RANGE), (order, value)


def _starts(counts: Iterable[tuple[Range, int]]) -> dict[Range, int]:
    done: Counter[str] = Counter()
    starts = {}
    for key, count in sorted(counts):
        starts[key] = done[key[0]]
        done[key[0]] += count
    return starts


def _totals(counts: Iterable[tuple[Range, int]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (part, *_), count in counts:
        totals[part] += count
    return dict(totals)


def _numbered(element: tuple[Range, Iterable[tuple[Order, Any]]], starts: dict[Range, int]) -> Iterator[Any]:
    key, group = element
    for number, (order, value) in enumerate(sorted(group, key=lambda pair: pair[0]), start=starts[key]):
        yield key[0], number, order, value
