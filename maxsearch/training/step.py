"""The training step: one jitted function from state and batch to the next state."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from maxsearch.config import Config
from maxsearch.cpu import step_options
from maxsearch.losses.bank import Bank, opened, push
from maxsearch.losses.context import Context
from maxsearch.losses.total import total_loss
from maxsearch.models.search import Outputs, Words
from maxsearch.training import gradcache
from maxsearch.training.optim import apply_updates, average, gradient_norm, learning_rate
from maxsearch.training.state import TrainState, model_graph

Batch = dict[str, Array]
Metrics = dict[str, Array]
Step = Callable[..., tuple[TrainState, Metrics]]


def loss_and_metrics(
    graph: Any,
    config: Config,
    params: Any,
    batch: Batch,
    key: Array | None,
    progress: Array | None = None,
    targets: Outputs | None = None,
    bank: Bank | None = None,
) -> tuple[Array, tuple[Metrics, Array]]:
    """The loss of a batch; every term by name and the mean modality weights, and the product vectors.

    Args:
      graph: the model's structure.
      config: what holds in this stage.
      params: its parameters.
      batch: as data/batches.py lays it out.
      key: of dropout and of the losses; None turns dropout off.
      progress: share of the stage that is done; 0 when None.
      targets, bank: as in Context.
    """
    model = nnx.merge(graph, params)
    forward_key, loss_key = (None, None) if key is None else tuple(jax.random.split(key))
    outputs = model(batch, forward_key)
    loss, terms = total_loss(
        Context(
            model=model,
            outputs=outputs,
            batch=batch,
            config=config.loss,
            key=loss_key,
            progress=jnp.zeros(()) if progress is None else progress,
            targets=targets,
            bank=bank,
            keywords=config.model.keywords,
        )
    )
    return loss, (logged(terms, outputs.products.weights, outputs.logit_scale), outputs.products.product)


def logged(terms: dict[str, Array], weights: Float[Array, "B 2"], logit_scale: Array) -> Metrics:
    """What is logged of a forward pass."""
    weights = weights.mean(axis=0)
    return {
        **{f"loss/{name}": value for name, value in terms.items()},
        "weight/title": weights[0],
        "weight/image": weights[1],
        "logit_scale": logit_scale,
    }


def padding(batch: Batch) -> Float[Array, ""]:
    """The share of a batch's token places that hold none."""
    query, title = batch["query_mask"], batch["title_mask"]
    return 1 - (query.sum() + title.sum()) / (query.size + title.size)


def make_step(config: Config, optimizer: optax.GradientTransformation, words: Words = (), stage: int = 0) -> Step:
    """Builds the jitted step of one stage.

    It takes the state (donated), a batch, the step at which the stage's schedule ends and the one at which it began.
    A loss or gradient that is not finite leaves the state as it was and reports `finite` as 0.

    Args:
      config: of the whole run, which decides what the model is made of.
      optimizer: the stage's.
      words: as for SearchModel.
      stage: its number; what it says of losses, learning rate and groups holds.
    """
    graph = model_graph(config, words)
    config = config.stage(stage)
    parts = config.train.microbatches

    def averaged(params: Any, batch: Batch) -> Outputs:
        """Outputs of ALBEF's momentum model: the averaged parameters, without dropout."""
        if parts > 1:
            return gradcache.averaged_outputs(graph, params, batch, parts)
        return jax.lax.stop_gradient(nnx.merge(graph, params)(batch))

    def differentiated(
        params: Any, batch: Batch, key: Array, progress: Array, targets: Outputs | None, bank: Bank | None
    ) -> tuple[Array, Metrics, Array, Any]:
        """The loss, what is logged, the product vectors and the gradient."""
        if parts > 1:
            loss, terms, vectors, gradients = gradcache.loss_terms_and_gradients(
                graph,
                params,
                batch,
                key,
                parts,
                config=config.loss,
                progress=progress,
                targets=targets,
                bank=bank,
                keywords=config.model.keywords,
            )
            metrics = logged(terms, vectors["weights"], jnp.exp(params["logit_scale"]))
            return loss, metrics, vectors["product"], gradients

        def objective(params: Any) -> tuple[Array, tuple[Metrics, Array]]:
            return loss_and_metrics(graph, config, params, batch, key, progress, targets, bank)

        (loss, (metrics, products)), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        return loss, metrics, products, gradients

    def step(state: TrainState, batch: Batch, horizon: Array, start: Array | int = 0) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        done, length = state.step - start, horizon - start
        progress = jnp.clip(done / jnp.maximum(length, 1), 0, 1)
        targets = averaged(state.ema, batch) if config.loss.momentum else None
        bank = state.bank and opened(state.bank, done >= config.loss.bank.warmup_steps)
        loss, metrics, products, gradients = differentiated(state.params, batch, key, progress, targets, bank)
        norm = gradient_norm(gradients, config.optim.groups)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, moments = optimizer.update(gradients, state.moments, state.params)
        rate = learning_rate(done, length, config.optim)
        params = apply_updates(state.params, updates, rate, config.optim)
        # Bounded here, as CLIP does, and not in the forward pass, where a scale beyond the bound would get no gradient.
        params |= {"logit_scale": jnp.minimum(params["logit_scale"], math.log(config.loss.max_scale))}
        # The average follows closely at the start, where its own beginning is worth nothing.
        decay = jnp.minimum(config.optim.ema_decay, (1 + done) / (10 + done))
        ema = average(state.ema, params, decay, config.optim.groups)
        bank = state.bank and push(state.bank, targets.products.product if targets else products, batch)
        after = TrainState(step=state.step + 1, params=params, ema=ema, moments=moments, key=state.key, bank=bank)
        # A select fuses into the update; a conditional would copy the whole state.
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        told = {"gradient_norm": norm, "learning_rate": rate, "padding": padding(batch), "finite": finite}
        return state, {"loss": loss, **metrics, **told}

    return jax.jit(step, donate_argnums=0, compiler_options=step_options())
