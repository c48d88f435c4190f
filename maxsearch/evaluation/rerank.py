"""The top of a ranking put in the order of the matching head, which reads query and product together.

The catalogue's file is read a second time, and only the products that stand in some query's top are encoded, block by
block: one block's token states are in memory at a time, and each candidate is encoded once, whatever the number of
queries. The cost is one pass through the head for each query and rank.

Q queries, K ranks, N ranks that are put in a new order, n pairs.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int32

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.evaluation.embedded import Catalogue, ProductEncoder, ProductsFile, usable
from maxsearch.progress import Progress

BLOCK = 256  # candidates that are encoded together


@runtime_checkable
class PairEncoder(ProductEncoder, Protocol):
    """A model that can also score a query and a product together."""

    @property
    def matches(self) -> bool:
        """Whether it was trained to."""
        ...

    def match(
        self, queries: Sequence[str], products: Sequence[Product], pairs: Int[np.ndarray, "n 2"]
    ) -> Float32[np.ndarray, " n"]:
        """How well the queries and products of these (query, product) positions match; more is better."""
        ...


def pair_encoder(encoder: ProductEncoder) -> PairEncoder:
    """The encoder itself, if it can re-rank.

    Raises:
      UsageError: it cannot.
    """
    if isinstance(encoder, PairEncoder) and encoder.matches:
        return encoder
    raise UsageError(
        "--rerank needs a model with a matching head, and this one has none: train one with --loss.matching above 0, "
        "or leave --rerank out"
    )


def rerank(
    file: ProductsFile,
    encoder: PairEncoder,
    queries: Sequence[str],
    rows: Int32[np.ndarray, "Q K"],
    count: int,
    progress: Progress | None = None,
) -> Int32[np.ndarray, "Q K"]:
    """Orders the first `count` ranks of each query by how well query and product match; those below stay.

    Args:
      file: the catalogue that was ranked.
      encoder: the model.
      queries: query texts.
      rows: catalogue positions, best first; -1 where nothing stands.
      count: N, ranks that are put in a new order. Products that match equally well keep theirs.
      progress: where to report.
    """
    top = rows[:, :count]
    scores = np.full(top.shape, -np.inf, np.float32)
    query, rank = np.nonzero(top >= 0)
    # Grouped by product, in the order of the catalogue.
    order = np.argsort(top[query, rank], kind="stable")
    query, rank = query[order], rank[order]
    wanted, place = np.unique(top[query, rank], return_inverse=True)
    block: list[Product] = []
    done = 0

    def score() -> None:
        nonlocal done
        span = slice(*np.searchsorted(place, [done, done + len(block)]))
        pairs = np.stack([query[span], place[span] - done], axis=1)
        scores[query[span], rank[span]] = encoder.match(queries, block, pairs)
        done += len(block)
        block.clear()

    candidates = set(wanted.tolist())
    for position, product in enumerate(usable(file, encoder.image_edge, Catalogue(), progress, "re-ranking products")):
        if position in candidates:
            block.append(product)
        if len(block) == BLOCK:
            score()
    if block:
        score()
    best = np.argsort(-scores, axis=1, kind="stable")
    return np.concatenate([np.take_along_axis(top, best, axis=1), rows[:, count:]], axis=1)
