"""Rankings to compare with: BM25 over the titles, and chance."""

import logging
from collections.abc import Callable, Sequence

import bm25s
import numpy as np
import Stemmer
from jaxtyping import Float32, Int

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.evaluation.rankers import Ranker, Task
from maxsearch.evaluation.retrieval import Ranking

logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG, which reaches the terminal


def bm25(queries: Sequence[str], titles: Sequence[str], k: int) -> Ranking:
    """Ranks titles by BM25 (k1 1.5, b 0.75) with the English Snowball stemmer and stop words.

    Only titles that share a word with the query are ranked; equal scores keep the catalogue's order.

    Args:
      queries: query texts.
      titles: one per product of the catalogue; may be empty strings.
      k: number of ranks, cut to the size of the catalogue.
    """
    k = min(k, len(titles))
    rows = np.full((len(queries), k), -1, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    documents = _words(titles)
    if any(documents):
        model = bm25s.BM25(k1=1.5, b=0.75)
        model.index(documents, show_progress=False)
        for query, words in enumerate(_words(queries)):
            found = model.get_tokens_ids(words)
            if found:
                best, values = _best(model.get_scores_from_ids(found), k)
                rows[query, : len(best)], scores[query, : len(best)] = best, values
    return Ranking(rows=rows, scores=scores)


def _words(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(
        list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    hits = np.flatnonzero(scores > 0)
    if len(hits) > k:
        least = np.partition(scores[hits], len(hits) - k)[len(hits) - k]
        hits = hits[scores[hits] >= least]
    best = hits[np.argsort(-scores[hits], kind="stable")][:k]
    return best, scores[best]


def random_ranking(queries: int, products: int, k: int, *, seed: int = 0) -> Ranking:
    """Ranks k products drawn evenly, without repetition, anew for each query.

    Args:
      queries: number of queries.
      products: size of the catalogue.
      k: number of ranks, cut to the size of the catalogue.
      seed: equal seeds give equal rankings.
    """
    k = min(k, products)
    rng = np.random.default_rng(seed)
    rows = np.empty((queries, k), dtype=np.int32)
    for query in range(queries):
        rows[query] = rng.choice(products, size=k, replace=False)
    scores = np.broadcast_to(-np.arange(k, dtype=np.float32), rows.shape)
    return Ranking(rows=rows, scores=scores.copy())


class TitleBm25:
    """BM25 over the titles with the further texts behind, as a ranker."""

    name: str = "BM25"

    def start(self, task: Task) -> None:
        """As `Ranker`."""
        self._task, self._titles = task, list[str]()
        self._rows = np.full(len(task.judged), -1, np.int64)

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        for product in products:
            if product.product_id in self._task.judged:
                self._rows[self._task.judged[product.product_id]] = len(self._titles)
            self._titles.append(" ".join(filter(None, (product.title, *product.texts))))

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return bm25(self._task.queries, self._titles, self._task.k)

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        model = bm25s.BM25(k1=1.5, b=0.75)
        documents = _words(self._titles)
        if any(documents):
            model.index(documents, show_progress=False)
        found = np.zeros(len(pairs), np.float32)
        for query in np.unique(pairs[:, 0]).tolist():
            here = np.flatnonzero(pairs[:, 0] == query)
            words = model.get_tokens_ids(_words([self._task.queries[query]])[0]) if any(documents) else []
            if words:
                found[here] = model.get_scores_from_ids(words)[self._rows[pairs[here, 1]]]
        return np.where(self._rows[pairs[:, 1]] < 0, np.float32(np.nan), found)


class Chance:
    """Products drawn evenly, as a ranker."""

    name: str = "random"

    def start(self, task: Task) -> None:
        """As `Ranker`."""
        self._task, self._products = task, 0

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        self._products += len(products)

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return random_ranking(len(self._task.queries), self._products, self._task.k)

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        return np.random.default_rng(1).random(len(pairs), dtype=np.float32)


def parse_baselines(specs: Sequence[str]) -> list[Ranker]:
    """The rankers that `--baseline` names.

    Raises:
      UsageError: there is none of that name.
    """
    known: dict[str, Callable[[], Ranker]] = {"bm25": TitleBm25, "random": Chance}
    for spec in specs:
        if spec not in known:
            raise UsageError(f"--baseline {spec} is not known: give {' or '.join(known)}")
    return [known[spec]() for spec in specs]
