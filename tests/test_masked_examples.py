"""An example in the place of a bad record changes no loss, no gradient, and is nobody's negative."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsearch.config import BankConfig, LossConfig
from maxsearch.losses.bank import empty_bank, push
from maxsearch.losses.total import total_loss
from maxsearch.training.state import model_graph
from maxsearch.training.step import loss_and_metrics
from tests.loss_context import SIDES, make_context, make_outputs, units
from tests.small import CONFIG, lively_params, make_batch, on_mesh, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")

MASKED = 3
ONE = LossConfig(query_title=0.5, query_image=0.5, title_image=0.2, title_product=0.3, image_product=0.3)
HINGES = replace(ONE, ranking=1.0, ppm=0.8, pdc=0.5, plc=0.5, soft_labels=0.2, same_side=0.8, momentum=0.3)
KINDS = {
    "softmax": ONE,
    "every mean alike": replace(ONE, pair_power=0.0),
    "sigmoid": replace(ONE, kind="sigmoid"),
    "sdm": replace(ONE, kind="sdm"),
    "bank and hinges": replace(HINGES, bank=BankConfig(size=19)),
    "ring": replace(ONE, ring=True),
    "ring and bank": replace(ONE, ring=True, bank=BankConfig(size=16)),
    "ring of sigmoids": replace(ONE, ring=True, kind="sigmoid"),
}


def masked(batch: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    """The batch as the stream gives it when the record of a row cannot be read."""
    batch = {name: array.copy() for name, array in batch.items()}
    for name in ("product", "variant", "query"):
        batch[name][row] = -1
    for name in ("weight", "query_mask", "query_ids", "title_mask", "title_ids", "image_present"):
        batch[name][row] = 0
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_its_vectors_change_nothing(kind: str) -> None:
    loss = KINDS[kind]
    batches = [masked(make_batch(seed=seed), MASKED) for seed in (0, 1)]

    def run(vectors: Any, averaged: Any, batches: Any) -> Any:
        bank = empty_bank(replace(CONFIG, loss=loss))
        bank = bank and push(bank, averaged["product"], batches[1])
        targets = make_outputs(averaged) if loss.momentum else None

        def total(vectors: Any) -> Any:
            rest = {"targets": targets, "bank": bank, "progress": jnp.float32(0.5)}
            return total_loss(make_context(vectors, batches[0], loss, **rest))[0]

        return jax.value_and_grad(total)(vectors)

    with set_mesh(4, 1, 1):
        step, found = jax.jit(run), []
        for other in (False, True):
            both = []
            for seed in (0, 10):
                vectors = {name: units(seed + i, 8, 8) for i, name in enumerate(SIDES)}
                for i, name in enumerate(SIDES):
                    vectors[name][MASKED] = units(50 + seed + i + 5 * other, 1, 8)[0]
                both.append(on_mesh(vectors))
            found.append(jax.device_get(step(*both, [on_mesh(batch) for batch in batches])))
    (value, gradients), (same, others) = found
    assert value == same
    assert value > 0
    for name in SIDES:
        assert not gradients[name][MASKED].any()
        np.testing.assert_array_equal(gradients[name], others[name])
    assert gradients["query"][MASKED - 1].any()


def test_the_rest_has_the_loss_that_it_has_alone(one_device: None) -> None:
    batch = masked(make_batch(), MASKED)
    vectors = {name: units(i, 8, 8) for i, name in enumerate(SIDES)}
    rest = np.arange(8) != MASKED
    for loss in (ONE, HINGES):
        loss = replace(loss, momentum=0.0)
        whole = total_loss(make_context(vectors, batch, loss))[0]
        alone = {name: array[rest] for name, array in batch.items()}
        expected = total_loss(make_context({name: x[rest] for name, x in vectors.items()}, alone, loss))[0]
        np.testing.assert_allclose(float(whole), float(expected), rtol=1e-5)


def test_no_term_of_the_model_reads_it(one_device: None) -> None:
    """Terms of the vectors and of the tokens, with every parameter's gradient."""
    loss = LossConfig(matching=1.0, image_matching=1.0, ranking=1.0, mlm_title=0.5, mpm=0.5, keywords=0.5)
    config = replace(with_model(CONFIG, keywords=20), loss=loss)
    graph, params = model_graph(config), lively_params(config)
    batch = masked(make_batch(config), MASKED)
    batch["query_keywords"][MASKED] = batch["product_keywords"][MASKED] = -1
    other = {name: array.copy() for name, array in batch.items()}
    other["query_ids"][MASKED], other["query_mask"][MASKED] = 7, True
    other["image"][MASKED] = 9

    def total(params: Any, batch: Any) -> Any:
        return loss_and_metrics(graph, config, params, batch, jax.random.key(3))[0]

    step = jax.jit(jax.value_and_grad(total))
    (value, gradients), (same, others) = (jax.device_get(step(params, on_mesh(each))) for each in (batch, other))
    assert np.isfinite(value)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    for one, two in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, two, atol=1e-6)
