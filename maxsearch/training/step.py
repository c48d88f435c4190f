"""The training step: one jitted function from state and batch to the next state."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from maxsearch.config import Config
from maxsearch.losses.total import total_loss
from maxsearch.training.optim import apply_updates, gradient_norm, learning_rate
from maxsearch.training.state import TrainState, model_graph

Batch = dict[str, Array]
Metrics = dict[str, Array]
Step = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


def loss_and_metrics(graph: Any, config: Config, params: Any, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
    """The loss of a batch with every term by name and the mean modality weights."""
    outputs = nnx.merge(graph, params)(batch, key)
    loss, terms = total_loss(outputs, batch, config.loss)
    weights = outputs.products.weights.mean(axis=0)
    return loss, {
        **{f"loss/{name}": value for name, value in terms.items()},
        "weight/title": weights[0],
        "weight/image": weights[1],
        "logit_scale": outputs.logit_scale,
    }


def make_step(config: Config, optimizer: optax.GradientTransformation) -> Step:
    """Builds the jitted step; it takes the state (donated), a batch and the horizon of the schedule.

    A loss or gradient that is not finite leaves the state as it was and reports `finite` as 0.
    """
    graph = model_graph(config)

    def step(state: TrainState, batch: Batch, horizon: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def objective(params: Any) -> tuple[Array, Metrics]:
            return loss_and_metrics(graph, config, params, batch, key)

        (loss, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        norm = gradient_norm(gradients, config.optim.groups)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, moments = optimizer.update(gradients, state.moments, state.params)
        rate = learning_rate(state.step, horizon, config.optim)
        params = apply_updates(state.params, updates, rate, config.optim)
        # Bounded here, as CLIP does, and not in the forward pass, where a scale beyond the bound would get no gradient.
        params |= {"logit_scale": jnp.minimum(params["logit_scale"], math.log(config.loss.max_scale))}
        # The average follows closely at the start, where its own beginning is worth nothing.
        decay = jnp.minimum(config.optim.ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
        after = TrainState(step=state.step + 1, params=params, ema=ema, moments=moments, key=state.key)
        # A select fuses into the update; a conditional would copy the whole state.
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        return state, {"loss": loss, **metrics, "gradient_norm": norm, "learning_rate": rate, "finite": finite}

    return jax.jit(step, donate_argnums=0)
