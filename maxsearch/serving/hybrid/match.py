"""The matching head's opinion of retrieved products: query and product read together.

Letters: n rows.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int64

from maxsearch.data.records import Product

Match: TypeAlias = Callable[[Int64[np.ndarray, " n"]], Float32[np.ndarray, " n"]]
"""Gives the scores of rows with a query; more is better."""


@runtime_checkable
class PairScorer(Protocol):
    """A model with a matching head; `maxsearch.encode.Encoder` is one if its `matches` says so."""

    def match(
        self, queries: Sequence[str], products: Sequence[Product], pairs: Int[np.ndarray, "n 2"]
    ) -> Float32[np.ndarray, " n"]:
        """How well the queries and products at these (query, product) positions match."""
        ...


def matching(encoder: PairScorer, query: str, products: Callable[[list[int]], Sequence[Product]]) -> Match:
    """What a `HybridPlan` re-ranks with.

    Args:
      encoder: the model.
      query: the shopper's words.
      products: gives the products of rows, with their pictures.
    """

    def scores(rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        pairs = np.stack([np.zeros(len(rows), np.int64), np.arange(len(rows))], axis=1)
        return encoder.match([query], products(rows.tolist()), pairs)

    return scores
