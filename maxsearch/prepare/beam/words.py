"""The keywords' part of the pipeline: the vocabulary of the training part, and the ids of each of its products."""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton
from jaxtyping import Int16

from maxsearch.data.keywords import Lexicon, is_frequent, may_be_keyword, merged_forms, normalized, stem, words_of
from maxsearch.data.product_keywords import product_row
from maxsearch.prepare.beam.sinks import WriteSorted, read_sorted, sorted_files
from maxsearch.prepare.store import Store

KEYWORDS = "keywords"
RANGE = 1 << 16  # products whose keywords one file holds


class Rank(beam.PTransform):
    """The lexicon, as `Lexicon.ranked` makes it, as the one element of a collection."""

    def __init__(self, size: int) -> None:
        """Takes the number of keywords to keep."""
        super().__init__()
        self._size = size

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"queries", "titles"}."""
        asked = (
            inputs["queries"]
            | "Normalize queries" >> beam.Map(normalized)
            | "Distinct queries" >> beam.Distinct()
            | "Words of queries" >> beam.FlatMap(lambda text: [(word, (-1, 0)) for word in set(words_of(text))])
        )
        named = inputs["titles"] | "Words of titles" >> beam.FlatMap(
            lambda text: [(word, (0, -1)) for word in set(words_of(text))]
        )
        return (
            (asked, named)
            | "All words" >> beam.Flatten()
            | "May be keywords" >> beam.Filter(lambda pair: may_be_keyword(pair[0]))
            | "Count words" >> beam.CombinePerKey(beam.combiners.TupleCombineFn(sum, sum))
            | "Key by stem" >> beam.MapTuple(lambda word, counts: (stem(word), (*counts, word)))
            | "Gather forms" >> beam.GroupByKey()
            | "Merge forms" >> beam.MapTuple(lambda _, forms: merged_forms(list(forms)))
            | "Frequent ones" >> beam.Filter(is_frequent)
            | "Most used" >> beam.combiners.Top.Smallest(self._size)
            | "Lexicon" >> beam.Map(lambda forms: Lexicon(tuple(word for _, _, word in forms)))
        )


class WriteKeywords(beam.PTransform):
    """Writes the keywords of products to files whose names sort as the products do."""

    def __init__(self, store: Store, lexicon: Any) -> None:
        """Takes the place, and the lexicon's collection."""
        super().__init__()
        self._store, self._lexicon = store, lexicon

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"texts": (number, (title, texts)), "queries": (number, (place, query))}.

        A query's place says which ones of the same product come before.
        """
        return (
            inputs
            | "Join texts with queries" >> beam.CoGroupByKey()
            | "Find keywords" >> beam.Map(_row, AsSingleton(self._lexicon))
            | "Key by range" >> beam.Map(lambda row: (f"{row[0] // RANGE:08d}", row))
            | "Files" >> WriteSorted(self._store, KEYWORDS)
        )


def read_keywords(store: Store) -> Iterator[Int16[np.ndarray, " 48"]]:
    """The keywords of every product, in their order."""
    for name in sorted_files(store, KEYWORDS):
        for _, row in read_sorted(store, name):
            yield np.array(row, np.int16)


def _row(element: tuple[int, dict[str, Iterable[Any]]], lexicon: Lexicon) -> tuple[int, list[int]]:
    number, joined = element
    ((title, texts),) = joined["texts"]
    queries = [query for _, query in sorted(joined["queries"])]
    return number, product_row(lexicon, title, queries, texts).tolist()
