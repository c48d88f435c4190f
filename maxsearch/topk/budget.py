"""How large the blocks of an exact search may be, so that it stays within the memory it is given.

Letters: Q queries, D width, K ranks kept, N products of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from maxsearch.errors import UsageError

FLOAT, KEY = 4, 8

# Largest first. On a CPU the scores of one block, 8 MiB, stay in its cache.
HOST_BLOCKS = ((512, 4096), (512, 2048), (256, 2048), (256, 1024), (128, 1024), (128, 512), (64, 512), (64, 256))
DEVICE_BLOCKS = (
    (1024, 16384),
    (1024, 8192),
    (512, 8192),
    (512, 4096),
    (256, 4096),
    (256, 2048),
    (128, 1024),
    (64, 512),
)
LEAST_SPARE, USUAL_SPARE = 32, 128

HOST_BYTES_PER_SCORE = 16
"""Two blocks of scores on their way, and what picking candidates from one of them takes at most."""
DEVICE_BYTES_PER_SCORE = 16
"""A block of scores, the same beside what was kept, and as much again for sorting."""


@dataclass(frozen=True)
class HostSizes:
    """Sizes on a CPU.

    Attributes:
      queries: of a part that is multiplied at once; a power of two.
      products: of a block; a power of two.
      spare: candidates that a query collects above K before they are cut down to K.
    """

    queries: int
    products: int
    spare: int


@dataclass(frozen=True)
class ShardSizes:
    """Sizes on accelerators: queries of a part and products of one device's share of a block, powers of two."""

    queries: int
    products: int


def host_sizes(queries: int, dim: int, k: int, memory: int | None) -> HostSizes:
    """The largest sizes with which ranking on a CPU takes at most `memory` bytes above what the caller holds.

    Args:
      queries: their number.
      dim: size of a vector.
      k: ranks kept.
      memory: in bytes; None for the sizes that are fastest.

    Raises:
      UsageError: the smallest sizes take more.
    """
    spares = (max(USUAL_SPARE, k), max(LEAST_SPARE, k // 4))
    options = [HostSizes(*_fitted(blocks, queries), spare) for blocks in HOST_BLOCKS for spare in spares]
    return options[_first_within(memory, [_host_bytes(size, queries, dim, k) for size in options], queries, k)]


def shard_sizes(queries: int, dim: int, k: int, memory: int | None) -> ShardSizes:
    """As `host_sizes`, of the memory of each accelerator."""
    options = [ShardSizes(*_fitted(blocks, queries)) for blocks in DEVICE_BLOCKS]
    return options[_first_within(memory, [_shard_bytes(size, queries, dim, k) for size in options], queries, k)]


def _fitted(blocks: tuple[int, int], queries: int) -> tuple[int, int]:
    return min(blocks[0], power_of_two(queries)), blocks[1]


def _host_bytes(size: HostSizes, queries: int, dim: int, k: int) -> int:
    padded = _whole(queries, size.queries)
    kept = padded * (dim * FLOAT + (k + size.spare) * KEY + 2 * KEY + k * 2 * FLOAT)
    blocks = 3 * size.products * dim * FLOAT  # one that is filled, one that is read, and its copy on the device
    return kept + blocks + size.queries * size.products * HOST_BYTES_PER_SCORE


def _shard_bytes(size: ShardSizes, queries: int, dim: int, k: int) -> int:
    padded = _whole(queries, size.queries)
    kept = padded * (dim * FLOAT + k * 2 * FLOAT)
    blocks = 2 * size.products * dim * FLOAT
    return kept + blocks + size.queries * (size.products + k) * DEVICE_BYTES_PER_SCORE


def _first_within(memory: int | None, needed: Sequence[int], queries: int, k: int) -> int:
    if memory is None:
        return 0
    for place, size in enumerate(needed):
        if size <= memory:
            return place
    raise UsageError(
        f"{memory / 1e6:,.0f} MB are too little for an exact search of {queries:,} queries to {k:,} ranks: "
        f"--search-memory must be {min(needed) / 1e6:,.0f} MB or more; or give fewer queries or ranks"
    )


def _whole(count: int, size: int) -> int:
    return -(-count // size) * size


def power_of_two(count: int) -> int:
    """The next power of two: few shapes, each of which compiles once."""
    return 1 << max(0, count - 1).bit_length()
