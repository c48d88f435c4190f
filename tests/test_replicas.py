"""Replicas that differ by one bit are found; those that do not, are not."""

import jax
import numpy as np
import pytest

from maxsearch.training.replicas import agree, checksums
from tests.small import CONFIG, lively_params, set_mesh


def flipped(array: jax.Array, place: int) -> jax.Array:
    """The same array with one bit changed on one device."""
    parts = [np.asarray(shard.data).copy() for shard in array.addressable_shards]
    parts[place].view(np.uint32).flat[0] ^= 1
    pieces = [jax.device_put(part, shard.device) for part, shard in zip(parts, array.addressable_shards, strict=True)]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, pieces)


@pytest.mark.parametrize("layout", [(4, 2, 1), (2, 2, 2), (8, 1, 1)])
@pytest.mark.usefixtures("quick_compile")
def test_one_bit_is_found(layout):
    with set_mesh(*layout):
        params = lively_params(CONFIG)
        assert agree(params)
        assert checksums(params).shape == (layout[0],)
        for name in ("title_null", "query_project"):
            leaf = params[name] if name == "title_null" else params[name]["kernel"]
            broken = flipped(leaf, 1)
            wrong = {**params, name: broken if name == "title_null" else {**params[name], "kernel": broken}}
            # With one replica only, or where the device beside it holds other rows, there is nothing to compare with.
            assert not agree(wrong)
