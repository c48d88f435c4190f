"""How good a ranking is, query by query: nDCG, recall, precision, hit rate, relevance, MRR and MAP.

nDCG uses the gain 2^grade - 1 and the discount 1/log2(rank + 1); relevance@K is the mean grade of the first K ranks as
a share of the highest grade; the others count a product as relevant from a chosen grade on (1 unless told otherwise). A
query that gets no ranking scores 0. All but relevance@K equal trec_eval's and ir_measures' figures (nDCG there with the
gains spelled out, or with dcg="exp-log2"; hit@K is Success@K). docs/evaluation.md gives the sources.

Letters: Q queries, K ranks, J judgments, I the best grades kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

AUC = "auc"
PER_QUERY = ("ndcg@10", "recall@10", "recall@100", "precision@10", "hit@10", "relevance@10", "mrr", "map")
METRICS = (*PER_QUERY, AUC)  # in the order to display
IDEAL_DEPTH = 10
BLOCK = 8192  # queries that are scored at a time


@dataclass(frozen=True)
class Relevance:
    """The judgments of Q queries over one catalogue, ready for look-up.

    Attributes:
      keys: query position * catalogue size + catalogue position of every product with a grade above 0, sorted.
      grades: their grades.
      ideal: per query, the highest grades in descending order, filled up with 0.
      relevant: per query, the number of relevant products.
      catalogue_size: number of products.
      relevant_grade: the lowest grade that counts as relevant.
      highest_grade: of all judgments; 1 where no grade is above 0.
    """

    keys: Int64[np.ndarray, " J"]
    grades: Int64[np.ndarray, " J"]
    ideal: Int64[np.ndarray, "Q I"]
    relevant: Int64[np.ndarray, " Q"]
    catalogue_size: int
    relevant_grade: int
    highest_grade: int

    @classmethod
    def build(cls, judged: Sequence[Mapping[int, int]], catalogue_size: int, *, relevant_grade: int = 1) -> "Relevance":
        """Packs judgments.

        Args:
          judged: per query, grade per catalogue position.
          catalogue_size: number of products.
          relevant_grade: the lowest grade that counts as relevant, at least 1.
        """
        counts = [len(grades) for grades in judged]
        total = sum(counts)
        queries = np.repeat(np.arange(len(judged), dtype=np.int64), counts)
        rows = np.fromiter((row for grades in judged for row in grades), np.int64, total)
        grades = np.fromiter((grade for grades in judged for grade in grades.values()), np.int64, total)
        graded = grades > 0
        keys = queries[graded] * catalogue_size + rows[graded]
        order = np.argsort(keys)
        return cls.of_keys(
            keys[order], grades[graded][order], len(judged), catalogue_size, relevant_grade=relevant_grade
        )

    @classmethod
    def of_keys(
        cls,
        keys: Int64[np.ndarray, " J"],
        grades: Int64[np.ndarray, " J"],
        queries: int,
        catalogue_size: int,
        *,
        relevant_grade: int,
        highest_grade: int | None = None,
    ) -> "Relevance":
        """The judgments from their sorted keys and grades above 0; see the attributes."""
        of = keys // catalogue_size
        order = np.lexsort((-grades, of))
        rank = np.arange(len(keys)) - np.searchsorted(of, of)  # the order keeps each query's span of places
        ideal = np.zeros((queries, IDEAL_DEPTH), dtype=np.int64)
        best = rank < IDEAL_DEPTH
        ideal[of[best], rank[best]] = grades[order][best]
        return cls(
            keys=keys,
            grades=grades,
            ideal=ideal,
            relevant=np.bincount(of[grades >= relevant_grade], minlength=queries).astype(np.int64),
            catalogue_size=catalogue_size,
            relevant_grade=relevant_grade,
            highest_grade=int(grades.max(initial=1)) if highest_grade is None else highest_grade,
        )

    def grades_of(self, rows: Int[np.ndarray, "Q K"], first: int = 0) -> Int64[np.ndarray, "Q K"]:
        """Grade of each ranked product; 0 for unjudged ones and where nothing stands (row -1).

        Args:
          rows: ranked catalogue positions of consecutive queries.
          first: position of the first of these queries.
        """
        places = self.places_of(rows, first)
        return np.where(places >= 0, self.grades[places], 0) if len(self.keys) else np.zeros(rows.shape, np.int64)

    def places_of(self, rows: Int[np.ndarray, "Q K"], first: int = 0) -> Int64[np.ndarray, "Q K"]:
        """Where each ranked product stands in `keys`; -1 where it has no grade above 0. Arguments as `grades_of`."""
        if not len(self.keys):
            return np.full(rows.shape, -1, dtype=np.int64)
        wanted = np.arange(first, first + len(rows), dtype=np.int64)[:, None] * self.catalogue_size + rows
        found = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((rows >= 0) & (self.keys[found] == wanted), found, -1)


def ndcg(grades: Int[np.ndarray, "Q K"], ideal: Int[np.ndarray, "Q J"], k: int) -> Float64[np.ndarray, " Q"]:
    """Normalised discounted cumulative gain of the first k ranks, gain 2^grade - 1; 0 where no grade is above 0.

    Järvelin and Kekäläinen (ACM TOIS 2002), with the gain of Burges et al. (ICML 2005).

    Args:
      grades: grades of the ranked products, best rank first.
      ideal: the query's highest grades, descending; at least k of them, or all.
      k: cut-off.
    """
    best = _dcg(ideal[:, :k])
    return np.divide(_dcg(grades[:, :k]), best, out=np.zeros(len(grades)), where=best > 0)


def _dcg(grades: Int[np.ndarray, "Q K"]) -> Float64[np.ndarray, " Q"]:
    discounts = 1 / np.log2(np.arange(2, grades.shape[1] + 2))
    return (np.exp2(np.maximum(grades, 0).astype(np.float64)) - 1) @ discounts


def recall(
    grades: Int[np.ndarray, "Q K"], relevant: Int[np.ndarray, " Q"], k: int, *, relevant_grade: int = 1
) -> Float64[np.ndarray, " Q"]:
    """Share of a query's relevant products that stand in the first k ranks; 0 where there are none.

    Args:
      grades: grades of the ranked products.
      relevant: number of relevant products per query.
      k: cut-off.
      relevant_grade: the lowest grade that counts as relevant.
    """
    found = (grades[:, :k] >= relevant_grade).sum(axis=1)
    return np.divide(found, relevant, out=np.zeros(len(grades)), where=relevant > 0)


def reciprocal_rank(grades: Int[np.ndarray, "Q K"], *, relevant_grade: int = 1) -> Float64[np.ndarray, " Q"]:
    """One over the rank of the first relevant product; 0 where none is ranked."""
    if not grades.shape[1]:
        return np.zeros(len(grades))
    hits = grades >= relevant_grade
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1.0), 0.0)


def average_precision(
    grades: Int[np.ndarray, "Q K"], relevant: Int[np.ndarray, " Q"], *, relevant_grade: int = 1
) -> Float64[np.ndarray, " Q"]:
    """The precision at the rank of each relevant product, averaged over all of them; those not ranked give 0."""
    hits = grades >= relevant_grade
    precisions = hits.cumsum(axis=1) / np.arange(1.0, grades.shape[1] + 1)
    sums = np.where(hits, precisions, 0.0).sum(axis=1)
    return np.divide(sums, relevant, out=np.zeros(len(grades)), where=relevant > 0)


def score(rows: Int[np.ndarray, "Q K"], relevance: Relevance) -> dict[str, Float64[np.ndarray, " Q"]]:
    """Every metric of PER_QUERY per query.

    Args:
      rows: ranked catalogue positions, best first; -1 where nothing stands or what stands is not in the catalogue.
      relevance: the judgments of the same queries.
    """
    values = {name: np.zeros(len(rows)) for name in PER_QUERY}
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        here = slice(start, start + len(block))
        found = _score(relevance.grades_of(block, start), relevance, here)
        for name in PER_QUERY:
            values[name][here] = found[name]
    return values


def _score(grades: Int[np.ndarray, "Q K"], relevance: Relevance, here: slice) -> dict[str, Float64[np.ndarray, " Q"]]:
    least, relevant = relevance.relevant_grade, relevance.relevant[here]
    hits = (grades[:, :10] >= least).sum(axis=1)
    return {
        "ndcg@10": ndcg(grades, relevance.ideal[here], 10),
        "recall@10": recall(grades, relevant, 10, relevant_grade=least),
        "recall@100": recall(grades, relevant, 100, relevant_grade=least),
        "precision@10": hits / 10,
        "hit@10": (hits > 0).astype(np.float64),
        "relevance@10": grades[:, :10].sum(axis=1) / (10 * relevance.highest_grade),
        "mrr": reciprocal_rank(grades, relevant_grade=least),
        "map": average_precision(grades, relevant, relevant_grade=least),
    }
