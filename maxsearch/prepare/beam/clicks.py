"""The interactions' half of the pipeline: clicks joined with products and summed."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from maxsearch.data.tables.formats import BadRecord
from maxsearch.prepare.beam.letters import LETTERS, letter
from maxsearch.prepare.beam.numbering import Order
from maxsearch.prepare.splits import TRAIN, Splits
from maxsearch.prepare.steps import Rules, infinite_total, read_click, unknown_product
from maxsearch.prepare.totals import ExactSum

KIND = 1
HUGE = 2.0**960  # weights below it do not make a sum infinite, whatever their number


class Pair(NamedTuple):
    """A query and a product that it led to.

    Attributes:
      query: the query.
      product_id: the product.
      home: the product's part.
      number: its place there.
      part: the pair's own part; None for none.
      weight: the rounded sum of its clicks' weights.
    """

    query: str
    product_id: str
    home: str
    number: int
    part: str | None
    weight: float


Sums = tuple[tuple[float, ...], Order | None, tuple[tuple[Order, float], ...]]


def click_of(cells: Any, rules: Rules) -> Any:
    """What `read_click` gives, as (query, product id, weight), or its fault."""
    click = read_click(cells, rules)
    return click if isinstance(click, BadRecord) else (click.query, click.product_id, click.weight)


class JoinAndSum(beam.PTransform):
    """From clicks and products to (first order, pair) of each query and product, and letters; see `Pair`."""

    def __init__(self, splits: Splits | None) -> None:
        """Takes what is held out."""
        super().__init__()
        self._splits = splits

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"clicks": (order, click), "numbers": (part, number, order, (id, variant))}."""
        clicks = inputs["clicks"] | "Key clicks by product" >> beam.MapTuple(
            lambda order, click: (click[1], (order, click[0], click[2]))
        )
        numbers = inputs["numbers"] | "Key numbers by product" >> beam.Map(
            lambda chosen: (chosen[3][0], (chosen[0], chosen[1]))
        )
        joined = (
            {"clicks": clicks, "numbers": numbers}
            | "Join clicks with products" >> beam.CoGroupByKey()
            | "Keep known products" >> beam.ParDo(_Join()).with_outputs(LETTERS, main="joined")
        )
        summed = (
            joined["joined"]
            | "Sum by query and product" >> beam.CombinePerKey(SumClicks())
            | "Round sums" >> beam.ParDo(_Round(self._splits)).with_outputs(LETTERS, main="pairs")
        )
        return summed["pairs"], (joined[LETTERS], summed[LETTERS]) | "Letters of clicks" >> beam.Flatten()


class _Join(beam.DoFn):
    def process(self, element: Any) -> Iterator[Any]:
        product_id, joined = element
        place = next(iter(joined["numbers"]), None)
        bad = unknown_product(product_id)
        for order, query, weight in joined["clicks"]:
            if place is None:
                yield TaggedOutput(LETTERS, letter(KIND, order, bad))
            else:
                yield (query, product_id, *place), (order, weight)


class SumClicks(beam.CombineFn):
    """The first order, the exact sum of the weights, and apart from it those that may make it infinite."""

    def create_accumulator(self) -> Sums:
        """Nothing yet."""
        return (), None, ()

    def add_input(self, sums: Sums, click: tuple[Order, float]) -> Sums:
        """Adds one click."""
        partials, first, huge = sums
        order, weight = click
        first = order if first is None else min(first, order)
        if weight >= HUGE:
            return partials, first, (*huge, click)
        return added(partials, (weight,)), first, huge

    def merge_accumulators(self, several: Iterable[Sums]) -> Sums:
        """Adds sums to one another."""
        merged = self.create_accumulator()
        for partials, first, huge in several:
            known = [order for order in (merged[1], first) if order is not None]
            merged = added(merged[0], partials), min(known, default=None), (*merged[2], *huge)
        return merged

    def extract_output(self, sums: Sums) -> Sums:
        """The sums as they are."""
        return sums


class _Round(beam.DoFn):
    def __init__(self, splits: Splits | None) -> None:
        self._splits = splits

    def process(self, element: tuple[tuple[str, str, str, int], Sums]) -> Iterator[Any]:
        (query, product_id, home, number), (partials, first, huge) = element
        total = ExactSum(partials)
        for order, weight in sorted(huge):
            try:
                total.add(weight)
            except OverflowError:
                yield TaggedOutput(LETTERS, letter(KIND, order, infinite_total()))
        part = TRAIN if self._splits is None else self._splits.of_pair(query, product_id, home)
        yield first, Pair(query, product_id, home, number, part, total.value)


def added(partials: tuple[float, ...], more: Iterable[float]) -> tuple[float, ...]:
    """The partials of an `ExactSum` with further numbers."""
    total = ExactSum()
    total.partials = partials
    for value in more:
        total.add(value)
    return total.partials
