"""The products' half of the pipeline."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from maxsearch.prepare.steps import ReadProduct, Rules, read_product, repeated, variant_of

from maxsearch.data.records import pack_product, unpack_product
from maxsearch.data.table_files import Table
from maxsearch.data.table_formats import BadRecord
from maxsearch.prepare.beam.letters import LETTERS, letter
from maxsearch.prepare.beam.numbering import Order
from maxsearch.prepare.beam.rows import said

KIND = 0


def packed_product(cells: Any, rules: Rules) -> Any:
    """What `read_product` gives, as (id, twin key, packed product, lost pictures as (code, reason)), or its fault."""
    read = read_product(cells, rules)
    if isinstance(read, BadRecord):
        return read
    lost = [(bad.code, bad.reason) for bad in read.lost]
    return read.product.product_id, read.twin, pack_product(read.product), lost


class KeepFirst(beam.PTransform):
    """From the rows to (order, id, number of products with its twin key) of each first row of an id; and letters."""

    def __init__(self, table: Table) -> None:
        """Takes the products' table, for the letters."""
        super().__init__()
        self._table = table

    def expand(self, rows: Any) -> Any:
        """Builds the steps."""
        first = (
            rows
            | "Key by id" >> beam.MapTuple(lambda order, made: (made[0], (order, made[1])))
            | "Gather rows of an id" >> beam.GroupByKey()
            | "Keep the first" >> beam.ParDo(_First(self._table)).with_outputs(LETTERS, main="first")
        )
        apart = first["first"] | "Without twin key" >> beam.Filter(lambda kept: not kept[2])
        twins = (
            first["first"]
            | "With twin key" >> beam.Filter(lambda kept: bool(kept[2]))
            | "Key by twin key" >> beam.Map(lambda kept: (kept[2], kept[:2]))
            | "Gather twins" >> beam.GroupByKey()
            | "Count twins" >> beam.FlatMap(_counted)
        )
        kept = (apart | "No twins" >> beam.Map(lambda kept: (*kept[:2], 0)), twins) | "All kept" >> beam.Flatten()
        return kept, first[LETTERS]


class _First(beam.DoFn):
    def __init__(self, table: Table) -> None:
        self._table = table

    def process(self, element: tuple[str, Iterable[tuple[Order, str]]]) -> Iterator[Any]:
        product_id, group = element
        (first, twin), *others = sorted(group)
        yield first, product_id, twin
        if others:
            bad = repeated(product_id, said(self._table, first))
            for order, _ in others:
                yield pvalue.TaggedOutput(LETTERS, letter(KIND, order, bad))


def _counted(element: tuple[str, Iterable[tuple[Order, str]]]) -> Iterator[tuple[Order, str, int]]:
    count = sum(1 for _ in element[1])
    for order, product_id in element[1]:
        yield order, product_id, count


class Finish(beam.PTransform):
    """Joins rows with the numbers of those kept: (number, packed product); and letters of their lost pictures."""

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"rows", "numbers": (number, order, (id, twins))}."""
        numbers = inputs["numbers"] | "Key numbers by row" >> beam.Map(lambda kept: (kept[1], (kept[0], kept[2][1])))
        return (
            {"rows": inputs["rows"], "numbers": numbers}
            | "Join products with numbers" >> beam.CoGroupByKey()
            | "Finish products" >> beam.ParDo(_Finish()).with_outputs(LETTERS, main="products")
        )


class _Finish(beam.DoFn):
    def process(self, element: Any) -> Iterator[Any]:
        order, joined = element
        for number, twins in joined["numbers"]:  # none for a row that repeats an id
            ((_, twin, packed, lost),) = joined["rows"]
            if twins > 1:
                read = ReadProduct(unpack_product(packed), twin=twin)
                packed = pack_product(replace(read.product, variant=variant_of(read, twins)))
            yield number, packed
            for picture, (code, reason) in enumerate(lost, start=1):
                yield pvalue.TaggedOutput(LETTERS, letter(KIND, order, BadRecord(code, reason), picture))
