"""Parts of a test: of its queries, and of its relevant products.

Queries are cut by length, by whether training saw them, and by how much of them the titles of what they want say.
Relevant products are cut by an attribute, by clicks in training, by whether title and picture can tell that they fit.

Letters: Q evaluated queries, J relevant pairs (the keys of `Relevance`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from maxsearch.data.keywords import STOP_WORDS, stem, words_of
from maxsearch.evaluation.metrics import Relevance
from maxsearch.evaluation.training_data import TrainingData, holds

QUERIES: Literal["queries"] = "queries"
PRODUCTS: Literal["products"] = "products"
LENGTHS = ((2, "1-2 words"), (4, "3-4 words"), (6, "5-6 words"), (10**9, "7 words and more"))
SILENT_BELOW, FULLY_FROM = 0.25, 0.9
HEAD, TORSO = 0.5, 0.9  # shares of all clicks that the most clicked products hold together
MOST_VALUES = 30
NO_VALUE = "(none)"


@dataclass(frozen=True)
class Slicing:
    """One way to cut.

    Attributes:
      name: in the table.
      of: what is cut.
      values: names of the parts, in the order to show.
      part: number of the part of each query, or of each relevant pair by its product; -1 for none.
    """

    name: str
    of: Literal["queries", "products"]
    values: tuple[str, ...]
    part: Int64[np.ndarray, " n"]


def query_words(query: str) -> frozenset[str]:
    """The stems of a query's words but stop words; of all words where it has no others."""
    words = words_of(query)
    return frozenset(stem(word) for word in words if word not in STOP_WORDS) or frozenset(map(stem, words))


def said(words: Sequence[frozenset[str]], titles: Sequence[str], relevance: Relevance) -> Float64[np.ndarray, " J"]:
    """The share of its query's words that the title of each relevant pair says.

    Args:
      words: of each query, as `query_words` gives them.
      titles: of the catalogue.
      relevance: the pairs.
    """
    stems: dict[int, frozenset[str]] = {}
    shares = np.zeros(len(relevance.keys))
    queries, rows = np.divmod(relevance.keys, relevance.catalogue_size)
    for number, (query, row) in enumerate(zip(queries.tolist(), rows.tolist(), strict=True)):
        if row not in stems:
            stems[row] = frozenset(map(stem, words_of(titles[row])))
        wanted = words[query]
        shares[number] = len(wanted & stems[row]) / len(wanted) if wanted else 0.0
    return shares


def by_length(queries: Sequence[str]) -> Slicing:
    """Queries by their number of words, stop words too."""
    bounds = [bound for bound, _ in LENGTHS]
    part = np.searchsorted(bounds, [len(query.split()) for query in queries])
    return Slicing("query length", QUERIES, tuple(name for _, name in LENGTHS), part.astype(np.int64))


def by_seen(queries: UInt64[np.ndarray, " Q"], training: TrainingData) -> Slicing:
    """Queries by whether a shopper of the training data typed them; case, width and spaces do not count."""
    part = np.where(holds(training.queries, queries), 0, 1)
    return Slicing("query seen in training", QUERIES, ("seen", "novel"), part.astype(np.int64))


def by_saying(shares: Float64[np.ndarray, " J"], relevance: Relevance) -> Slicing:
    """Queries by the mean share of their words that the titles of their best-graded products say.

    Lesser grades do not ask: they miss some of what the query says, and their titles cannot say it.
    """
    queries = relevance.keys // relevance.catalogue_size
    best = relevance.grades == relevance.ideal[queries, 0]
    count = len(relevance.relevant)
    share = np.bincount(queries[best], shares[best], count) / np.maximum(np.bincount(queries[best], minlength=count), 1)
    part = np.where(share < SILENT_BELOW, 0, np.where(share < FULLY_FROM, 1, 2))
    return Slicing("title says the query", QUERIES, ("silent", "partly", "fully"), part.astype(np.int64))


def by_title(shares: Float64[np.ndarray, " J"]) -> Slicing:
    """Relevant products by whether their title has any word of the query."""
    return Slicing("title", PRODUCTS, ("silent", "telling"), (shares > 0).astype(np.int64))


def by_image(pictured: Bool[np.ndarray, " J"]) -> Slicing:
    """Relevant products by whether they have a picture."""
    return Slicing("image", PRODUCTS, ("present", "missing"), np.where(pictured, 0, 1).astype(np.int64))


def by_clicks(ids: UInt64[np.ndarray, " J"], training: TrainingData) -> Slicing:
    """Relevant products by their clicks in training: the head holds half of all, the torso the next 40 %, the tail the
    rest; the others have none.
    """
    ordered = np.sort(training.clicks[training.clicks > 0])[::-1]
    # The least clicks of the head and of the torso: products of as many clicks stand together.
    sums = ordered.cumsum()
    bounds = [ordered[np.searchsorted(sums, share * sums[-1])] if len(sums) else np.inf for share in (HEAD, TORSO)]
    clicks = training.clicks_of(ids)
    part = np.select([clicks >= bounds[0], clicks >= bounds[1], clicks > 0], [0, 1, 2], 3)
    return Slicing("product clicks", PRODUCTS, ("head", "torso", "tail", "none"), part.astype(np.int64))


def by_attribute(name: str, values: Sequence[str]) -> Slicing:
    """Relevant products by an attribute; the MOST_VALUES values with the most relevant pairs.

    Args:
      name: of the attribute.
      values: of the product of each relevant pair.
    """
    common = [value for value, _ in Counter(values).most_common(MOST_VALUES)]
    number = {value: place for place, value in enumerate(common)}
    part = np.array([number.get(value, -1) for value in values], np.int64)
    return Slicing(name, PRODUCTS, tuple(value or NO_VALUE for value in common), part)
