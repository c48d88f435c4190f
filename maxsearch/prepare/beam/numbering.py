"""Dense numbers for the elements of a pipeline, in their order, without any worker seeing them all.

The elements are cut into ranges of neighbours; each range is counted and sorted by itself, and starts where the ranges
before it end.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import apache_beam as beam

Order = tuple[int, int, int]
"""A row's place in its table: the file's number, how many rows of it come before, and the row's number there.

Of two rows, the one that a reader of the whole table meets first has the smaller one.
"""

RANGE = 1 << 16  # neighbours that are sorted in memory: they are small, never pictures

Range = tuple[int, int]


def range_of(order: Order) -> Range:
    """The range that a row belongs to; ranges sort as their rows do."""
    return order[0], order[1] // RANGE


class Number(beam.PTransform):
    """From (order, value), each order once, to (number, order, value), and the count of all as a second output."""

    def expand(self, elements: Any) -> Any:
        """Builds the steps."""
        ranges = (
            elements
            | "Key by range" >> beam.Map(lambda element: (range_of(element[0]), element))
            | "Gather ranges" >> beam.GroupByKey()
        )
        counts = (
            ranges
            | "Count ranges" >> beam.MapTuple(lambda key, group: (key, sum(1 for _ in group)))
            | "List counts" >> beam.combiners.ToList()
        )
        starts = counts | "Where ranges start" >> beam.Map(_starts)
        total = counts | "Count all" >> beam.Map(lambda pairs: sum(count for _, count in pairs))
        return ranges | "Number" >> beam.FlatMap(_numbered, beam.pvalue.AsSingleton(starts)), total


def _starts(counts: Iterable[tuple[Range, int]]) -> dict[Range, int]:
    counts = sorted(counts)
    return dict(zip((key for key, _ in counts), accumulate((count for _, count in counts), initial=0), strict=False))


def _numbered(element: tuple[Range, Iterable[tuple[Order, Any]]], starts: dict[Range, int]) -> Iterator[Any]:
    key, group = element
    for number, (order, value) in enumerate(sorted(group, key=lambda pair: pair[0]), start=starts[key]):
        yield number, order, value
