"""Mined negatives in the training stream: examples that are hard for one another are drawn into one batch.

`maxsearch mine` writes, for every query, products that a trained model ranks high and that are likely not what was
asked for. A share of all draws are followers: a follower's product is one of the mined negatives of the query that was
drawn before it, and its query is one of that product's own clicks, though none whose every word the product before it
has too: as likely as not, that would answer it. In-batch contrast then meets the hard pairs by
itself: no loss, no model and no array of a batch changes, known positives are masked as ever, and a step takes as long
as before. That a batch should hold examples that are hard for one another is an idea of GCBS (arXiv 2210.12874); the
rule of followers is ours.

Which draw follows which, and with what, depends on the seed and the number of the draw alone, so that the stream stays
the same on any hosts and workers and resumes from one number. What it costs: the followers' places in each batch, so an
epoch is longer by them and products that are hard for many queries are seen more often; 20 bytes of memory for each
interaction; and only products with clicks can be negatives.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64

from maxsearch.data.keys import bytes_key
from maxsearch.data.keywords import Lexicon, normalized
from maxsearch.data.sources import Catalogue, CatalogueSource, RawExample, digest
from maxsearch.data.tokens.table import TokenTable
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.manifest import FolderKind, read_manifest

TABLE = "negatives.npy"  # int32 [queries, per_query]: rows of products, the hardest first, -1 fills up
QUERIES = "queries.npy"  # uint64 [queries]: `query_key` of each row's query, rising
NONE = -1

NEGATIVES = FolderKind(
    name="maxsearch-negatives",
    what="negatives",
    schema_version=1,
    remedy="mine them again with `maxsearch mine`",
    required=(TABLE, QUERIES),
    fields={"data_fingerprint": str, "model_fingerprint": str, "queries": int, "per_query": int},
)

PARTS = 10**6  # a share is a fraction of whole numbers up to this, so that places are counted exactly
FOLLOWER = 1  # keeps these random numbers apart from those that the stream makes for the same draw


class Negatives:
    """Products by query, read from disk on demand; cheap to pickle to worker processes.

    Attributes:
      fingerprint: hex SHA-256 over the table.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self.fingerprint = folder.absolute(), fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "fingerprint": self.fingerprint}

    @classmethod
    def open(cls, folder: Path, dataset: Catalogue) -> "Negatives":
        """Opens a folder after comparing every file with its checksum.

        Args:
          folder: what `maxsearch mine` wrote.
          dataset: the prepared data that are trained on.

        Raises:
          MaxsearchError: no such folder, another version, an altered file, or it was mined from other data.
        """
        manifest = read_manifest(folder, NEGATIVES)
        if manifest["data_fingerprint"] != dataset.fingerprint:
            raise MaxsearchError(
                f"the negatives {folder} were mined from other data than these (fingerprint "
                f"{manifest['data_fingerprint'][:12]}, here {dataset.fingerprint[:12]}): {NEGATIVES.remedy}"
            )
        found = cls(
            folder, digest("negatives", manifest["files"][QUERIES]["sha256"], manifest["files"][TABLE]["sha256"])
        )
        shape = (manifest["queries"], manifest["per_query"])
        try:
            fits = (
                (found.table.dtype, found.table.shape) == (np.int32, shape)
                and (found.keys.dtype, found.keys.shape) == (np.uint64, shape[:1])
                and (not found.table.size or NONE <= found.table.min() <= found.table.max() < len(dataset.products))
            )
        except ValueError:
            fits = False
        if not fits:
            raise MaxsearchError(
                f"the negatives {folder} hold another table than their manifest says: {NEGATIVES.remedy}"
            )
        return found

    @cached_property
    def table(self) -> np.ndarray:
        """int32 [queries, per_query], mapped from the file."""
        return np.load(self._folder / TABLE, mmap_mode="r", allow_pickle=False)

    @cached_property
    def keys(self) -> np.ndarray:
        """uint64 [queries], mapped from the file."""
        return np.load(self._folder / QUERIES, mmap_mode="r", allow_pickle=False)

    def of(self, query: str) -> Int32[np.ndarray, " k"]:
        """The rows of a query's negatives, the hardest first; none for a query that was not mined."""
        key = query_key(query)
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return np.zeros(0, np.int32)
        row = np.array(self.table[place])
        return row[row != NONE]


def query_key(query: str) -> np.uint64:
    """64-bit hash of a query, equal for queries that differ in case, width or spaces only."""
    return np.uint64(bytes_key(normalized(query).encode("utf-8", "replace")))


class MinedSource:
    """A catalogue whose draws are followed, in a share of places, by examples that are hard for them.

    Draw d is a follower where floor((d + 1) * share) exceeds floor(d * share), which spreads them evenly and, where a
    batch holds a whole number of them, puts none at its beginning: it follows what stands in the same batch. All other
    draws are those of `source`, in its order. A follower for whose leader there is no negative, or none with a fitting
    click among those that are kept, is an interaction drawn at random.
    """

    def __init__(self, source: CatalogueSource, negatives: Negatives, share: float, seed: int = 0) -> None:
        """Sorts the interactions by product.

        Args:
          source: the catalogue.
          negatives: of the same data.
          share: of the draws that are followers, above 0 and below 1, to a precision of 1e-6.
          seed: decides which negative and which of its clicks is drawn; not negative.

        Raises:
          UsageError: `share` is out of range.
        """
        self._share = Fraction(share).limit_denominator(PARTS)
        if not 0 < self._share < 1:
            raise UsageError(f"the share of mined negatives is {share}: choose a number above 0 and below 1")
        self._source, self._negatives, self._seed = source, negatives, seed
        self._clicks = Clicks(source)
        self.fingerprint = digest("mined", source.fingerprint, negatives.fingerprint, str(self._share), seed)

    def __len__(self) -> int:
        """Draws in which the source's interactions come up as often as in an epoch of its own."""
        return math.ceil(len(self._source) / (1 - self._share))

    @property
    def lexicon(self) -> Lexicon | None:
        """The keywords that came with the data."""
        return self._source.lexicon

    @property
    def tokens(self) -> TokenTable | None:
        """Those of the catalogue."""
        return self._source.tokens

    def texts(self) -> Iterator[str]:
        """Those of the catalogue."""
        return self._source.texts()

    @property
    def sizes(self) -> tuple[int, int]:
        """Those of the catalogue."""
        return self._source.sizes

    def pairs(self, draws: Sequence[int]) -> Int64[np.ndarray, "k 2"]:
        """The interaction, whose query it is, and the product's row."""
        return self._source.pairs_at(self._positions(draws))

    def groups(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """A draw belongs together with those that follow it."""
        return np.array([self._place(draw)[0] for draw in draws], np.int64)

    def query_texts(self) -> Iterator[Sequence[str]]:
        """Those of the catalogue."""
        return self._source.query_texts()

    def product_texts(self) -> Iterator[Sequence[str]]:
        """Those of the catalogue."""
        return self._source.product_texts()

    def examples(self, draws: Sequence[int]) -> Iterator[RawExample]:
        """The examples of these draws, in this order."""
        return self._source.at(self._positions(draws))

    def _positions(self, draws: Sequence[int]) -> Int64[np.ndarray, " k"]:
        """The interactions that these draws give."""
        places = [self._place(draw) for draw in draws]
        positions = self._source.positions([drawn for drawn, _ in places])
        following = [i for i, (_, follows) in enumerate(places) if follows]
        for i, query in zip(following, self._source.queries(positions[following]), strict=True):
            positions[i] = self._follower(query, int(self._source.rows[positions[i]]), draws[i])
        return positions

    def _place(self, draw: int) -> tuple[int, bool]:
        """Which draw of the source stands here, or is followed here; and whether it is followed."""
        before, after = (d * self._share.numerator // self._share.denominator for d in (draw, draw + 1))
        return draw - after, after > before

    def _follower(self, query: str, leader: int, draw: int) -> int:
        """The interaction that follows one of this query and product."""
        rng = np.random.Generator(np.random.Philox(key=[self._seed, draw], counter=[0, 0, 0, FOLLOWER]))
        for product in rng.permutation(self._negatives.of(query)).tolist():
            position = self._clicks.of(product, rng.random())
            if position is not None and not self._answers(leader, position):
                return position
        return self._clicks.any(rng.random())

    def _answers(self, product: int, position: int) -> bool:
        """Whether a product has all the words of an interaction's query."""
        keywords = self._source.keywords
        if keywords is None:
            return False
        query = self._source.queries(np.array([position]))[0]
        return keywords.lexicon.covers(query) and {*keywords.lexicon.ids(query)} <= {*keywords.products[product]}


class Clicks:
    """The interactions of a source by product."""

    def __init__(self, source: CatalogueSource) -> None:
        self._order = np.argsort(source.rows, kind="stable")
        self._rows = source.rows[self._order]
        self._ends: Float64[np.ndarray, " n"] = np.cumsum(source.chances[self._order])

    def of(self, product: int, point: float) -> int | None:
        """A product's interaction, in proportion to its chances; None where it has none.

        Args:
          product: its row.
          point: which, from 0 to 1.
        """
        first, end = np.searchsorted(self._rows, product, "left"), np.searchsorted(self._rows, product, "right")
        return self._between(int(first), int(end), point) if first < end else None

    def any(self, point: float) -> int:
        """An interaction of any product."""
        return self._between(0, len(self._rows), point)

    def _between(self, first: int, end: int, point: float) -> int:
        low = self._ends[first - 1] if first else 0.0
        mark = low + point * (self._ends[end - 1] - low)
        return int(self._order[min(first + int(np.searchsorted(self._ends[first:end], mark, "right")), end - 1)])
