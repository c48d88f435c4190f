"""Exact top-k over a catalogue that streams past: never more than one block of scores exists, and only on the device.

The order is by score, then by catalogue position, whatever the block sizes: equal products keep the catalogue's order.

Letters: Q queries, D width, K ranks kept, N products of a block.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from maxsearch.errors import MaxsearchError

PRODUCT_BLOCK = 4096
QUERY_BLOCK = 1024


@dataclass(frozen=True)
class Ranking:
    """The best products of each query.

    Attributes:
      rows: catalogue positions, best first; -1 where nothing stands.
      scores: in descending order; -inf where nothing stands.
    """

    rows: Int32[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]


@partial(jax.jit, donate_argnames=("scores", "rows"))
def _merge(
    scores: Float[Array, "Q K"],
    rows: Int32[Array, "Q K"],
    queries: Float[Array, "Q D"],
    block: Float[Array, "N D"],
    start: Int32[Array, ""],
    count: Int32[Array, ""],
) -> tuple[Float[Array, "Q K"], Int32[Array, "Q K"]]:
    K, N = scores.shape[1], block.shape[0]
    # The highest precision: a bfloat16 product on an accelerator would reorder close products.
    fresh = jnp.einsum("qd,nd->qn", queries, block, precision=jax.lax.Precision.HIGHEST)
    fresh = jnp.where(fresh == 0, 0.0, fresh)  # top_k sorts -0 below 0, which would break the tie by position
    fresh = jnp.where(jnp.arange(N) < count, fresh, -jnp.inf)
    # top_k puts the lower index first among equals, and what was kept stands at lower catalogue positions.
    best, index = jax.lax.top_k(jnp.concatenate([scores, fresh], axis=1), K)
    kept = jnp.take_along_axis(rows, jnp.minimum(index, K - 1), axis=1)
    return best, jnp.where(index < K, kept, start + index - K)


class TopK:
    """Keeps the K best products of each query while blocks of product vectors are added.

    Memory: queries, Q x K results, and one QUERY_BLOCK x PRODUCT_BLOCK block of scores.
    """

    def __init__(self, queries: Float32[np.ndarray, "Q D"], k: int) -> None:
        self._queries = queries.shape[0]
        self._width = queries.shape[1]
        self._k = k
        _require_finite(queries, "query")
        self._parts = []
        for start in range(0, self._queries, QUERY_BLOCK):
            part = queries[start : start + QUERY_BLOCK].astype(np.float32)
            self._parts.append(jnp.asarray(_padded(part, min(QUERY_BLOCK, _power_of_two(self._queries)))))
        self._scores = [jnp.full((part.shape[0], k), -jnp.inf, dtype=jnp.float32) for part in self._parts]
        self._rows = [jnp.full((part.shape[0], k), -1, dtype=jnp.int32) for part in self._parts]
        self._buffer = np.zeros((PRODUCT_BLOCK, self._width), dtype=np.float32)
        self._filled = 0
        self._start = 0

    def add(self, block: Float32[np.ndarray, "N D"]) -> None:
        """Adds the next products of the catalogue, any number of them.

        Raises:
          MaxsearchError: a vector holds NaN or infinity.
        """
        _require_finite(block, "product", first=self._start + self._filled)
        while len(block):
            taken = min(len(block), PRODUCT_BLOCK - self._filled)
            self._buffer[self._filled : self._filled + taken] = block[:taken]
            self._filled += taken
            block = block[taken:]
            if self._filled == PRODUCT_BLOCK:
                self._flush()

    def _flush(self) -> None:
        block = jnp.asarray(self._buffer)
        for part, queries in enumerate(self._parts):
            self._scores[part], self._rows[part] = _merge(
                self._scores[part],
                self._rows[part],
                queries,
                block,
                np.int32(self._start),
                np.int32(self._filled),
            )
        self._start += self._filled
        self._filled = 0
        # A new buffer: the device may read the old one in place, later than this line.
        self._buffer = np.zeros_like(self._buffer)

    def ranking(self) -> Ranking:
        """The best products so far; K is at most the number of products added."""
        if self._filled:
            self._flush()
        k = min(self._k, self._start)
        if not self._parts:
            return Ranking(rows=np.empty((0, k), np.int32), scores=np.empty((0, k), np.float32))
        return Ranking(
            rows=np.concatenate([np.asarray(part) for part in self._rows])[: self._queries, :k],
            scores=np.concatenate([np.asarray(part) for part in self._scores])[: self._queries, :k],
        )


def top_k(queries: Float32[np.ndarray, "Q D"], blocks: Iterable[Float32[np.ndarray, "N D"]], k: int) -> Ranking:
    """Ranks a catalogue by inner product.

    Args:
      queries: query vectors.
      blocks: the catalogue's vectors in order, in blocks of any sizes.
      k: number of ranks, at least 1; cut to the size of the catalogue.

    Raises:
      MaxsearchError: a vector holds NaN or infinity.
    """
    best = TopK(queries, k)
    for block in blocks:
        best.add(block)
    return best.ranking()


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _padded(rows: Float32[np.ndarray, "N D"], size: int) -> Float32[np.ndarray, "M D"]:
    return np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), dtype=np.float32)])


def _require_finite(vectors: Float[np.ndarray, "N D"], what: str, first: int = 0) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise MaxsearchError(
            f"{what} {first + int(bad[0]) + 1} has a vector with NaN or infinity: the model is broken; "
            "evaluate an earlier checkpoint or train again"
        )
