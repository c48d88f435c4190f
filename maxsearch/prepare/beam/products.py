"""The products' half of the pipeline."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from maxsearch.data.records import pack_product, unpack_product
from maxsearch.data.tables.files import Table
from maxsearch.data.tables.formats import BadRecord
from maxsearch.prepare.beam.letters import LETTERS, letter
from maxsearch.prepare.beam.numbering import Order
from maxsearch.prepare.beam.rows import said
from maxsearch.prepare.splits import TRAIN, Splits
from maxsearch.prepare.steps import Rules, duplicate_id, read_product, variant_of

KIND = 0

Traits = tuple[str, str, str]
"""A product's id, its variant in the catalogue, and its twin key."""


def packed_product(cells: Any, rules: Rules) -> Any:
    """What `read_product` gives, as (traits, packed product, lost pictures as (code, reason)), or its fault."""
    read = read_product(cells, rules)
    if isinstance(read, BadRecord):
        return read
    traits = read.product.product_id, read.product.variant, read.twin
    return traits, pack_product(read.product), [(bad.code, bad.reason) for bad in read.lost]


class Choose(beam.PTransform):
    """From the rows to (part, order, (id, variant group)) of each first row of an id, and the other rows' letters."""

    def __init__(self, table: Table, splits: Splits | None) -> None:
        """Takes the products' table, for the letters, and what is held out."""
        super().__init__()
        self._table, self._splits = table, splits

    def expand(self, rows: Any) -> Any:
        """Builds the steps."""
        firsts = (
            rows
            | "Key by id" >> beam.MapTuple(lambda order, made: (made[0][0], (order, *made[0][1:])))
            | "Gather rows of an id" >> beam.GroupByKey()
            | "Keep the first" >> beam.ParDo(_First(self._table)).with_outputs(LETTERS, main="firsts")
        )
        alone = firsts["firsts"] | "Without twin key" >> beam.Filter(lambda first: not first[1][2])
        alike = (
            firsts["firsts"]
            | "With twin key" >> beam.Filter(lambda first: bool(first[1][2]))
            | "Key by twin key" >> beam.Map(lambda first: (first[1][2], first))
            | "Gather twins" >> beam.GroupByKey()
            | "Name their variant" >> beam.FlatMap(_named)
        )
        chosen = (
            (
                alone | "Keep their variant" >> beam.MapTuple(lambda order, traits: (order, (traits[0], traits[1]))),
                alike,
            )
            | "All products" >> beam.Flatten()
            | "Choose the part" >> beam.Map(_dealt, self._splits)
        )
        return chosen, firsts[LETTERS]


class Finish(beam.PTransform):
    """From rows and (part, number, order, (id, variant)) to (part, number, packed product), and letters of pictures."""

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"rows", "numbers"}."""
        numbers = inputs["numbers"] | "Key numbers by row" >> beam.Map(
            lambda chosen: (chosen[2], (chosen[0], chosen[1], chosen[3][1]))
        )
        return (
            {"rows": inputs["rows"], "numbers": numbers}
            | "Join products with numbers" >> beam.CoGroupByKey()
            | "Finish" >> beam.ParDo(_Finish()).with_outputs(LETTERS, main="products")
        )


class _First(beam.DoFn):
    def __init__(self, table: Table) -> None:
        self._table = table

    def process(self, element: tuple[str, Iterable[tuple[Order, str, str]]]) -> Iterator[Any]:
        product_id, group = element
        (first, variant, twin), *others = sorted(group)
        yield first, (product_id, variant, twin)
        if others:
            bad = duplicate_id(product_id, said(self._table, first))
            for order, *_ in others:
                yield TaggedOutput(LETTERS, letter(KIND, order, bad))


class _Finish(beam.DoFn):
    def process(self, element: Any) -> Iterator[Any]:
        order, joined = element
        for part, number, variant in joined["numbers"]:  # none for a row that repeats an id
            (((_, own, _), packed, lost),) = joined["rows"]
            yield part, number, packed if variant == own else _with_variant(packed, variant)
            for picture, (code, reason) in enumerate(lost, start=1):
                yield TaggedOutput(LETTERS, letter(KIND, order, BadRecord(code, reason), picture))


def _named(element: tuple[str, Iterable[tuple[Order, Traits]]]) -> Iterator[tuple[Order, tuple[str, str]]]:
    twin, group = element
    twins = sum(1 for _ in group)
    for order, (product_id, variant, _) in group:
        yield order, (product_id, variant_of(variant, twin, twins))


def _dealt(element: tuple[Order, tuple[str, str]], splits: Splits | None) -> tuple[str, Order, tuple[str, str]]:
    order, chosen = element
    return TRAIN if splits is None else splits.of_product(*chosen), order, chosen


def _with_variant(packed: bytes, variant: str) -> bytes:
    return pack_product(replace(unpack_product(packed), variant=variant))
