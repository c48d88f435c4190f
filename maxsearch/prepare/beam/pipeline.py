"""The whole pipeline: two tables in; shards, keywords, letters and accounts out."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import apache_beam as beam

from maxsearch.data.catalogue import INTERACTIONS_FILE, PRODUCTS_FILE
from maxsearch.data.records import Interaction, pack_interaction, unpack_product
from maxsearch.data.tables.parts import table_at
from maxsearch.prepare.beam import clicks, products
from maxsearch.prepare.beam.clicks import JoinAndSum, Pair, added, click_of
from maxsearch.prepare.beam.judged import WriteHeldOut
from maxsearch.prepare.beam.letters import LETTERS, WriteLetters
from maxsearch.prepare.beam.numbering import Number
from maxsearch.prepare.beam.products import Choose, Finish, packed_product
from maxsearch.prepare.beam.rows import ReadTable
from maxsearch.prepare.beam.sinks import ACCOUNTS, WriteShards, WriteSorted
from maxsearch.prepare.beam.words import Rank, WriteKeywords
from maxsearch.prepare.options import PrepareOptions
from maxsearch.prepare.splits import TRAIN
from maxsearch.prepare.steps import Rules
from maxsearch.prepare.store import Store


def build(pipeline: Any, options: PrepareOptions, store: Store) -> None:
    """Adds all steps to a pipeline.

    Args:
      pipeline: an empty beam.Pipeline.
      options: checked ones.
      store: where the files go, for all workers and this process.
    """
    rules = Rules.of(options)
    catalogue, log = table_at(options.products), table_at(options.interactions)
    listed = pipeline | "Products" >> ReadTable(
        catalogue, PRODUCTS_FILE, products.KIND, partial(packed_product, rules=rules), spread=True
    )
    chosen, repeats = listed.rows | "Choose products" >> Choose(catalogue, options.splits)
    numbers, product_totals = chosen | "Number products" >> Number()
    finished = {"rows": listed.rows, "numbers": numbers} | "Finish products" >> Finish()

    clicked = pipeline | "Interactions" >> ReadTable(
        log, INTERACTIONS_FILE, clicks.KIND, partial(click_of, rules=rules), spread=False
    )
    pairs, unusable = {"clicks": clicked.rows, "numbers": numbers} | "Add up clicks" >> JoinAndSum(options.splits)
    # A part's shards hold only those pairs whose product they hold.
    own = pairs | "Pairs of own products" >> beam.MapTuple(_own) | "Known parts" >> beam.Filter(lambda pair: pair[0])
    ordered, pair_totals = own | "Number interactions" >> Number()
    packed = ordered | "Pack interactions" >> beam.MapTuple(_packed)

    described = finished["products"] | "Describe products" >> beam.MapTuple(_described)
    failures = (listed.failures, clicked.failures) | "All failures" >> beam.Flatten()
    accounts = {
        "products": finished["products"] | "Product shards" >> WriteShards(store, "products", options, product_totals),
        "interactions": packed | "Interaction shards" >> WriteShards(store, "interactions", options, pair_totals),
        "attributes": described
        | "Names of attributes" >> beam.FlatMapTuple(lambda part, _, texts: [(part, name) for name in texts[2]])
        | "Distinct attributes" >> beam.Distinct(),
        "queries": ordered
        | "Queries" >> beam.MapTuple(lambda part, number, order, pair: (part, pair.query))
        | "Distinct queries" >> beam.Distinct()
        | "Count queries" >> beam.combiners.Count.PerKey(),
        "weights": ordered
        | "Weights" >> beam.MapTuple(lambda part, number, order, pair: (part, pair.weight))
        | "Add up weights" >> beam.CombinePerKey(SumExactly()),
        "pairs": pairs | "Count pairs" >> beam.combiners.Count.Globally(),
        "product_rows": listed.counts,
        "interaction_rows": clicked.counts,
        "failures": failures | "First failures" >> beam.combiners.Top.Smallest(1),
    }
    if options.screening is not None:
        accounts["screened_rows"] = (
            numbers
            | "Training products" >> beam.Filter(lambda chosen: chosen[0] == TRAIN)
            | "Their rows" >> beam.Map(lambda chosen: (chosen[1], chosen[2]))
        )
    if options.keywords:
        accounts["keywords"] = _add_keywords(described, ordered, options.keywords, store)
    if options.splits is not None:
        _ = pairs | "Pairs" >> beam.Values() | "Held-out judgments" >> WriteHeldOut(store)
    named = [values | f"Name {name}" >> beam.Map(_under, name) for name, values in accounts.items()]
    _ = named | "All accounts" >> beam.Flatten() | "Accounts" >> WriteSorted(store, ACCOUNTS)
    letters = (listed.letters, repeats, finished[LETTERS], clicked.letters, unusable)
    _ = letters | "All letters" >> beam.Flatten() | "Letters" >> WriteLetters(store)


class SumExactly(beam.CombineFn):
    """The exactly rounded sum, whatever the order; infinite where it is larger than any float."""

    def create_accumulator(self) -> tuple[float, ...]:
        """Nothing yet."""
        return ()

    def add_input(self, partials: tuple[float, ...], value: float) -> tuple[float, ...]:
        """Adds a number."""
        return self.merge_accumulators([partials, (value,)])

    def merge_accumulators(self, several: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        """Adds sums to one another."""
        values = [partial for partials in several for partial in partials]
        try:
            return (math.inf,) if math.inf in values else added((), values)
        except OverflowError:
            return (math.inf,)

    def extract_output(self, partials: tuple[float, ...]) -> float:
        """Rounds the sum."""
        return math.fsum(partials)


def _add_keywords(described: Any, ordered: Any, size: int, store: Store) -> Any:
    """Adds the steps for the keywords of the training part; gives the list of them."""
    training = described | "Training texts" >> beam.Filter(lambda product: product[0] == TRAIN)
    asked = ordered | "Training pairs" >> beam.Filter(lambda pair: pair[0] == TRAIN)
    lexicon = {
        "queries": asked | "Training queries" >> beam.MapTuple(lambda part, number, order, pair: pair.query),
        "titles": training | "Training titles" >> beam.MapTuple(lambda part, number, texts: texts[0]),
    } | "Rank keywords" >> Rank(size)
    _ = {
        "texts": training
        | "Texts by product" >> beam.MapTuple(lambda part, number, texts: (number, (texts[0], texts[1]))),
        "queries": asked
        | "Queries by product" >> beam.MapTuple(lambda part, number, order, pair: (pair.number, (number, pair.query))),
    } | "Keywords of products" >> WriteKeywords(store, lexicon)
    return lexicon | "List keywords" >> beam.Map(lambda lexicon: list(lexicon.words))


def _under(value: Any, name: str) -> tuple[str, Any]:
    return name, value


def _own(first: Any, pair: Pair) -> tuple[str, Any, Pair]:
    return pair.home if pair.part == pair.home else "", first, pair


def _packed(part: str, number: int, _: Any, pair: Pair) -> tuple[str, int, bytes]:
    return part, number, pack_interaction(Interaction(pair.query, pair.number, pair.weight))


def _described(part: str, number: int, packed: bytes) -> tuple[str, int, tuple[str, list[str], list[str]]]:
    """A product's title, texts and names of attributes."""
    product = unpack_product(packed)
    return part, number, (product.title, list(product.texts), list(product.attributes))
