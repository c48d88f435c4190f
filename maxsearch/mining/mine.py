"""Hard negatives of every query: a trained model searches the catalogue, and likely positives are left out."""

import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.keywords import normalized
from maxsearch.data.negatives import NEGATIVES, NONE, QUERIES, TABLE, query_key
from maxsearch.data.product_keywords import CatalogueKeywords
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import directory_in_place
from maxsearch.manifest import require_replaceable, write_manifest
from maxsearch.mining.filters import REASONS, MiningOptions, has_all_words, same_variant, too_close
from maxsearch.progress import Progress
from maxsearch.serving.build import build_index
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.index import LoadedIndex, open_index

QUERY_BLOCK = 256


@dataclass(frozen=True)
class Asked:
    """The distinct queries of a dataset, and what was clicked for each; queries that differ in case, width or spaces
    only are one.

    Attributes:
      queries: one spelling of each.
      products: rows of the products with a click, rising. The index holds these alone: the stream draws a negative
        with one of its own clicks, so that others could not be drawn.
      clicked: for each query, one after the other, the places in `products` of what was clicked.
      ends: where each query's part of `clicked` ends.
    """

    queries: list[str]
    products: Int64[np.ndarray, " N"]
    clicked: Int64[np.ndarray, " C"]
    ends: Int64[np.ndarray, " Q"]

    @classmethod
    def read(cls, dataset: PreparedDataset) -> "Asked":
        """Reads all interactions."""
        numbers: dict[str, int] = {}
        queries: list[str] = []
        asked, rows = array("q"), array("q")
        for interaction in dataset.interactions:
            number = numbers.setdefault(normalized(interaction.query), len(numbers))
            if number == len(queries):
                queries.append(interaction.query)
            asked.append(number)
            rows.append(interaction.product)
        products, places = np.unique(np.frombuffer(rows, np.int64), return_inverse=True)
        pairs = np.unique(np.frombuffer(asked, np.int64) * len(products) + places)
        ends = np.cumsum(np.bincount(pairs // len(products), minlength=len(queries)))
        return cls(queries, products, pairs % len(products), ends)

    def of(self, number: int) -> Int64[np.ndarray, " P"]:
        """The places of what was clicked for a query."""
        return self.clicked[self.ends[number - 1] if number else 0 : self.ends[number]]


def mine(
    encoder: EmbeddingModel,
    dataset: PreparedDataset,
    out: Path,
    options: MiningOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes a folder of negatives, which appears whole or not at all.

    Of each query's results in the window of ranks are left out: what was clicked for it, products of the same variant
    group, products that have all its words, and what scores about as well as a positive. The hardest of the others are
    kept. Exact or by ScaNN, as `build_index` chooses; the index is made beside `out` and removed.

    Args:
      encoder: the model.
      dataset: the prepared data.
      out: the folder; an older folder of negatives there is replaced.
      options: which results become negatives.
      progress: reports products embedded and queries searched.

    Returns:
      The manifest: with the fingerprints of model and data, and, counted, the results looked at (`searched`), left out
      by reason (`left_out`) and kept (`negatives`), and the queries without a negative (`without`).

    Raises:
      UsageError: an option is out of range, the data have no keywords, or another folder stands at `out`.
      MaxsearchError: no negative is left, or a vector is not finite.
    """
    options = options or MiningOptions()
    options.check()
    if options.keywords and dataset.keywords is None:
        raise UsageError(
            f"{dataset.path} was prepared without keywords, which tell likely positives: prepare it again with "
            "--keywords above 0, or mine with --no-keywords"
        )
    require_replaceable(out, [NEGATIVES])
    asked = Asked.read(dataset)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.index.") as draft:
        groups = _Groups()
        catalogue = groups.noted(_chosen(dataset, asked.products))
        tracked = (
            catalogue if progress is None else progress.track(catalogue, "embedding products", len(asked.products))
        )
        build_index(encoder, tracked, Path(draft) / "index")
        index = open_index(Path(draft) / "index", checksums=False)
        words = dataset.keywords if options.keywords else None
        miner = _Miner(encoder, index, asked, groups.numbers, words, options)
        blocks = range(0, len(asked.queries), QUERY_BLOCK)
        for start in blocks if progress is None else progress.track(blocks, f"searching, {QUERY_BLOCK} queries each"):
            miner.search(start)
    table, counts = miner.table, miner.counts
    without = int((table[:, 0] == NONE).sum())
    if without == len(table):
        raise MaxsearchError(
            f"no negative is left for any query of {dataset.path} (of {sum(counts.values()):,} results, left out "
            f"{', '.join(f'{counts[name]:,} by {name}' for name in REASONS)}): raise --to-rank or --max-ratio"
        )
    keys = np.array([query_key(query) for query in asked.queries], np.uint64)
    order = np.argsort(keys)
    with directory_in_place(out) as folder:
        np.save(folder / TABLE, table[order])
        np.save(folder / QUERIES, keys[order])
        return write_manifest(
            folder,
            NEGATIVES,
            {
                "data_fingerprint": dataset.fingerprint,
                "model_fingerprint": encoder.fingerprint,
                "queries": len(table),
                "per_query": options.per_query,
                "options": asdict(options),
                "index": index.manifest["index"]["kind"],
                "products": len(asked.products),
                "searched": sum(counts.values()),
                "left_out": {name: counts[name] for name in REASONS},
                "negatives": int((table != NONE).sum()),
                "without": without,
            },
        )


class _Miner:
    """Fills the table, block by block."""

    def __init__(
        self,
        encoder: EmbeddingModel,
        index: LoadedIndex,
        asked: Asked,
        groups: Int64[np.ndarray, " N"],
        words: CatalogueKeywords | None,
        options: MiningOptions,
    ) -> None:
        self._encoder, self._index, self._asked = encoder, index, asked
        self._groups, self._words, self._options = groups, words, options
        self.table: Int32[np.ndarray, "Q n"] = np.full((len(asked.queries), options.per_query), NONE, np.int32)
        self.counts = dict.fromkeys((*REASONS, "left"), 0)

    def search(self, start: int) -> None:
        """Mines for the queries of a block.

        Raises:
          MaxsearchError: a vector is not finite.
        """
        queries = self._asked.queries[start : start + QUERY_BLOCK]
        vectors = np.asarray(self._encoder.encode_queries(queries))
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise MaxsearchError(
                f"the model gives the query {queries[bad[0]]!r} a vector that is not finite: use a model from an "
                "earlier training step"
            )
        rows, scores = self._index.nearest.search(vectors, self._options.to_rank)
        for i, vector in enumerate(vectors):
            found = np.flatnonzero(rows[i] >= 0)
            found = found[found >= self._options.from_rank - 1]
            kept = self._kept(start + i, vector, rows[i][found], scores[i][found])[: self._options.per_query]
            self.table[start + i, : len(kept)] = self._asked.products[kept]

    def _kept(
        self,
        number: int,
        vector: Float32[np.ndarray, " D"],
        results: Int64[np.ndarray, " K"],
        scores: Float32[np.ndarray, " K"],
    ) -> Int64[np.ndarray, " k"]:
        """The results of one query that are likely no positives, and the others counted."""
        clicked = self._asked.of(number)
        left_out = {
            "clicked": np.isin(results, clicked),
            "variant": same_variant(results, clicked, self._groups),
            "keywords": np.zeros(len(results), bool),
            "score": too_close(scores, self._index.vectors[clicked] @ vector, self._options),
        }
        query = self._asked.queries[number]
        if self._words is not None and self._words.lexicon.covers(query):
            rows = self._words.products.rows[self._asked.products[results]]
            left_out["keywords"] = has_all_words(self._words.lexicon.ids(query), rows)
        left = np.ones(len(results), bool)
        for name in REASONS:
            self.counts[name] += int((left & left_out[name]).sum())
            left &= ~left_out[name]
        self.counts["left"] += int(left.sum())
        return results[left]


class _Groups:
    """Numbers the variant groups of products while they pass."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._numbers = array("q")

    def noted(self, products: Iterator[Product]) -> Iterator[Product]:
        for product in products:
            group = self._names.setdefault(product.variant, len(self._names)) if product.variant else NONE
            self._numbers.append(group)
            yield product

    @property
    def numbers(self) -> Int64[np.ndarray, " N"]:
        """Each product's group, -1 for none."""
        return np.frombuffer(self._numbers, np.int64)


def _chosen(dataset: PreparedDataset, rows: Int64[np.ndarray, " N"]) -> Iterator[Product]:
    """The products of these rows, read in one pass."""
    chosen = np.zeros(len(dataset.products), bool)
    chosen[rows] = True
    return compress(dataset.products, chosen)
