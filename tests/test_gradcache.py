"""The gradient cache beside the gradient of the whole batch at once."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsearch.config import BankConfig, Config, LossConfig
from maxsearch.training import gradcache
from maxsearch.training.optim import make_optimizer
from maxsearch.training.state import init_state, model_graph
from maxsearch.training.step import loss_and_metrics, make_step
from tests.small import CONFIG, lively_params, make_batch, on_mesh, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")

VECTORS = LossConfig(
    query_title=0.5, query_image=0.5, title_image=0.2, ranking=0.5, ppm=0.8, pdc=0.5, plc=0.5, keywords=0.1,
    keywords_image=0.1, keywords_product=0.1, pair_power=0.5, keyword_mask=True, soft_labels=0.1, same_side=0.5,
)  # fmt: skip
TOKENS = replace(VECTORS, mlm_title=0.3, mpm=0.2, matching=0.3, align_bag=0.2, align_structure=0.1)


def config_of(loss: LossConfig) -> Config:
    return replace(with_model(CONFIG, keywords=20), loss=loss)


def differentiate(config: Config, parts: int) -> Any:
    """Loss, terms and gradient of lively parameters, the whole batch at once when `parts` is 0."""
    graph = model_graph(config, tuple((number,) for number in range(20)))
    params, batch = lively_params(config), on_mesh(make_batch(config))
    known = {"config": config.loss, "progress": jnp.float32(0.5), "keywords": config.model.keywords}

    def cached(params: Any, batch: Any) -> Any:
        loss, terms, vectors, gradients = gradcache.loss_terms_and_gradients(graph, params, batch, None, parts, **known)
        return loss, terms, vectors["product"], gradients

    def direct(params: Any, batch: Any) -> Any:
        def objective(params: Any) -> Any:
            return loss_and_metrics(graph, config, params, batch, None, jnp.float32(0.5))

        (loss, (metrics, products)), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        terms = {name[5:]: value for name, value in metrics.items() if name.startswith("loss/")}
        return loss, terms, products, gradients

    return jax.device_get(jax.jit(cached if parts else direct)(params, batch))


@functools.cache
def of_the_whole_batch(loss: LossConfig) -> Any:
    with set_mesh(1, 1, 1):
        return differentiate(config_of(loss), 0)


def same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, theirs)


@pytest.mark.parametrize(("layout", "parts"), [((1, 1, 1), 4), ((2, 2, 2), 2)])
def test_loss_terms_vectors_and_gradient_are_those_of_the_whole_batch(layout, parts):
    with set_mesh(*layout):
        same(differentiate(config_of(VECTORS), parts), of_the_whole_batch(VECTORS))


def test_terms_between_tokens_are_the_mean_over_the_parts():
    config = config_of(TOKENS)
    with set_mesh(1, 1, 1):
        # One part is the whole batch.
        loss, terms, products, gradients = differentiate(config, 1)
        whole = of_the_whole_batch(TOKENS)
        assert terms.keys() == whole[1].keys() > of_the_whole_batch(VECTORS)[1].keys()
        same((loss, terms, products, gradients), whole)
        halves = differentiate(config, 2)
    assert halves[1].keys() == terms.keys()
    for name in differentiate_names(VECTORS):
        assert halves[1][name] == pytest.approx(terms[name], rel=1e-4)
    assert halves[0] == pytest.approx(sum(config.loss.weights[name] * x for name, x in halves[1].items()), rel=1e-5)


def differentiate_names(loss: LossConfig) -> list[str]:
    return [name for name, weight in loss.weights.items() if weight > 0]


def test_a_step_in_parts_keeps_bank_average_and_metrics():
    loss = replace(VECTORS, momentum=0.2, bank=BankConfig(size=16, warmup_steps=1))
    config = config_of(loss)
    cut = replace(config, train=replace(config.train, microbatches=2))
    optimizer = make_optimizer(config.optim)
    with set_mesh(1, 1, 1):
        runs = []
        for each in (config, cut):
            state, step = init_state(each, optimizer), make_step(each, optimizer)
            said = []
            for number in range(3):
                state, metrics = step(state, on_mesh(make_batch(each, number)), jnp.int32(10))
                said.append(jax.device_get(metrics))
            runs.append((said, jax.device_get((state.bank, state.ema))))
    same(*(jax.tree.leaves(run) for run in reversed(runs)))
