"""A check against silent corruption: do all replicas hold the same parameters, bit by bit?"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, UInt32

from maxsearch.mesh import AXES


def checksums(params: Any) -> UInt32[Array, " R"]:
    """A checksum of all parameters for each place on the replica axis, from each device's own copy.

    The sum of the bits of every float as numbers, modulo 2^32: one flipped bit changes it.

    Args:
      params: float32 arrays on the current mesh, none of them split over the replica axis.
    """
    leaves = jax.tree.leaves(params)
    layouts = tuple(jax.typeof(leaf).sharding.spec for leaf in leaves)

    def local(*leaves: Array) -> Array:
        # Each device adds what it holds: of an array that is whole on several devices, all of these copies.
        bits = (jax.lax.bitcast_convert_type(leaf, jnp.uint32).sum(dtype=jnp.uint32) for leaf in leaves)
        return jax.lax.psum(sum(bits, start=jnp.zeros((), jnp.uint32)), AXES[1:])[None]

    # What all replicas should hold alike counts as each one's own here, which the check of varying axes would refuse.
    return jax.shard_map(local, in_specs=layouts, out_specs=PartitionSpec(AXES[0]), check_vma=False)(*leaves)


@jax.jit
def agree(params: Any) -> Array:
    """Whether every replica's checksum is the first one's."""
    sums = reshard(checksums(params), PartitionSpec(None))
    return (sums == sums[0]).all()
