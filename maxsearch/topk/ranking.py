"""The best products of each query, and the one order that every way to find them keeps.

The order is by score, then by catalogue position: equal products keep the catalogue's order. A key is an int64 that
holds a score and a position so that the larger key is the better one; sorting keys therefore settles ties too.

Letters: Q queries, K ranks kept, N products.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

EMPTY = np.iinfo(np.int64).min
"""The key where nothing stands."""
LOW = np.int64(0xFFFFFFFF)


@dataclass(frozen=True)
class Ranking:
    """The best products of each query.

    Attributes:
      rows: catalogue positions, best first; -1 where nothing stands.
      scores: in descending order; -inf where nothing stands.
    """

    rows: Int32[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]


def keys_of(scores: Float32[np.ndarray, "*S"], rows: Any) -> Int64[np.ndarray, "*S"]:
    """Keys of scores and of the catalogue positions (int64, of a shape that spreads over theirs) they belong to."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero makes -0 and 0 the same score
    # The bits of floats sort as whole numbers once those of negative ones are turned round.
    keys: np.ndarray = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    keys <<= 32
    keys |= LOW - rows
    return keys


def scores_of(keys: Int64[np.ndarray, "*S"]) -> Float32[np.ndarray, "*S"]:
    """The scores of keys; -inf of EMPTY."""
    bits = (keys >> 32).astype(np.int32)
    scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)
    return np.where(keys == EMPTY, np.float32(-np.inf), scores)


def ranking_of(keys: Int64[np.ndarray, "Q N"], k: int) -> Ranking:
    """The ranking that the largest `k` keys of each query make."""
    best = np.sort(keys, axis=1)[:, ::-1][:, :k]
    rows = np.where(best == EMPTY, -1, LOW - (best & LOW)).astype(np.int32)
    return Ranking(rows=rows, scores=scores_of(best))


def padded(rows: Float32[np.ndarray, "N D"], size: int) -> Float32[np.ndarray, "M D"]:
    """Rows of zeros behind, up to `size` rows."""
    return np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), dtype=np.float32)])
