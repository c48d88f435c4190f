"""Exact top-k over a catalogue that streams past: never more than a few blocks of scores exist.

Letters: Q queries, D width, K ranks kept, N products of a block.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Float32

from maxsearch.errors import MaxsearchError
from maxsearch.topk.budget import host_sizes, power_of_two, shard_sizes
from maxsearch.topk.host import HostTopK
from maxsearch.topk.ranking import Ranking
from maxsearch.topk.sharded import ShardedTopK

SMALLEST_BLOCK = 16


class TopK:
    """Keeps the K best products of each query while blocks of product vectors are added.

    Equal scores are ordered by catalogue position, whatever the block sizes. On a CPU the work is `HostTopK`'s; on
    accelerators the products are split over this process's devices, by `ShardedTopK`. Of several processes each ranks
    what it is given, by itself.

    Args:
      queries: query vectors.
      k: ranks kept, at least 1.
      memory: bytes that ranking may take, on the host or on each accelerator; None takes what is fastest.
      devices: accelerators to split the products over; those of this process when None.

    Raises:
      UsageError: `memory` is too little.
      MaxsearchError: a query holds NaN or infinity.
    """

    def __init__(
        self,
        queries: Float32[np.ndarray, "Q D"],
        k: int,
        *,
        memory: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        _require_finite(queries, "query")
        self._k, self._count, self._filled = k, 0, 0
        self._none = not len(queries)
        queries = queries.astype(np.float32, copy=False)
        shape = (*queries.shape, k, memory)
        self._work: HostTopK | ShardedTopK
        if devices is None and jax.local_devices()[0].platform == "cpu":
            sizes = host_sizes(*shape)
            self._shards, self._share = 1, sizes.products
            self._work = HostTopK(queries, k, sizes)
        else:
            devices = jax.local_devices() if devices is None else devices
            shares = shard_sizes(*shape)
            self._shards, self._share = len(devices), shares.products
            self._work = ShardedTopK(queries, k, shares, devices)
        # One is filled while the other is read.
        self._buffers = [np.empty((self._share * self._shards, queries.shape[1]), np.float32) for _ in range(2)]

    def add(self, block: Float32[np.ndarray, "N D"]) -> None:
        """Adds the next products of the catalogue, any number of them.

        Raises:
          MaxsearchError: a vector holds NaN or infinity.
        """
        _require_finite(block, "product", first=self._count + self._filled)
        buffer = self._buffers[0]
        while len(block):
            taken = min(len(block), len(buffer) - self._filled)
            buffer[self._filled : self._filled + taken] = block[:taken]
            self._filled += taken
            block = block[taken:]
            if self._filled == len(buffer):
                self._flush()
                buffer = self._buffers[0]

    def ranking(self) -> Ranking:
        """The best products so far; K is at most the number of products added."""
        if self._filled:
            self._flush()
        k = min(self._k, self._count)
        if self._none:
            return Ranking(rows=np.empty((0, k), np.int32), scores=np.empty((0, k), np.float32))
        return self._work.ranking(k)

    def _flush(self) -> None:
        block = self._buffers[0]
        block[self._filled :] = 0
        if self._count == 0:
            # All of a small catalogue. Later ones keep their shape: the product of a vector may depend on it.
            share = max(SMALLEST_BLOCK, power_of_two(-(-self._filled // self._shards)))
            block = block[: min(share, self._share) * self._shards]
        if not self._none:
            self._work.absorb(block, self._count, self._filled)
        self._count += self._filled
        self._filled = 0
        self._buffers.reverse()


def top_k(
    queries: Float32[np.ndarray, "Q D"],
    blocks: Iterable[Float32[np.ndarray, "N D"]],
    k: int,
    *,
    memory: int | None = None,
) -> Ranking:
    """Ranks a catalogue by inner product.

    Args:
      queries: query vectors.
      blocks: the catalogue's vectors in order, in blocks of any sizes.
      k: number of ranks, at least 1; cut to the size of the catalogue.
      memory: as for `TopK`.

    Raises:
      UsageError: `memory` is too little.
      MaxsearchError: a vector holds NaN or infinity.
    """
    best = TopK(queries, k, memory=memory)
    for block in blocks:
        best.add(block)
    return best.ranking()


def _require_finite(vectors: Float[np.ndarray, "N D"], what: str, first: int = 0) -> None:
    if np.isfinite(vectors).all():
        return
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    raise MaxsearchError(
        f"{what} {first + int(bad[0]) + 1} has a vector with NaN or infinity: the model is broken; "
        "evaluate an earlier checkpoint or train again"
    )
