"""ROC-AUC of pair scores, the metric of AlignCMSS: how often a relevant pair of query and product outscores another.

All judged pairs of all queries are pooled, so that scores of different queries have to be comparable. Where the
judgments hold no pair below the relevant grade, other queries' judged products stand in for irrelevant ones (ours).

The interval over queries linearises the AUC: each query gets the value whose mean is the AUC and whose spread is its
share of the AUC's variance when queries are drawn anew (DeLong et al., Biometrics 1988, for placements; Obuchowski,
Biometrics 1997, for clusters). So it is bootstrapped and compared as any metric is, in O(n log n).

Letters: n pairs, Q queries.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64


@dataclass(frozen=True)
class Pairs:
    """Pairs of query and judged product whose scores are asked for.

    Attributes:
      query: position of each pair's query among the evaluated ones.
      product: position of its product among the judged ones.
      positive: whether the product is relevant to the query.
      drawn: number of the pairs that were drawn and are not judged.
    """

    query: Int64[np.ndarray, " n"]
    product: Int64[np.ndarray, " n"]
    positive: Bool[np.ndarray, " n"]
    drawn: int = 0

    def __len__(self) -> int:
        return len(self.query)

    @property
    def mixed(self) -> bool:
        """Whether both kinds of pairs are there, without which there is no AUC."""
        return bool(self.positive.any() and not self.positive.all())


def with_negatives(pairs: Pairs, *, seed: int) -> Pairs:
    """Draws one pair of each query with a product judged for another one, for each relevant pair that it has.

    A product that is judged for the query itself is never drawn; a query for which every product is judged gets none.

    Args:
      pairs: judged pairs, sorted by query, none of them negative.
      seed: equal seeds give equal pairs.
    """
    rng = np.random.default_rng(seed)
    products = np.unique(pairs.product)
    starts = np.flatnonzero(np.r_[True, np.diff(pairs.query) > 0]) if len(pairs) else np.zeros(0, np.int64)
    drawn_query, drawn_product = [], []
    for query, own in zip(pairs.query[starts], np.split(pairs.product, starts[1:]), strict=True):
        free = len(products) - len(own)
        count = min(len(own), free)
        # Enough draws that, without the query's own, as many are left as are wanted, but for rare bad luck.
        tries = 4 * count * len(products) // max(free, 1) + 16
        found = products[rng.integers(0, len(products), size=tries)] if count else products[:0]
        others = found[~np.isin(found, own)][:count]
        drawn_query.append(np.full(len(others), query))
        drawn_product.append(others)
    if not drawn_query:
        return pairs
    query, product = np.concatenate(drawn_query), np.concatenate(drawn_product)
    return Pairs(
        query=np.concatenate([pairs.query, query]),
        product=np.concatenate([pairs.product, product]),
        positive=np.concatenate([pairs.positive, np.zeros(len(query), np.bool_)]),
        drawn=len(query),
    )


def auc_values(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], query: Int[np.ndarray, " n"], queries: int
) -> Float64[np.ndarray, " Q"]:
    """One value per query, whose mean is the AUC; a tie counts half, and NaN, no score, stands below every score.

    A query's value is no AUC of its own and may lie outside 0 to 1: it says how far the query moves the whole.

    Args:
      scores: of the pairs.
      positive: which of them are relevant; some are and some are not.
      query: position of each pair's query.
      queries: Q, number of queries.
    """
    lowest = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(lowest)
    ordered, good, of = lowest[order], positive[order], query[order]
    fresh = np.append(True, ordered[1:] != ordered[:-1])
    tie = fresh.cumsum() - 1
    G, B = good.sum(), (~good).sum()
    wins = np.where(good, _below(~good, tie) / B, 1 - _below(good, tie) / G)
    auc = float(wins[good].mean())
    return auc + queries * np.bincount(of, np.where(good, 1 / G, 1 / B) * (wins - auc), queries)


def _below(kind: Bool[np.ndarray, " n"], tie: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """How many of a kind stand below each pair's score, and half of those that share it."""
    counts = np.bincount(tie, kind)
    return (counts.cumsum() - counts / 2)[tie]
