"""What a training step carries from one to the next."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Int, Key, PRNGKeyArray

from maxsearch.config import Config
from maxsearch.errors import UsageError
from maxsearch.losses.bank import Bank, empty_bank
from maxsearch.models.heads import HEADS
from maxsearch.models.search import SearchModel, Words


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All arrays that a checkpoint holds.

    Attributes:
      step: updates done.
      params: float32 parameters as nested dicts.
      ema: their exponential moving average, what evaluation and export read.
      moments: the optimizer's state.
      key: root of all randomness of the model; each step folds its number in.
      bank: earlier product vectors; None unless the config wants them.
    """

    step: Int[Any, ""]
    params: Any
    ema: Any
    moments: Any
    key: Key[Any, ""]
    bank: Bank | None = None


def model_graph(config: Config, words: Words = (), heads: Collection[str] = HEADS) -> Any:
    """The model's structure without its parameters, for `nnx.merge(graph, params)`; arguments as for SearchModel."""
    return nnx.split(nnx.eval_shape(lambda: SearchModel(config, nnx.Rngs(0), words, heads)), nnx.Param, ...)[0]


def init_params(config: Config, key: PRNGKeyArray) -> Any:
    """Fresh parameters as nested dicts of arrays."""
    return nnx.to_pure_dict(nnx.state(SearchModel(config, nnx.Rngs(params=key)), nnx.Param))


def create_state(config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state, to be traced."""
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    params = init_params(config, init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        moments=optimizer.init(params),
        key=step_key,
        bank=empty_bank(config),
    )


def abstract_state(config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and layout of a state on the current mesh, without computing anything.

    Raises:
      UsageError: a parameter does not divide over the mesh.
    """
    try:
        return jax.eval_shape(lambda: create_state(config, optimizer))
    except ValueError as error:
        raise UsageError(
            f"the model does not fit the mesh ({str(error).splitlines()[0]}): choose widths, heads and vocab_size that "
            "divide by the fsdp and tensor axes"
        ) from None


def init_state(config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state, every array born in its place on the current mesh."""
    # On CPU, compiling the many small random programs takes longer than running them slowly once.
    options = {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    return jax.jit(lambda: create_state(config, optimizer), compiler_options=options)()
