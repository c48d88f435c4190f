"""One ranking from two: by ranks, or by a weighted sum of scores.

Letters: L legs, C candidates, n results.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from maxsearch.errors import UsageError

RRF_K = 60
"""What Cormack et al. found to work well on TREC; larger values trust the first ranks less."""


def reciprocal_ranks(
    candidates: Int64[np.ndarray, " C"], rankings: Sequence[Int64[np.ndarray, " _"]], *, k: int = RRF_K
) -> Float64[np.ndarray, " C"]:
    """Reciprocal rank fusion: the sum over rankings of 1 / (k + rank), rank from 1 (Cormack et al., SIGIR 2009).

    Args:
      candidates: rows to score.
      rankings: rows of each leg, best first; a row that a leg does not rank gets nothing from it.
      k: the constant; at least 0.
    """
    if k < 0:
        raise UsageError(f"the constant of reciprocal rank fusion must not be negative, and is {k}")
    place = {row: at for at, row in enumerate(candidates.tolist())}
    scores = np.zeros(len(candidates))
    for ranking in rankings:
        for rank, row in enumerate(ranking.tolist(), 1):
            if row in place:
                scores[place[row]] += 1 / (k + rank)
    return scores


def scaled(scores: Float64[np.ndarray, " C"], least: float) -> Float64[np.ndarray, " C"]:
    """Scores from 0 (the least that the leg can give) to 1 (the best candidate's); 0 where all are the least.

    As Bruch et al. (TOIS 2023, theoretical min-max): unlike with the candidates' own minimum, a score does not hang on
    how many candidates there are.
    """
    top = scores.max(initial=least)
    return (scores - least) / (top - least) if top > least else np.zeros(len(scores))


def weighted(
    dense: Float64[np.ndarray, " C"], lexical: Float64[np.ndarray, " C"], weight: float
) -> Float64[np.ndarray, " C"]:
    """weight * dense + (1 - weight) * lexical, both scaled: cosines from -1 on, BM25 from 0 on.

    Args:
      dense: inner products of unit vectors.
      lexical: BM25 scores.
      weight: of the dense leg, from 0 to 1; `tune.tune_weight` finds one.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"the dense leg's weight must be from 0 to 1, and is {weight:g}")
    return weight * scaled(dense, -1.0) + (1 - weight) * scaled(lexical, 0.0)


def order(rows: Int64[np.ndarray, " C"], scores: Float64[np.ndarray, " C"]) -> Int64[np.ndarray, " C"]:
    """Places of the candidates, best first; equal scores by row."""
    return np.lexsort((rows, -scores))
