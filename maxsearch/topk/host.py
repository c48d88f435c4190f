"""Exact top-k on a CPU: matrix products of blocks that fit its cache, and then only what beats each query's threshold.

XLA multiplies and finds the largest score of each group of products; NumPy picks the few candidates meanwhile. XLA's
own `top_k` would take several times as long as the products do.

Letters: Q queries, D width, K ranks kept, N products of a block, W groups of a block.
"""

from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Float, Float32

from maxsearch.topk.budget import HostSizes
from maxsearch.topk.candidates import Candidates
from maxsearch.topk.ranking import Ranking, padded

GROUP = 16
"""Products of a group."""


@jax.jit
def block_scores(
    queries: Float[Array, "Q D"], block: Float[Array, "N D"]
) -> tuple[Float[Array, "Q N"], Float[Array, "Q W"]]:
    """Inner products, and the largest of each group; see `Candidates.add`."""
    scores = jnp.einsum("qd,nd->qn", queries, block, precision=jax.lax.Precision.HIGHEST)
    groups = max(1, block.shape[0] // GROUP)
    parts = [scores[:, start : start + groups] for start in range(0, block.shape[0], groups)]
    peaks = parts[0]
    for part in parts[1:]:
        # A chain of slices: XLA makes one loop of it, and of a reduction over an axis a slower one.
        peaks = jnp.maximum(peaks, part)
    return scores, peaks


class HostTopK:
    """The exact top-k of a process whose device is its CPU."""

    def __init__(self, queries: Float32[np.ndarray, "Q D"], k: int, sizes: HostSizes) -> None:
        self._count = len(queries)
        self._mesh = jax.make_mesh((1,), ("host",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:1])
        parts = [queries[start : start + sizes.queries] for start in range(0, len(queries), sizes.queries)]
        with jax.set_mesh(self._mesh):
            self._parts = [jnp.asarray(padded(part, sizes.queries)) for part in parts]
        self._candidates = [Candidates(sizes.queries, k, sizes.spare) for _ in parts]
        # Scores on their way, of the block's part after the one that NumPy works on.
        self._pending: deque[tuple[Candidates, Any, Any, int, int]] = deque()

    def absorb(self, block: Float32[np.ndarray, "N D"], start: int, count: int) -> None:
        """Takes the block whose first `count` products stand in the catalogue from `start` on.

        It may not be changed before the next one was taken.
        """
        with jax.set_mesh(self._mesh):
            products = jnp.asarray(block)
            for part, candidates in zip(self._parts, self._candidates, strict=True):
                self._pending.append((candidates, *block_scores(part, products), start, count))
                if len(self._pending) > 1:
                    self._settle()

    def ranking(self, k: int) -> Ranking:
        """The best `k` of each query so far."""
        while self._pending:
            self._settle()
        best = [candidates.ranking(k) for candidates in self._candidates]
        return Ranking(
            rows=np.concatenate([part.rows for part in best])[: self._count],
            scores=np.concatenate([part.scores for part in best])[: self._count],
        )

    def _settle(self) -> None:
        candidates, scores, peaks, start, count = self._pending.popleft()
        candidates.add(np.asarray(scores), np.asarray(peaks), start, count)
