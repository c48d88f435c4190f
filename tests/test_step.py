"""The training step: its arithmetic end to end, its guard against bad numbers, and that it compiles once."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsearch.config import Config, OptimConfig, ParamGroup
from maxsearch.losses.total import total_loss
from maxsearch.training.optim import learning_rate, make_optimizer
from maxsearch.training.state import TrainState, init_state, model_graph
from maxsearch.training.step import loss_and_metrics, make_step
from tests.small import CONFIG as SMALL
from tests.small import bits, lively_params, make_batch, on_mesh, with_model

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")

FLAT = {name: replace(getattr(SMALL.model, name), depth=0) for name in ("query", "title", "fusion")}
CONFIG = replace(
    with_model(SMALL, **FLAT, image=replace(SMALL.model.image, depth=0)),
    optim=OptimConfig(warmup_steps=2, learning_rate=0.01, eps=1e-4, ema_decay=0.2, clip_norm=0.5),
)
HORIZON = np.int32(20)


@functools.cache
def compiled_step() -> Any:
    return make_step(CONFIG, make_optimizer(CONFIG.optim))


@pytest.fixture
def step(one_device: None) -> Any:
    return compiled_step()


def fresh(config: Config = CONFIG) -> TrainState:
    """A state with live parameters."""

    def start(params: Any) -> TrainState:
        moments = make_optimizer(config.optim).init(params)
        average = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, average, moments, jax.random.key(1))

    return jax.jit(start)(lively_params(config))


def batches(count: int) -> list[dict[str, jax.Array]]:
    return [on_mesh(make_batch(seed=seed)) for seed in range(count)]


def test_four_steps_equal_gradients_with_optax_adamw_and_the_average_by_hand(step):
    optim, graph = CONFIG.optim, model_graph(CONFIG)

    def decayed(path: Any, _: Any) -> bool:
        name = path[-1].key
        return not (name in ("bias", "scale", "position") or name.startswith("logit_"))

    reference = optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.adamw(
            lambda count: learning_rate(count, jnp.int32(20), optim),
            optim.b1,
            optim.b2,
            optim.eps,
            weight_decay=optim.weight_decay,
            mask=lambda tree: jax.tree.map_with_path(decayed, tree),
        ),
    )

    @jax.jit
    def plain_step(params: Any, moments: Any, batch: Any) -> Any:
        gradients = jax.grad(lambda p: loss_and_metrics(graph, CONFIG, p, batch, None)[0])(params)
        updates, moments = reference.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, optax.tree.norm(gradients)

    plain, state = lively_params(CONFIG), fresh()
    moments = jax.jit(reference.init)(plain)
    average = jax.device_get(plain)
    for number, batch in enumerate(batches(4)):
        plain, moments, norm = plain_step(plain, moments, batch)
        assert norm > optim.clip_norm
        decay = min(0.2, (1 + number) / (10 + number))
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * np.asarray(new), average, plain)
        state, metrics = step(state, batch, HORIZON)
        assert metrics["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert metrics["learning_rate"] == pytest.approx(learning_rate(jnp.int32(number), jnp.int32(20), optim))
        assert metrics["finite"]
    assert state.step == 4
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    for ours, theirs in zip(jax.tree.leaves(state.ema), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    gap = max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (average, plain)), strict=True))
    assert gap > 1e-4  # the average lags behind


def test_the_loss_is_the_weighted_sum_of_the_logged_terms_and_falls(step):
    state, batch = fresh(), batches(1)[0]
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch, HORIZON)
        losses.append(float(metrics["loss"]))
        terms = {name: getattr(CONFIG.loss, name) for name in ("query_product", "query_title", "query_image")}
        terms["title_image"] = CONFIG.loss.title_image
        total = sum(weight * float(metrics[f"loss/{name}"]) for name, weight in terms.items())
        assert losses[-1] == pytest.approx(total, rel=1e-5)
        assert float(metrics["weight/title"] + metrics["weight/image"]) == pytest.approx(1, abs=1e-5)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_bad_batch_leaves_every_bit_and_training_goes_on_as_if_it_had_not_been(step, bad):
    state, *_ = step(fresh(), batches(1)[0], HORIZON)
    poisoned = make_batch(seed=1)
    poisoned["weight"][3] = bad
    before = bits(state)
    state, metrics = step(state, on_mesh(poisoned), HORIZON)
    assert not metrics["finite"]
    assert not np.isfinite(metrics["loss"])
    assert bits(state) == before
    state, metrics = step(state, batches(2)[1], HORIZON)
    assert metrics["finite"]

    clean, *_ = step(fresh(), batches(1)[0], HORIZON)
    clean, *_ = step(clean, batches(2)[1], HORIZON)
    assert bits(state) == bits(clean)
    assert bits(state) != before


def test_a_finite_loss_with_a_gradient_that_is_not_changes_nothing(one_device, monkeypatch):
    def with_a_root_of_zero(context):
        loss, terms = total_loss(context)
        return loss + jnp.sqrt(0 * context.outputs.logit_scale), terms

    monkeypatch.setattr("maxsearch.training.step.total_loss", with_a_root_of_zero)
    state = fresh()
    before = bits(state)
    state, metrics = make_step(CONFIG, make_optimizer(CONFIG.optim))(state, batches(1)[0], HORIZON)
    assert np.isfinite(metrics["loss"])
    assert not metrics["finite"]
    assert bits(state) == before


def test_the_logit_scale_stays_within_its_bound_and_can_come_back(step):
    state = fresh()
    bound = np.float32(np.log(CONFIG.loss.max_scale))
    state.params["logit_scale"] = jnp.full_like(state.params["logit_scale"], bound + 1)
    state, metrics = step(state, batches(1)[0], HORIZON)
    assert metrics["logit_scale"] > CONFIG.loss.max_scale
    assert state.params["logit_scale"] <= bound


def test_the_step_compiles_once_and_its_state_is_donated(step):
    """Once for a fresh state, its own output, and every state of the tests above."""
    state = init_state(CONFIG, make_optimizer(CONFIG.optim))
    for number, batch in enumerate(batches(3)):
        old = state
        state, _ = step(old, batch, np.int32(20 + number))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.ema, old.moments)))
    assert step._cache_size() == 1


def test_a_frozen_tower_keeps_its_bits_through_the_step():
    config = replace(CONFIG, optim=replace(CONFIG.optim, groups=(ParamGroup("^image_", lr=None), ParamGroup(".*"))))
    state = fresh(config)
    before = {name: bits(value) for name, value in state.params.items()}
    for batch in batches(2):
        state, metrics = make_step(config, make_optimizer(config.optim))(state, batch, HORIZON)
    assert metrics["finite"]
    for name, value in state.params.items():
        if name != "logit_bias":  # takes no part in the softmax loss
            assert (bits(value) == before[name]) == name.startswith("image_"), name


def test_the_state_starts_with_its_average_equal_and_by_its_seed():
    optimizer = make_optimizer(CONFIG.optim)
    one, other = (init_state(replace(CONFIG, seed=seed), optimizer) for seed in (0, 1))
    assert one.step == 0
    assert bits(one.params) == bits(one.ema)
    assert bits(one.params) != bits(other.params)
