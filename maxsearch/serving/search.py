"""From a shopper's words to a ranked list of products."""

from dataclasses import dataclass

import numpy as np

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.store.snapshot import Snapshot


@dataclass(frozen=True)
class Hit:
    """One result: its rank from 1, the product, and the inner product of its vector with the query's."""

    rank: int
    product_id: str
    title: str
    score: float
    attributes: dict[str, str]


def search(snapshot: Snapshot, encoder: EmbeddingModel, query: str, k: int = 10) -> list[Hit]:
    """Ranks the catalogue for one query.

    Args:
      snapshot: the opened index, or a store as it was at one time.
      encoder: the model that built it.
      query: what the shopper typed.
      k: how many products, at least 1.

    Returns:
      The best products, best first; all of them when there are fewer than `k`.

    Raises:
      UsageError: the query is empty, or `k` is below 1.
      MaxsearchError: the index was built with another model, or the query's vector is not finite.
    """
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    if not query.strip():
        raise UsageError("the query is empty: type what the shopper is looking for")
    snapshot.index.require_model(encoder.fingerprint)
    vectors = np.asarray(encoder.encode_queries([query]), dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise MaxsearchError(
            f"the model gives the query {query!r} a vector that is not finite: "
            "use a model from an earlier training step"
        )
    rows, scores = snapshot.search(vectors, max(1, min(k, len(snapshot))))
    found = rows[0] >= 0
    items = snapshot.take(rows[0][found].tolist())
    return [
        Hit(rank, item.product_id, item.title, float(score), item.attributes)
        for rank, (item, score) in enumerate(zip(items, scores[0][found], strict=True), 1)
    ]
