"""The keywords of the training products, counted and ranked in tables; memory holds no vocabulary but the result."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int16

from maxsearch.data.keywords import MIN_COUNT, Lexicon, may_be_keyword, stem, words_of
from maxsearch.data.product_keywords import product_row, write_keywords
from maxsearch.prepare.embedded.tables import Appender, Tables
from maxsearch.prepare.manifest import NO_KEYWORDS
from maxsearch.prepare.splits import TRAIN

HELD = 1 << 17  # words that are counted in memory before they go to their table


def write_product_keywords(tables: Tables, folder: Path, products: int, size: int) -> dict[str, Any]:
    """Ranks the words of the training part, and writes the keywords of its products.

    Args:
      tables: with `products`, `catalogue` and `pairs`.
      folder: the training part's.
      products: their number.
      size: keywords to keep; 0 writes nothing.

    Returns:
      The manifest's account.
    """
    if not size:
        return NO_KEYWORDS
    _count(tables)
    lexicon = _ranked(tables, size)
    return write_keywords(folder, lexicon, products, _rows(tables, lexicon))


def _count(tables: Tables) -> None:
    """Makes the table `words` (stem, word, asked, named) of counts of queries and titles, whose rows add up."""
    whole, text = pa.int64(), pa.string()
    words = tables.create("words", stem=text, word=text, asked=whole, named=whole)
    titles = "SELECT title FROM products p JOIN catalogue k ON p.n = k.n WHERE k.part = ? AND title <> ''"
    _count_texts(tables.rows(titles, TRAIN), words, asked=False)
    _count_texts(tables.rows("SELECT DISTINCT plain FROM pairs WHERE part = ?", TRAIN), words, asked=True)
    words.flush()


def _count_texts(texts: Iterator[tuple[Any, ...]], words: Appender, *, asked: bool) -> None:
    counts: Counter[str] = Counter()

    def spill() -> None:
        for word, count in counts.items():
            words.add(stem(word), word, count if asked else 0, 0 if asked else count)
        counts.clear()

    for (text,) in texts:
        counts.update(filter(may_be_keyword, set(words_of(text))))
        if len(counts) > HELD:
            spill()
    spill()


def _ranked(tables: Tables, size: int) -> Lexicon:
    """As `Lexicon.ranked` of the counted words."""
    best = tables.rows(
        """
        WITH forms AS (SELECT stem, word, sum(asked) AS asked, sum(named) AS named FROM words GROUP BY stem, word),
        stems AS (
            SELECT sum(asked) AS asked, sum(named) AS named, first(word ORDER BY asked DESC, named DESC, word) AS word
            FROM forms GROUP BY stem
        )
        SELECT word FROM stems WHERE asked + named >= ? ORDER BY asked DESC, named DESC, word LIMIT ?
        """,
        MIN_COUNT,
        size,
    )
    return Lexicon(tuple(word for (word,) in best))


def _rows(tables: Tables, lexicon: Lexicon) -> Iterator[Int16[np.ndarray, " 48"]]:
    products = tables.rows(
        "SELECT k.position, title, texts FROM products p JOIN catalogue k ON p.n = k.n "
        "WHERE k.part = ? ORDER BY k.position",
        TRAIN,
    )
    asked = tables.rows("SELECT position, query FROM pairs WHERE part = ? ORDER BY position, first", TRAIN)
    groups = groupby(asked, key=itemgetter(0))
    at, queries = next(groups, (-1, iter(())))
    for position, title, texts in products:
        led = [query for _, query in queries] if at == position else []
        if led:
            at, queries = next(groups, (-1, iter(())))
        yield product_row(lexicon, title, led, texts)
