"""The dense leg's weight, chosen on judged queries.

Tune on some queries and believe the figures of others only: a weight chosen on a query is too good on that query.

Letters: Q queries, C candidates, K ranks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from maxsearch.errors import UsageError
from maxsearch.evaluation.bootstrap import RESAMPLES
from maxsearch.evaluation.comparison import Difference, paired_differences
from maxsearch.evaluation.metrics import Relevance, score
from maxsearch.serving.hybrid.fuse import order, weighted

METRIC = "ndcg@10"
GRID = (*(step / 10 for step in range(10)), 0.925, 0.95, 0.965, 0.98, 0.99, 1.0)
"""Close together where weights are often best: cosines of candidates differ by little of the scale from -1 on."""


@dataclass(frozen=True)
class Candidates:
    """What both legs found for one query.

    Attributes:
      rows: the union of both legs' best.
      dense, lexical: each one's score, whichever leg found it.
    """

    rows: Int64[np.ndarray, " C"]
    dense: Float64[np.ndarray, " C"]
    lexical: Float64[np.ndarray, " C"]

    def ranked(self, weight: float, k: int) -> Int64[np.ndarray, " K"]:
        """The k best rows at a weight of the dense leg."""
        return self.rows[order(self.rows, weighted(self.dense, self.lexical, weight))[:k]]


@dataclass(frozen=True)
class Tuning:
    """What was chosen, on the queries that it was chosen on.

    Attributes:
      weight: of the dense leg; of equally good ones the largest.
      curve: (weight, mean nDCG@10) of all that were tried.
      gain: nDCG@10 of the chosen weight less that of the dense leg alone, with interval and p-value.
    """

    weight: float
    curve: tuple[tuple[float, float], ...]
    gain: Difference

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def stacked(rankings: Sequence[Int64[np.ndarray, " _"]], k: int) -> Int64[np.ndarray, "Q K"]:
    """Rankings of different lengths as one array, -1 where nothing stands."""
    rows = np.full((len(rankings), k), -1, np.int64)
    for place, ranking in enumerate(rankings):
        rows[place, : len(ranking)] = ranking[:k]
    return rows


def tune_weight(
    candidates: Sequence[Candidates],
    relevance: Relevance,
    *,
    grid: Sequence[float] = GRID,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tuning:
    """Finds the weight with the best mean nDCG@10.

    Args:
      candidates: of each query.
      relevance: the judgments of the same queries, by row.
      grid: weights to try; 1 (dense alone) is always tried too.
      resamples: for the gain's interval and p-value.
      seed: equal seeds give equal intervals.

    Raises:
      UsageError: there is no query.
    """
    if not candidates:
        raise UsageError("there is no judged query to tune the weight on: give at least one")
    values = {
        weight: score(stacked([found.ranked(weight, 100) for found in candidates], 100), relevance)[METRIC]
        for weight in sorted({*grid, 1.0})
    }
    best = max(values, key=lambda weight: (values[weight].mean(), weight))
    [gain] = paired_differences((values[best] - values[1.0])[:, None], resamples=resamples, seed=seed)
    return Tuning(best, tuple((weight, float(x.mean())) for weight, x in values.items()), gain)
