"""Which keywords each product of a catalogue has: gathered by `prepare`, read by the training stream."""

import os
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16

from maxsearch.data.keywords import PRODUCT_KEYWORDS, Lexicon, count_words, stem, words_of

TABLE = "keywords.npy"
MAX_KEYWORDS = np.iinfo(np.int16).max
NONE = -1


class ProductKeywords:
    """The ids of each product's keywords, read from disk on demand; cheap to pickle to worker processes."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._rows: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_rows": None}

    @property
    def rows(self) -> np.ndarray:
        """int16 [products, 48], mapped from the file; -1 fills up."""
        if self._rows is None:
            self._rows = np.asarray(np.load(self._path, mmap_mode="r", allow_pickle=False))
        return self._rows

    def __getitem__(self, product: int) -> tuple[int, ...]:
        row = self.rows[product]
        return tuple(row[row != NONE].tolist())


@dataclass(frozen=True)
class CatalogueKeywords:
    """The lexicon of a prepared catalogue, and the keywords of its products by position."""

    lexicon: Lexicon
    products: ProductKeywords


class KeywordCollector:
    """Gathers the words of a catalogue, 4 bytes each, while its products and then its clicks are read."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._title_counts: Counter[int] = Counter()
        self._titles, self._texts = _Rows(), _Rows()

    def add_product(self, title: str, texts: Sequence[str]) -> None:
        """Takes the next product."""
        words = self._known(title)
        self._title_counts.update(words)
        self._titles.append(words)
        self._texts.append(self._known(*texts))

    def write(self, folder: Path, clicks: Collection[tuple[str, int]], size: int) -> Lexicon:
        """Ranks the words, and writes every product's keywords to a file in `folder`.

        A product's keywords are those of its title, of the queries that led to it, and of its further texts, in this
        order, as far as there is room.

        Args:
          folder: where the table goes.
          clicks: each (query, position of the product).
          size: keywords to keep.
        """
        names = list(self._numbers)
        titles = {names[number]: count for number, count in self._title_counts.items()}
        lexicon = Lexicon.ranked(count_words(query for query, _ in clicks), titles, size)
        places = {stem(word): place for place, word in enumerate(lexicon.words)}
        place_of = [places.get(stem(name), NONE) for name in names]
        table = np.full((len(self._titles), PRODUCT_KEYWORDS), NONE, np.int16)
        filled = [_fill(table[row], 0, map(place_of.__getitem__, words)) for row, words in enumerate(self._titles)]
        asked: dict[str, list[int]] = {}
        for query, row in clicks:
            if query not in asked:
                asked[query] = lexicon.ids(query)
            filled[row] = _fill(table[row], filled[row], asked[query])
        for row, words in enumerate(self._texts):
            _fill(table[row], filled[row], map(place_of.__getitem__, words))
        with (folder / TABLE).open("wb") as stream:
            np.save(stream, table)
            stream.flush()
            os.fsync(stream.fileno())
        return lexicon

    def _known(self, *texts: str) -> list[int]:
        words = dict.fromkeys(word for text in texts for word in words_of(text))
        return [self._numbers.setdefault(word, len(self._numbers)) for word in words]


class _Rows:
    """Lists of numbers, end to end in one array."""

    def __init__(self) -> None:
        self._numbers, self._ends = array("i"), array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Sequence[int]]:
        for start, end in pairwise(self._ends):
            yield self._numbers[start:end]

    def append(self, numbers: Iterable[int]) -> None:
        self._numbers.extend(numbers)
        self._ends.append(len(self._numbers))


def keyword_row(lexicon: Lexicon, title: str, queries: Iterable[str], texts: Sequence[str]) -> Int16[np.ndarray, " 48"]:
    """The keywords of one product: those of its title, of the queries that led to it, and of its further texts."""
    row = np.full(PRODUCT_KEYWORDS, NONE, np.int16)
    count = _fill(row, 0, lexicon.ids(title))
    for query in queries:
        count = _fill(row, count, lexicon.ids(query))
    _fill(row, count, lexicon.ids(*texts))
    return row


def _fill(row: Int16[np.ndarray, " 48"], count: int, ids: Iterable[int]) -> int:
    """Adds ids that the first `count` places do not hold yet, and gives the new count."""
    held = row[:count].tolist()
    fresh = [place for place in dict.fromkeys(ids) if place != NONE and place not in held][: len(row) - count]
    row[count : count + len(fresh)] = fresh
    return count + len(fresh)
