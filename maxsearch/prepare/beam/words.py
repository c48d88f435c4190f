"""The keywords' part of the pipeline: the vocabulary, and the ids of every product."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue

from maxsearch.data.keywords import (
    KEYWORDS,
    PRODUCT_KEYWORDS,
    Form,
    Lexicon,
    is_frequent,
    may_be_keyword,
    merged_forms,
    normalized,
    stem,
    words_of,
)
from maxsearch.data.product_keywords import keyword_row
from maxsearch.data.records import unpack_product
from maxsearch.prepare.beam.sinks import write_whole

TABLE_ROWS = ".keywords"
ROW_TYPE = np.dtype("<i2")
RANGE = 1 << 16  # products whose rows one file holds


class Rank(beam.PTransform):
    """The lexicon of a catalogue, as `Lexicon.ranked` makes it, as the one element of a collection."""

    def __init__(self, size: int) -> None:
        """Takes the number of keywords to keep."""
        super().__init__()
        self._size = size

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"queries": distinct ones, "titles": one per product}."""
        asked = (
            inputs["queries"]
            | "Normalize queries" >> beam.Map(normalized)
            | "Distinct but for case" >> beam.Distinct()
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
            | "Lexicon" >> beam.Map(_lexicon)
        )


class WriteKeywords(beam.PTransform):
    """Writes the lexicon, and the rows of keywords.npy to files whose names sort as the products do."""

    def __init__(self, folder: Path, lexicon: Any) -> None:
        """Takes the draft's folder and the lexicon's collection."""
        super().__init__()
        self._folder, self._lexicon = folder, lexicon

    def expand(self, inputs: Any) -> Any:
        """Builds the steps from {"products": (number, packed), "clicks": (number, (interaction's number, query))}."""
        folder = self._folder
        _ = self._lexicon | "Write the lexicon" >> beam.Map(lambda lexicon: lexicon.save(folder / KEYWORDS))
        texts = inputs["products"] | "Texts of products" >> beam.MapTuple(_texts)
        return (
            {"texts": texts, "queries": inputs["clicks"]}
            | "Join texts with queries" >> beam.CoGroupByKey()
            | "Find keywords" >> beam.Map(_row, pvalue.AsSingleton(self._lexicon))
            | "Key by range" >> beam.MapTuple(lambda number, row: (number // RANGE, (number, row)))
            | "Gather ranges" >> beam.GroupByKey()
            | "Write rows" >> beam.MapTuple(lambda key, rows: _write(folder / TABLE_ROWS, key, rows))
        )


def join_rows(folder: Path, products: int, path: Path) -> None:
    """Makes keywords.npy of the rows in a draft's folder."""
    with path.open("wb") as stream:
        shape = {"descr": ROW_TYPE.str, "fortran_order": False, "shape": (products, PRODUCT_KEYWORDS)}
        np.lib.format.write_array_header_1_0(stream, shape)
        for part in sorted((folder / TABLE_ROWS).iterdir()):
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _lexicon(forms: list[Form]) -> Lexicon:
    return Lexicon(tuple(word for _, _, word in forms))


def _texts(number: int, packed: bytes) -> tuple[int, tuple[str, tuple[str, ...]]]:
    product = unpack_product(packed)
    return number, (product.title, product.texts)


def _row(element: tuple[int, Any], lexicon: Lexicon) -> tuple[int, bytes]:
    number, joined = element
    ((title, texts),) = joined["texts"]
    queries = (query for _, query in sorted(joined["queries"]))
    return number, keyword_row(lexicon, title, queries, texts).astype(ROW_TYPE).tobytes()


def _write(folder: Path, key: int, rows: Iterable[tuple[int, bytes]]) -> None:
    write_whole(folder / f"{key:012d}.rows", b"".join(row for _, row in sorted(rows)))
