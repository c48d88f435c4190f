"""Our training step, as `maxsearch train` runs it."""

from collections.abc import Mapping

import jax
import numpy as np

from maxsearch.config import Config
from maxsearch.cpu import settle_memory
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.training.optim import make_optimizer
from maxsearch.training.state import TrainState, init_state
from maxsearch.training.step import make_step


class JaxStep:
    """The state on a mesh of one device; calling it trains on one batch.

    Attributes:
      mesh: the device.
      state: parameters, their average and the optimizer's moments.
    """

    def __init__(self, config: Config) -> None:
        settle_memory()
        self.mesh = make_mesh(config.mesh, jax.devices()[:1])
        optimizer = make_optimizer(config.optim)
        with jax.set_mesh(self.mesh):
            self.state: TrainState = init_state(config, optimizer)
            self._step = make_step(config, optimizer)
        self._horizon = np.float32(config.train.steps)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update from a batch in the host's memory; the loss before it."""
        with jax.set_mesh(self.mesh):
            self.state, metrics = self._step(self.state, put_batch(batch, self.mesh), self._horizon)
            jax.block_until_ready((self.state, metrics))
        return float(metrics["loss"])
