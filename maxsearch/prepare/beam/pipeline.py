"""The whole pipeline: two tables in, shards, keywords, letters and their accounts out."""

from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from maxsearch.prepare.options import PrepareOptions
from maxsearch.prepare.steps import Rules
from maxsearch.prepare.totals import ExactSum

from maxsearch.data.catalogue import INTERACTIONS_FILE, PRODUCTS_FILE
from maxsearch.data.records import Interaction, pack_interaction, unpack_product
from maxsearch.data.table_parts import table_at
from maxsearch.prepare.beam import clicks, products
from maxsearch.prepare.beam.clicks import JoinAndSum, click_of
from maxsearch.prepare.beam.letters import LETTERS, WriteLetters
from maxsearch.prepare.beam.numbering import Number
from maxsearch.prepare.beam.products import Finish, KeepFirst, packed_product
from maxsearch.prepare.beam.rows import ReadTable
from maxsearch.prepare.beam.sinks import WriteAccount, WriteShards
from maxsearch.prepare.beam.words import Rank, WriteKeywords


def build(pipeline: Any, options: PrepareOptions, draft: Path) -> None:
    """Adds all steps to a pipeline.

    Args:
      pipeline: an empty beam.Pipeline.
      options: checked ones.
      draft: the folder to fill, which all workers and this process see.
    """
    rules = Rules.of(options)
    listed, interacted = table_at(options.products), table_at(options.interactions)
    read = pipeline | "Products" >> ReadTable(
        listed, PRODUCTS_FILE, products.KIND, partial(packed_product, rules=rules), spread=True
    )
    kept, repeats = read.rows | "Unique products" >> KeepFirst(listed)
    numbers, product_total = (
        kept | "By row" >> beam.Map(lambda kept: (kept[0], kept[1:])) | "Number products" >> Number()
    )
    finished = {"rows": read.rows, "numbers": numbers} | "Finished products" >> Finish()
    packed = finished["products"]

    clicked = pipeline | "Interactions" >> ReadTable(
        interacted, INTERACTIONS_FILE, clicks.KIND, partial(click_of, rules=rules), spread=False
    )
    summed, unusable = {"clicks": clicked.rows, "numbers": numbers} | "Summed clicks" >> JoinAndSum()
    pairs, pair_total = summed | "Number interactions" >> Number()

    accounts = {
        "products": packed | "Product shards" >> WriteShards(draft, "products", options.shard_records, product_total),
        "interactions": pairs
        | "Pack interactions" >> beam.Map(lambda pair: (pair[0], pack_interaction(Interaction(*pair[2]))))
        | "Interaction shards" >> WriteShards(draft, "interactions", options.shard_records, pair_total),
        "attributes": packed
        | "Names of attributes" >> beam.FlatMap(lambda product: list(unpack_product(product[1]).attributes))
        | "Distinct attributes" >> beam.Distinct()
        | "List attributes" >> beam.combiners.ToList(),
        "total_weight": pairs
        | "Weights" >> beam.Map(lambda pair: pair[2][2])
        | "Sum weights" >> beam.CombineGlobally(SumExactly()),
        "product_rows": read.counts | "List product counts" >> beam.combiners.ToList(),
        "interaction_rows": clicked.counts | "List interaction counts" >> beam.combiners.ToList(),
        "failures": (read.failures, clicked.failures)
        | "All failures" >> beam.Flatten()
        | "First failure" >> beam.combiners.Top.Smallest(1),
    }
    queries = pairs | "Queries" >> beam.Map(lambda pair: pair[2][0]) | "Distinct queries" >> beam.Distinct()
    accounts["queries"] = queries | "Count queries" >> beam.combiners.Count.Globally()
    if options.screening is not None:
        accounts["kept_rows"] = (
            numbers
            | "Rows of products" >> beam.Map(lambda kept: (kept[0], kept[1]))
            | "List rows of products" >> beam.combiners.ToList()
        )
    if options.keywords:
        titles = packed | "Titles" >> beam.Map(lambda product: unpack_product(product[1]).title)
        lexicon = {"queries": queries, "titles": titles} | "Rank keywords" >> Rank(options.keywords)
        asked = pairs | "Queries by product" >> beam.Map(lambda pair: (pair[2][1], (pair[0], pair[2][0])))
        _ = {"products": packed, "clicks": asked} | "Keywords of products" >> WriteKeywords(draft, lexicon)
        accounts["keywords"] = lexicon | "Count keywords" >> beam.Map(len)
    for name, value in accounts.items():
        _ = value | f"Account of {name}" >> WriteAccount(draft, name)
    letters = (read.letters, repeats, finished[LETTERS], clicked.letters, unusable)
    _ = letters | "All letters" >> beam.Flatten() | "Letters" >> WriteLetters(draft)


class SumExactly(beam.CombineFn):
    """The exactly rounded sum, whatever the order."""

    def create_accumulator(self) -> tuple[float, ...]:
        """Nothing yet."""
        return ()

    def add_input(self, partials: tuple[float, ...], value: float) -> tuple[float, ...]:
        """Adds a number."""
        return ExactSum([*partials, value]).partials

    def merge_accumulators(self, several: Any) -> tuple[float, ...]:
        """Adds sums to one another."""
        return ExactSum(partial for partials in several for partial in partials).partials

    def extract_output(self, partials: tuple[float, ...]) -> float:
        """Rounds the sum."""
        return ExactSum(partials).value
