"""A memory bank: product vectors of earlier batches with their ids, first in, first out.

Every device holds all of it, so that a row's own device compares it with every vector; with `loss.ring`, its share.

B global batch, K vectors in the bank, E vector size, W keywords of a product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Bool, Float, Int

from maxsearch.config import Config
from maxsearch.data.keywords import PRODUCT_KEYWORDS
from maxsearch.losses.contrastive import IDS, known_pairs
from maxsearch.mesh import gathered, spec


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bank:
    """Vectors and what tells which of them are no negatives (ALBEF's queue, arXiv 2107.07651; ids and masks are ours).

    Attributes:
      vectors: unit vectors of products, without gradient.
      product, variant, query: ids of the examples that they came from.
      keywords: of the products; None when no keyword mask reads them.
      filled: how many are written; the others come after them.
      position: where the next goes.
    """

    vectors: Float[Any, "K E"]
    product: Int[Any, " K"]
    variant: Int[Any, " K"]
    query: Int[Any, " K"]
    keywords: Int[Any, "K W"] | None
    filled: Int[Any, ""]
    position: Int[Any, ""]


def empty_bank(config: Config) -> Bank | None:
    """A bank without vectors, to be traced; None when the config wants none."""
    K, first = config.loss.bank.size, "batch" if config.loss.ring else None
    if K == 0:
        return None

    def zeros(*shape: int, dtype: Any = jnp.int32) -> Array:
        return jnp.zeros(shape, dtype, out_sharding=spec(first, *(None,) * (len(shape) - 1)))

    return Bank(
        vectors=zeros(K, config.model.dim, dtype=jnp.float32),
        **{name: zeros(K) for name in IDS},
        keywords=zeros(K, PRODUCT_KEYWORDS) if config.loss.keyword_mask else None,
        filled=jnp.zeros((), jnp.int32),
        position=jnp.zeros((), jnp.int32),
    )


def push(bank: Bank, vectors: Float[Array, "B E"], batch: Mapping[str, Array]) -> Bank:
    """The bank with the batch's products, in the order of the global batch; the oldest make room for them.

    Of a batch that is larger than the bank the last rows stay.

    Args:
      bank: before.
      vectors: unit vectors of the products; the gradient stops here.
      batch: whose `product`, `variant`, `query` and `product_keywords` are kept.
    """
    K, B = len(bank.product), len(batch["product"])
    # Which row of the batch comes to lie in each place; places that are reached twice keep the later row.
    first = jax.typeof(bank.product).sharding.spec[0]
    offset = reshard((jnp.arange(K) - bank.position) % K, PartitionSpec(first))
    row = jnp.minimum(offset + K * jnp.maximum((B - 1 - offset) // K, 0), B - 1)

    def write(old: Array, new: Array) -> Array:
        whole = gathered(jax.lax.stop_gradient(new), *(None,) * new.ndim)
        rows = whole.at[row].get(out_sharding=PartitionSpec(first, *(None,) * (new.ndim - 1)))
        return jnp.where((offset < B).reshape(-1, *(1,) * (new.ndim - 1)), rows, old)

    return Bank(
        vectors=write(bank.vectors, vectors),
        **{name: write(getattr(bank, name), batch[name]) for name in IDS},
        keywords=None if bank.keywords is None else write(bank.keywords, batch["product_keywords"]),
        filled=jnp.minimum(bank.filled + B, K),
        position=(bank.position + B) % K,
    )


def opened(bank: Bank, ready: Bool[Array, ""]) -> Bank:
    """The bank as the losses see it: empty until it is ready."""
    return Bank(**{**vars(bank), "filled": jnp.where(ready, bank.filled, 0)})


def bank_negatives(bank: Bank, batch: Mapping[str, Array]) -> Bool[Array, "B K"]:
    """Which vectors are negatives of each row of a batch: written ones of another product, variant group and query.

    A masked example has no product.
    """
    real = (jnp.arange(len(bank.product)) < bank.filled) & (bank.product >= 0)
    return ~known_pairs(batch, vars(bank)) & real[None, :]
