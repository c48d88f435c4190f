"""Exact top-k on accelerators: each block of products is split over the devices, and each device keeps its own best.

Nothing crosses between devices while the catalogue streams past; what each one kept is merged once, at the end.

Letters: S devices, Q queries, D width, K ranks kept, N products of a device's share of a block.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int32

from maxsearch.topk.budget import ShardSizes
from maxsearch.topk.ranking import Ranking, padded

AXIS = "shard"
SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()


class ShardedTopK:
    """The exact top-k of a process over some of its devices."""

    def __init__(
        self, queries: Float32[np.ndarray, "Q D"], k: int, sizes: ShardSizes, devices: Sequence[jax.Device]
    ) -> None:
        self._count, self._k = len(queries), k
        self._mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        self._absorb, self._merge = programs(self._mesh)
        shape = (len(devices), sizes.queries, k)
        with jax.set_mesh(self._mesh):
            parts = [queries[start : start + sizes.queries] for start in range(0, len(queries), sizes.queries)]
            self._parts = [jax.device_put(padded(part, sizes.queries), self._put(WHOLE)) for part in parts]
            self._scores = [jnp.full(shape, -jnp.inf, jnp.float32, device=self._put(SPLIT)) for _ in parts]
            self._rows = [jnp.full(shape, -1, jnp.int32, device=self._put(SPLIT)) for _ in parts]

    def absorb(self, block: Float32[np.ndarray, "N D"], start: int, count: int) -> None:
        """Takes the block whose first `count` products stand in the catalogue from `start` on.

        Its length is a multiple of the number of devices.
        """
        with jax.set_mesh(self._mesh):
            # A copy of our own: a CPU device reads an aligned block in place, whatever `may_alias` says of it, and the
            # programs may run after the block is changed.
            products = jax.device_put(block.copy(), self._put(SPLIT))
            for part, queries in enumerate(self._parts):
                self._scores[part], self._rows[part] = self._absorb(
                    self._scores[part], self._rows[part], queries, products, np.int32(start), np.int32(count)
                )
            jax.block_until_ready(products)

    def ranking(self, k: int) -> Ranking:
        """The best `k` of each query so far."""
        with jax.set_mesh(self._mesh):
            best = [self._merge(scores, rows) for scores, rows in zip(self._scores, self._rows, strict=True)]
        return Ranking(
            rows=np.concatenate([np.asarray(rows) for _, rows in best])[: self._count, :k],
            scores=np.concatenate([np.asarray(scores) for scores, _ in best])[: self._count, :k],
        )

    def _put(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self._mesh, spec)


@cache
def programs(mesh: Mesh) -> tuple[Any, Any]:
    """What absorbs a block and what merges the devices' best, compiled once for a mesh."""
    shared = partial(jax.shard_map, mesh=mesh)
    absorb = shared(absorb_share, in_specs=(SPLIT, SPLIT, WHOLE, SPLIT, WHOLE, WHOLE), out_specs=(SPLIT, SPLIT))
    # Every device comes to the same merged ranks, which is more than shard_map can tell.
    merge = shared(merge_shares, in_specs=(SPLIT, SPLIT), out_specs=(WHOLE, WHOLE), check_vma=False)
    return jax.jit(absorb, donate_argnums=(0, 1)), jax.jit(merge)


def absorb_share(
    scores: Float[Array, "1 Q K"],
    rows: Int32[Array, "1 Q K"],
    queries: Float[Array, "Q D"],
    block: Float[Array, "N D"],
    start: Int32[Array, ""],
    count: Int32[Array, ""],
) -> tuple[Float[Array, "1 Q K"], Int32[Array, "1 Q K"]]:
    """One device's best after its share of a block."""
    K, N = scores.shape[2], block.shape[0]
    first = jax.lax.axis_index(AXIS) * N
    # The highest precision: a bfloat16 product would reorder close products.
    fresh = jnp.einsum("qd,nd->qn", queries, block, precision=jax.lax.Precision.HIGHEST)
    fresh = jnp.where(fresh == 0, 0.0, fresh)  # top_k sorts -0 below 0, which would break the tie by position
    fresh = jnp.where(first + jnp.arange(N) < count, fresh, -jnp.inf)
    # top_k puts the lower index first among equals, and what was kept stands at lower catalogue positions.
    best, index = jax.lax.top_k(jnp.concatenate([scores[0], fresh], axis=1), K)
    kept = jnp.take_along_axis(rows[0], jnp.minimum(index, K - 1), axis=1)
    return best[None], jnp.where(index < K, kept, start + first + index - K)[None]


def merge_shares(
    scores: Float[Array, "1 Q K"], rows: Int32[Array, "1 Q K"]
) -> tuple[Float[Array, "Q K"], Int32[Array, "Q K"]]:
    """The best of all devices, by score and then by row."""
    K = scores.shape[2]
    rivals = [jnp.concatenate(jax.lax.all_gather(x[0], AXIS), axis=1) for x in (-scores, rows)]
    lost, best = jax.lax.sort(rivals, num_keys=2)
    return -lost[:, :K], jnp.where(jnp.isinf(lost[:, :K]), -1, best[:, :K])
