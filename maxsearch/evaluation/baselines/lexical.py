"""Rankings by shared words: BM25, BM25 with fields, and TF-IDF.

Each weighs a product's words once and ranks by the sum over the query's words; only products that share a word with the
query are ranked. Words are stemmed by the English Snowball stemmer and stop words are left out.

Letters: N products, n products with a word, tf its count in a product, l a product's length in words.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int
from scipy import sparse

from maxsearch.data.records import Product
from maxsearch.evaluation.baselines.sparse import pair_scores, rank
from maxsearch.evaluation.baselines.words import Vocabulary, WordCounts
from maxsearch.evaluation.rankers import Task
from maxsearch.evaluation.retrieval import Ranking

K1, B = 1.5, 0.75
# Not tuned: a word of the title says twice as much as one elsewhere.
FIELD_WEIGHTS: Mapping[str, float] = {"title": 2.0, "texts": 1.0, "attributes": 1.0}

Counts = Mapping[str, sparse.csr_matrix]


class Lexical:
    """Ranks by the words that queries and products share.

    Args:
      name: in the table.
      fields: gives the text of each field of a product.
      weigh: from each field's counts (N, words) and the queries' counts to the weights of both.
    """

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Callable[[Product], str]],
        weigh: Callable[[Counts, sparse.csr_matrix], tuple[sparse.csr_matrix, sparse.csr_matrix]],
    ) -> None:
        self.name = name
        self._fields, self._weigh = fields, weigh

    def start(self, task: Task) -> None:
        """As `Ranker`."""
        self._task, self._products = task, 0
        vocabulary = Vocabulary()
        self._queries = WordCounts(vocabulary)
        self._queries.add(task.queries)
        self._counts = {name: WordCounts(vocabulary) for name in self._fields}
        self._rows = np.full(len(task.judged), -1, np.int64)
        self._weights: tuple[sparse.csr_matrix, sparse.csr_matrix] | None = None

    def add(self, products: Sequence[Product]) -> None:
        """As `Ranker`."""
        for name, text in self._fields.items():
            self._counts[name].add(text(product) for product in products)
        for row, product in enumerate(products, self._products):
            place = self._task.judged.get(product.product_id)
            if place is not None:
                self._rows[place] = row
        self._products += len(products)

    def ranking(self) -> Ranking:
        """As `Ranker`."""
        return rank(*self._weighed(), self._task.k)

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """As `Ranker`."""
        return pair_scores(*self._weighed(), np.stack([pairs[:, 0], self._rows[pairs[:, 1]]], axis=1))

    def _weighed(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """The weights of the queries' words and of the products'."""
        if self._weights is None:
            fields = {name: counts.matrix() for name, counts in self._counts.items()}
            products, queries = self._weigh(fields, self._queries.matrix())
            self._weights = queries, products
        return self._weights


def bm25_ranker() -> Lexical:
    """BM25 over the title with the further texts behind it, as Lucene has it, k1 1.5, b 0.75.

    A word weighs ln(1 + (N - n + 1/2)/(n + 1/2)) tf/(tf + k1 (1 - b + b l/mean l)): Robertson and Zaragoza, The
    Probabilistic Relevance Framework: BM25 and Beyond, 2009, with Lucene's idf (Kamphuis et al., ECIR 2020).
    """
    return Lexical("BM25", {"text": full_text}, _bm25)


def bm25f_ranker(columns: Sequence[str] = ()) -> Lexical:
    """BM25 over weighted fields: title, further texts, and attributes.

    A product's tf of a word becomes the sum over fields of weight tf_f/(1 - b + b l_f/mean l_f), and saturates as
    tf/(k1 + tf): Zaragoza, Craswell, Taylor, Saria and Robertson, TREC 2004, equations 1-3, which gives each field of
    Robertson, Zaragoza and Taylor (Simple BM25 extension to multiple weighted fields, CIKM 2004) a length of its own.
    n counts products with the word in any field; a field's mean length is over the products that have it.

    Args:
      columns: the attributes to read; all of them when there are none.
    """

    def attributes(product: Product) -> str:
        values = product.attributes
        return " ".join(values.get(name, "") for name in columns) if columns else " ".join(values.values())

    fields = {"title": lambda p: p.title, "texts": lambda p: " ".join(p.texts), "attributes": attributes}
    return Lexical("BM25, fields", fields, _bm25f)


def tfidf_ranker() -> Lexical:
    """The cosine of vectors of tf (1 + ln((1 + N)/(1 + n))), over the title with the further texts behind it.

    The idf and the norm are scikit-learn's defaults; the words are stemmed, and stop words left out, as for BM25.
    """
    return Lexical("TF-IDF", {"text": full_text}, _tfidf)


def bm25(queries: Sequence[str], titles: Sequence[str], k: int) -> Ranking:
    """Ranks titles by BM25; see `bm25_ranker`.

    Args:
      queries: query texts.
      titles: one per product of the catalogue; may be empty strings.
      k: number of ranks, cut to the size of the catalogue.
    """
    ranker = bm25_ranker()
    ranker.start(Task(queries, k, {}))
    ranker.add([Product("", title) for title in titles])
    return ranker.ranking()


def full_text(product: Product) -> str:
    """The title with the further texts behind it."""
    return " ".join(filter(None, (product.title, *product.texts)))


def _bm25(fields: Counts, queries: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    counts = fields["text"]
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    tf, per_row = counts.data, np.diff(counts.indptr)
    norms = np.repeat(K1 * (1 - B + B * lengths / max(lengths.mean(), 1e-9)), per_row) if len(tf) else tf
    counts.data = (_idf(counts)[counts.indices] * (tf / (tf + norms))).astype(np.float32)
    return counts, queries


def _bm25f(fields: Counts, queries: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    total = sparse.csr_matrix(next(iter(fields.values())).shape, dtype=np.float32)
    for name, counts in fields.items():
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        there = lengths > 0
        if there.any():
            norms = 1 - B + B * lengths / lengths[there].mean()
            counts.data *= np.repeat(FIELD_WEIGHTS[name] / norms, np.diff(counts.indptr)).astype(np.float32)
            total = total + counts
    total.data = (_idf(total)[total.indices] * (total.data / (K1 + total.data))).astype(np.float32)
    return total, queries


def _tfidf(fields: Counts, queries: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    counts = fields["text"]
    idf = 1 + np.log((1 + counts.shape[0]) / (1 + _frequencies(counts)))
    return _unit(counts, idf), _unit(queries, idf)


def _unit(counts: sparse.csr_matrix, idf: Float64[np.ndarray, " V"]) -> sparse.csr_matrix:
    values = counts.data * idf[counts.indices]
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    norms = np.sqrt(np.bincount(row, values**2, counts.shape[0]))
    counts.data = (values / norms[row]).astype(np.float32)
    return counts


def _idf(counts: sparse.csr_matrix) -> Float64[np.ndarray, " V"]:
    n = _frequencies(counts)
    return np.log1p((counts.shape[0] - n + 0.5) / (n + 0.5))


def _frequencies(counts: sparse.csr_matrix) -> Int[np.ndarray, " V"]:
    """In how many products each word is."""
    return np.bincount(counts.indices, minlength=counts.shape[1])
