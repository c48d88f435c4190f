"""Which of a query's search results are likely what was asked for, and so no negatives.

Each rule takes the results of one query and marks those to be left out. K results, P products that were clicked for the
query, W words of the query, all as rows of the index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from maxsearch.errors import UsageError

REASONS = ("clicked", "variant", "keywords", "score")
"""Why a result is left out; the first that applies is counted."""


@dataclass(frozen=True)
class MiningOptions:
    """Which search results become negatives.

    Attributes:
      per_query: negatives to keep of each query, the hardest first.
      from_rank, to_rank: the ranks that are looked at, from 1 and both included, before anything is left out.
      max_ratio: results are left out that reach this share of the positive's score.
      margin: results are left out that reach the positive's score minus this.
      against: which of a query's positives the scores are compared with, the one that scores best or worst.
      keywords: leave products out that have every word of the query.
    """

    per_query: int = 16
    from_rank: int = 1
    to_rank: int = 200
    max_ratio: float = 0.95
    margin: float = 0.0
    against: Literal["best", "worst"] = "best"
    keywords: bool = True

    def check(self) -> None:
        """Refuses what makes no sense.

        Raises:
          UsageError: a value is out of range.
        """
        if self.per_query < 1:
            raise UsageError(f"--per-query {self.per_query} is out of range: give 1 or more")
        if not 1 <= self.from_rank <= self.to_rank:
            raise UsageError(
                f"--from-rank {self.from_rank} --to-rank {self.to_rank} is no window of ranks: give two rising numbers "
                "from 1"
            )
        if not 0 < self.max_ratio <= 1:
            raise UsageError(f"--max-ratio {self.max_ratio} is out of range: give a number above 0 and at most 1")
        if not 0 <= self.margin < np.inf:
            raise UsageError(f"--margin {self.margin} is out of range: give 0 or more, such as 0.05")


def same_variant(
    results: Int64[np.ndarray, " K"], clicked: Int64[np.ndarray, " P"], groups: Int64[np.ndarray, " N"]
) -> Bool[np.ndarray, " K"]:
    """Results of the variant group of a clicked product.

    Args:
      results: rows of the results.
      clicked: rows of the clicked products.
      groups: number of every product's group, below 0 where it has none.
    """
    own = groups[clicked]
    return np.isin(groups[results], own[own >= 0])


def has_all_words(words: Sequence[int], keywords: Int[np.ndarray, "K 48"]) -> Bool[np.ndarray, " K"]:
    """Results that have every one of a query's words, as `losses.masks.contained_pairs` has it; all, for no words.

    Args:
      words: ids of the query's keywords.
      keywords: ids of each result's keywords, below 0 where there is none.
    """
    found = [(keywords == word).any(axis=1) for word in words]
    return np.all(found, axis=0) if found else np.ones(len(keywords), bool)


def too_close(
    scores: Float32[np.ndarray, " K"], positives: Float32[np.ndarray, " P"], options: MiningOptions
) -> Bool[np.ndarray, " K"]:
    """Results that score about as well as a product that was clicked.

    The positive-aware limits of NV-Retriever (arXiv 2407.15831), relative and absolute; a result must stay below both.

    Args:
      scores: of the results.
      positives: scores of the clicked products, at least one.
      options: the limits.
    """
    positive = float(positives.max() if options.against == "best" else positives.min())
    # By the size of the score, so that a ratio below 1 also lowers one that is negative.
    limit = min(positive - (1 - options.max_ratio) * abs(positive), positive - options.margin)
    return scores >= limit
