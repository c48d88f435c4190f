"""At which rank the best of a query's relevant items stands among all items, exactly and in bounded memory.

A cut ranking tells recall; the median rank, and an MRR that is not cut, need every rank. Items are ranked by inner
product, equal ones by their position. Two passes over blocks of scores: the first finds each query's best relevant
item, the second counts what stands before it. Both run one program, so that a score compared with itself is equal.

Letters: Q queries, N items, D width, E relevant pairs, S pairs of one block, filled up.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Int64

QUERY_BLOCK = 1024
ITEM_BLOCK = 4096
SMALLEST_ROOM = 8192


@jax.jit
def _block(
    queries: Float[Array, "Q D"],
    items: Float[Array, "N D"],
    there: Bool[Array, " N"],
    skipped: Int32[Array, " Q"],
    pairs: Int32[Array, "S 2"],
    best: Float[Array, " Q"],
    place: Int32[Array, " Q"],
) -> tuple[Float[Array, " S"], Int32[Array, " Q"]]:
    """The scores of some pairs, and how many items stand before (best, place); positions are within the block."""
    # The highest precision: a bfloat16 product on an accelerator would reorder close items.
    scores = jnp.einsum("qd,nd->qn", queries, items, precision=jax.lax.Precision.HIGHEST)
    position = jnp.arange(items.shape[0])
    before = (scores > best[:, None]) | ((scores == best[:, None]) & (position < place[:, None]))
    before &= there & (position != skipped[:, None])
    return scores[pairs[:, 0], pairs[:, 1]], before.sum(axis=1, dtype=jnp.int32)


def best_ranks(
    queries: Float32[np.ndarray, "Q D"],
    items: Float32[np.ndarray, "N D"],
    relevant: Int[np.ndarray, "E 2"],
    *,
    skipped: Int[np.ndarray, " Q"] | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Int64[np.ndarray, " Q"]:
    """The rank, from 1, of each query's best relevant item.

    Args:
      queries, items: their vectors, finite.
      relevant: (query, item) positions; every query has one at least, which is not skipped.
      skipped: an item of each query that is not ranked, such as itself; -1 for none.
      track: reports on the passes over blocks of queries.
    """
    Q, N = len(queries), len(items)
    skipped = np.full(Q, -1) if skipped is None else skipped
    relevant = relevant[np.lexsort((relevant[:, 1], relevant[:, 0]))]
    ends = np.searchsorted(relevant[:, 0], np.arange(Q + 1))
    ranks = np.ones(Q, np.int64)
    for first in track(range(0, Q, QUERY_BLOCK)):
        last = min(first + QUERY_BLOCK, Q)
        rows = _padded(queries[first:last], min(QUERY_BLOCK, _power_of_two(Q)))
        pairs = relevant[ends[first] : ends[last]] - [first, 0]
        best, place = np.full(len(rows), np.inf, np.float32), np.full(len(rows), -1, np.int64)
        own = _padded(skipped[first:last].astype(np.int64), len(rows))
        scores = np.full(len(pairs), -np.inf, np.float32)
        # One room for the pairs of all blocks, so that both passes share a program.
        room = max(SMALLEST_ROOM, _power_of_two(max(len(inside) for _, inside in _blocks(pairs, N))))
        for start, inside in _blocks(pairs, N):
            if len(inside):
                here = _run(rows, items, start, own, pairs[inside], room, best, place)
                scores[inside] = here[0]
        # The first of the highest scores: pairs are in the order of items.
        order = np.lexsort((pairs[:, 1], -scores, pairs[:, 0]))
        chosen = order[np.searchsorted(pairs[order, 0], np.arange(last - first))]
        best[: last - first], place[: last - first] = scores[chosen], pairs[chosen, 1]
        for start, _ in _blocks(pairs, N):
            none = np.zeros((0, 2), np.int64)
            ranks[first:last] += _run(rows, items, start, own, none, room, best, place)[1][: last - first]
    return ranks


def _blocks(pairs: Int[np.ndarray, "E 2"], count: int) -> Iterator[tuple[int, Int[np.ndarray, " S"]]]:
    """Where each block of items starts, and which of the pairs fall into it."""
    for start in range(0, count, ITEM_BLOCK):
        yield start, np.flatnonzero((pairs[:, 1] >= start) & (pairs[:, 1] < start + ITEM_BLOCK))


def _run(
    queries: Float32[np.ndarray, "Q D"],
    items: Float32[np.ndarray, "N D"],
    start: int,
    skipped: Int64[np.ndarray, " Q"],
    pairs: Int[np.ndarray, "E 2"],
    room: int,
    best: Float32[np.ndarray, " Q"],
    place: Int64[np.ndarray, " Q"],
) -> tuple[Float32[np.ndarray, " E"], Int32[np.ndarray, " Q"]]:
    size = min(ITEM_BLOCK, _power_of_two(len(items)))
    block = slice(start, start + size)
    local = _padded((pairs - [0, start]).astype(np.int32), room)
    scores, before = _block(
        queries,
        _padded(items[block], size),
        np.arange(start, start + size) < len(items),
        np.clip(skipped - start, -1, size).astype(np.int32),
        local,
        best,
        np.clip(place - start, -1, size).astype(np.int32),
    )
    return np.asarray(scores)[: len(pairs)], np.asarray(before)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
