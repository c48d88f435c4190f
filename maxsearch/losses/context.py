"""What every family of losses reads.

B global batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from maxsearch.config import LossConfig
from maxsearch.config.loss import TERMS
from maxsearch.models.search import Outputs, SearchModel


@dataclass(frozen=True)
class Context:
    """One batch as the losses see it.

    Attributes:
      model: with its parameters, for the heads and for further forward passes.
      outputs: of the model for the batch.
      batch: as data/batches.py lays it out.
      config: weights and options that hold now.
      key: of the losses' own randomness (masks, drawn negatives); None draws as with a fixed key.
      progress: share of the stage that is done, from 0 to 1, for what rises over it.
      targets: outputs of the averaged model for the same batch, without gradient; None unless the config wants it.
      bank: the memory bank, None unless the config wants it.
      keywords: size of the vocabulary of keywords.
    """

    model: SearchModel
    outputs: Outputs
    batch: Mapping[str, Array]
    config: LossConfig
    key: PRNGKeyArray | None
    progress: Float[Array, ""]
    targets: Outputs | None = None
    bank: Any = None
    keywords: int = 0

    @property
    def real(self) -> Bool[Array, " B"]:
        """Which examples are there; the others stand in the place of bad records, and no loss looks at them."""
        return self.batch["product"] >= 0

    @property
    def row_weights(self) -> Float[Array, " B"]:
        """How much each pair counts."""
        return jnp.where(self.real, self.batch["weight"] ** self.config.pair_power, 0)

    def key_for(self, term: str) -> PRNGKeyArray:
        """The key of one term's own randomness."""
        root = jax.random.key(0) if self.key is None else self.key
        return jax.random.fold_in(root, TERMS.index(term))


# A family gives the terms whose weight is above 0, by name; each is a scalar.
Family = Callable[[Context], dict[str, Float[Array, ""]]]
