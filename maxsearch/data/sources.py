"""Where examples come from: a prepared catalogue, or a TFDS dataset of pictures with texts.

A source answers for any global draw index, from 0 without end, and always gives the same example for it. That is what
lets the stream be cut among hosts, threads and workers, and be resumed, without any state but one number.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import compress, islice
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from grain.experimental import index_shuffle
from jaxtyping import Bool, Float, Int, Int32, Int64

from maxsearch.data.dataset import DamagedRecordError, PreparedDataset, Records
from maxsearch.data.keywords import Lexicon
from maxsearch.data.product_keywords import CatalogueKeywords
from maxsearch.data.records import Interaction, Product
from maxsearch.data.tokens.table import TokenTable
from maxsearch.errors import MaxsearchError, UsageError

# Shares of an epoch are whole multiples of this, so that float arithmetic on them is exact.
GRID = 2.0**-20
# Grain's index_shuffle needs no memory, but walks long cycles (milliseconds a draw) when there are few positions.
LARGEST_PERMUTATION = 2**16
COLUMN_BLOCK = 2**16
NO_PRODUCT = -1  # the product's row of an example that is masked


@dataclass(frozen=True, slots=True)
class RawExample:
    """A drawn (query, product) pair before decoding.

    Attributes:
      query: what the shopper typed.
      title: the product's title; may be empty.
      images: encoded pictures, the front one first.
      product: the product's row; equal rows are the same product.
      variant: the product's variant group, or empty.
      weight: the interaction's weight.
      texts: the product's further text fields.
      said: texts that are known to tell of the product beside these, such as a picture's other captions.
      keywords: ids of the product's keywords in the source's lexicon, None when the source has none.
      interaction: the position of the interaction in prepared data; -1 for none.
      where: says where the product's record lies; None when nobody knows.
      fault: why the record cannot be read, and where it lies; empty for a good one. The product of a bad one is -1,
        its weight 0, and it says and shows nothing.
    """

    query: str
    title: str
    images: tuple[bytes, ...]
    product: int
    variant: str = ""
    weight: float = 1.0
    texts: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    keywords: tuple[int, ...] | None = None
    interaction: int = -1
    where: Callable[[], str] | None = None
    fault: str = ""

    @classmethod
    def unreadable(cls, fault: str) -> "RawExample":
        """What stands in the place of a record that cannot be read."""
        return cls(query="", title="", images=(), product=NO_PRODUCT, weight=0.0, keywords=(), fault=fault)


@runtime_checkable
class Catalogue(Protocol):
    """What `CatalogueSource` reads: a PreparedDataset, or lists of records in memory."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of the records."""

    @property
    def products(self) -> Sequence[Product]:
        """The products, by position."""

    @property
    def interactions(self) -> Sequence[Interaction]:
        """The interactions, by position."""

    @property
    def keywords(self) -> CatalogueKeywords | None:
        """The keywords, None when there are none."""


@runtime_checkable
class ExampleSource(Protocol):
    """An endless sequence of examples, a pure function of the draw index; may be pickled to worker processes."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides which example a draw gives."""

    @property
    def lexicon(self) -> Lexicon | None:
        """The keywords that came with the data, None when none did."""

    def __len__(self) -> int:
        """Draws in an epoch."""

    def examples(self, draws: Sequence[int]) -> Iterator[RawExample]:
        """The examples of these draws, in this order."""

    def texts(self) -> Iterator[str]:
        """All texts, for training a tokenizer."""

    @property
    def sizes(self) -> tuple[int, int]:
        """How many queries and products there are, each with a number from 0."""

    def pairs(self, draws: Sequence[int]) -> Int64[np.ndarray, "k 2"]:
        """The number of each draw's query, and of its product."""

    def groups(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """Equal for draws that belong into one batch."""

    def query_texts(self) -> Iterator[Sequence[str]]:
        """What may be said as each query, by its number."""

    def product_texts(self) -> Iterator[Sequence[str]]:
        """The text fields of each product, the title first, by its number."""


class EpochDraws:
    """Draws n positions an epoch in proportion to their weights, each epoch in a new order.

    Within an epoch of n draws, position i comes up floor or ceil of n * weight[i] / sum(weights) times (systematic
    resampling, to a precision of 1e-6 draws): with equal weights exactly once. Which of the two is decided anew in each
    epoch, so that the long-run frequencies are exact.
    """

    def __init__(self, weights: Float[np.ndarray, " n"], seed: int) -> None:
        """Prepares the draws.

        Args:
          weights: not negative, with a sum above 0.
          seed: decides the order and the fractions.
        """
        # In long double, because the ends of a long catalogue need more digits than the sum of float64 keeps.
        ends = np.cumsum(weights, dtype=np.longdouble)
        ends *= len(weights) / ends[-1]
        self._ends = np.round(ends / GRID).astype(np.float64) * GRID
        self._ends[-1] = len(weights)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._ends)

    def positions(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """The positions that these global draw indices give."""
        n = len(self._ends)
        points = np.empty(len(draws), np.float64)
        for i, draw in enumerate(draws):
            epoch, k = divmod(int(draw), n)
            order, offset = _epoch_key(self._seed, epoch)
            points[i] = _shuffled(k, n, order) + offset
        return np.searchsorted(self._ends, points, side="right")


@lru_cache(maxsize=8)
def _epoch_key(seed: int, epoch: int) -> tuple[int, float]:
    """(seed of the order, offset in (0, 1)) of an epoch. The offset lies between points of GRID: no draw is a tie."""
    digest = hashlib.blake2b(f"epoch {seed} {epoch}".encode(), digest_size=8).digest()
    order, offset = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    return order, (offset % int(1 / GRID) + 0.5) * GRID


def _shuffled(k: int, n: int, seed: int) -> int:
    """Where position k of n goes in the permutation that `seed` names."""
    if n <= LARGEST_PERMUTATION:
        return int(_permutation(n, seed)[k])
    return index_shuffle(index=k, max_index=n - 1, seed=seed, rounds=4)


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int) -> Int64[np.ndarray, " n"]:
    return np.random.Generator(np.random.Philox(seed)).permutation(n)


def digest(*parts: object) -> str:
    """Hex SHA-256 over the parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class CatalogueSource:
    """Pairs from a prepared catalogue, drawn in proportion to a power of the interactions' weights."""

    def __init__(self, dataset: Catalogue, weight_power: float = 1.0, seed: int = 0, fraction: float = 1.0) -> None:
        """Reads all interactions into memory, column by column; products stay on disk.

        Args:
          dataset: a PreparedDataset.
          weight_power: 1 draws an interaction in proportion to its weight, 0 draws all equally often.
          seed: decides the order.
          fraction: share of the products that are kept, with their interactions; see `kept_products`.

        Raises:
          MaxsearchError: the dataset has no interactions, or none of the kept products has one.
          UsageError: `weight_power` or `fraction` is no number from 0 to 1.
        """
        if not 0.0 <= weight_power <= 1.0:
            raise UsageError(f"weight_power is {weight_power}: choose a number from 0 to 1")
        if not 0.0 < fraction <= 1.0:
            raise UsageError(f"fraction is {fraction}: choose a number above 0 and at most 1")
        self._queries, self._products, self._weights = _columns(dataset.interactions)
        if not len(self._weights):
            raise MaxsearchError("the prepared data hold no interactions: prepare them with a file that has some")
        self._kept: Int64[np.ndarray, " n"] | None = None
        if fraction < 1:
            kept = np.flatnonzero(kept_products(self._products, fraction))
            if not len(kept):
                raise MaxsearchError(f"no interaction is left of the fraction {fraction} of the products: raise it")
            self._queries = self._queries.take(pa.array(kept))
            self._products, self._weights = self._products[kept], self._weights[kept]
            self._kept = kept
        self._dataset, self._fraction = dataset, fraction
        self._power = weight_power
        self._draws = EpochDraws(self.chances, seed)
        # Named only where it matters, so that whole datasets keep the fingerprint that runs have saved.
        part = () if fraction == 1 else (float(fraction),)
        self.fingerprint = digest("catalogue", dataset.fingerprint, float(weight_power), seed, *part)

    def __len__(self) -> int:
        return len(self._draws)

    @property
    def lexicon(self) -> Lexicon | None:
        """The keywords that came with the data."""
        return self._dataset.keywords.lexicon if self._dataset.keywords else None

    @property
    def keywords(self) -> CatalogueKeywords | None:
        """The keywords of the products, by row."""
        return self._dataset.keywords

    @property
    def tokens(self) -> TokenTable | None:
        """The token ids of products' texts and interactions' queries, None when the data were prepared without."""
        return self._dataset.tokens if isinstance(self._dataset, PreparedDataset) else None

    @property
    def rows(self) -> Int32[np.ndarray, " n"]:
        """The product's row of every kept interaction."""
        return self._products

    @property
    def chances(self) -> Float[np.ndarray, " n"]:
        """What every kept interaction is drawn in proportion to, at most 1."""
        # By the largest weight first, so that the sum is finite whatever the unit of the weights.
        return (self._weights / self._weights.max()) ** self._power

    def examples(self, draws: Sequence[int]) -> Iterator[RawExample]:
        """The examples of these draws, in this order."""
        return self.at(self.positions(draws))

    def positions(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """The kept interactions that these draws give."""
        return self._draws.positions(draws)

    def queries(self, positions: Int64[np.ndarray, " k"]) -> list[str]:
        """The queries of these kept interactions."""
        found: list[str] = self._queries.take(pa.array(positions)).to_pylist()
        return found

    def at(self, positions: Int64[np.ndarray, " k"]) -> Iterator[RawExample]:
        """The examples of these kept interactions, in this order."""
        queries = self.queries(positions)
        rows, weights = self._products[positions].tolist(), self._weights[positions].tolist()
        interactions = (positions if self._kept is None else self._kept[positions]).tolist()
        keywords, products = self._dataset.keywords, self._dataset.products
        for query, row, weight, interaction in zip(queries, rows, weights, interactions, strict=True):
            try:
                product = products[row]
            except DamagedRecordError as error:
                yield RawExample.unreadable(str(error))
                continue
            yield RawExample(
                query=query,
                title=product.title,
                images=product.images,
                product=row,
                variant=product.variant,
                weight=weight,
                texts=product.texts,
                keywords=keywords.products[row] if keywords else None,
                interaction=interaction,
                where=partial(products.where, row) if isinstance(products, Records) else None,
            )

    def texts(self) -> Iterator[str]:
        """Every kept product's title and further texts, then every kept interaction's query."""
        kept = kept_products(np.arange(len(self._dataset.products)), self._fraction)
        for product in compress(self._dataset.products, kept):
            yield product.title
            yield from filter(None, product.texts)
        for query in self._queries:
            yield query.as_py()

    @property
    def sizes(self) -> tuple[int, int]:
        """The kept interactions, and all products."""
        return len(self._products), len(self._dataset.products)

    def pairs(self, draws: Sequence[int]) -> Int64[np.ndarray, "k 2"]:
        """The kept interaction, whose query it is, and the product's row."""
        return self.pairs_at(self.positions(draws))

    def pairs_at(self, positions: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, "k 2"]:
        """The pairs of these kept interactions."""
        return np.stack([positions, self._products[positions].astype(np.int64)], axis=1)

    def groups(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """Every draw by itself."""
        return np.asarray(draws, np.int64)

    def query_texts(self) -> Iterator[Sequence[str]]:
        """The query of each kept interaction."""
        for query in self._queries:
            yield (query.as_py(),)

    def product_texts(self) -> Iterator[Sequence[str]]:
        """Title and further texts of every product."""
        for product in self._dataset.products:
            yield (product.title, *product.texts)


def kept_products(rows: Int[np.ndarray, " n"], fraction: float) -> Bool[np.ndarray, " n"]:
    """Which products belong to a fraction of the catalogue.

    Decided by a hash of the row alone (SplitMix64), so that every seed and host keeps the same products and a smaller
    fraction is a part of a larger one.

    Args:
      rows: positions of products.
      fraction: share that is kept, on average; 1 keeps all.
    """
    if fraction == 1:
        return np.ones(len(rows), dtype=bool)
    with np.errstate(over="ignore"):
        mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    chosen: Bool[np.ndarray, " n"] = (mixed ^ (mixed >> np.uint64(31))) / 2.0**64 < fraction
    return chosen


def _columns(
    interactions: Iterable[Interaction],
) -> tuple[pa.LargeStringArray, Int32[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Queries, product rows and weights: 20 bytes an interaction, and its query."""
    blocks = []
    records = iter(interactions)
    while block := list(islice(records, COLUMN_BLOCK)):
        blocks.append(
            (
                pa.array([interaction.query for interaction in block], pa.large_string()),
                np.array([interaction.product for interaction in block], np.int32),
                np.array([interaction.weight for interaction in block], np.float64),
            )
        )
    queries, products, weights = zip(*blocks, strict=True) if blocks else ((), (), ())
    return (
        pa.chunked_array(queries, pa.large_string()).combine_chunks(),
        np.concatenate([np.zeros(0, np.int32), *products]),
        np.concatenate([np.zeros(0), *weights]),
    )
