"""The memory bank: what it holds, what of it counts, and its place in step, state and checkpoint."""

import functools
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from maxsearch.config import BankConfig, Config, LossConfig
from maxsearch.data.keywords import PRODUCT_KEYWORDS
from maxsearch.losses.bank import Bank, bank_negatives, empty_bank, opened, push
from maxsearch.losses.contrastive import IDS
from maxsearch.losses.total import total_loss
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.optim import make_optimizer
from maxsearch.training.state import abstract_state, init_state
from maxsearch.training.step import make_step
from tests.loss_context import SIDES, make_context, make_outputs, units
from tests.small import CONFIG, bits, forward, make_batch, on_mesh, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")

TOWERS = {name: replace(getattr(CONFIG.model, name), depth=0) for name in ("query", "title", "fusion", "image")}
FLAT = with_model(CONFIG, keywords=20, **TOWERS)
BANK = BankConfig(size=19, warmup_steps=2)
ONE = LossConfig(query_title=0.0, query_image=0.0, pair_power=0.5, bank=BANK)
AVERAGED = replace(ONE, momentum=0.3, keyword_mask=True)
EVERY = replace(
    AVERAGED,
    query_title=0.5,
    query_image=0.5,
    title_image=0.2,
    title_product=0.3,
    image_product=0.3,
    ranking=1.0,
    ppm=0.8,
    pdc=0.5,
    plc=0.5,
    kind="am_softmax",
    soft_labels=0.2,
    same_side=0.8,
)
POSITION: dict[str, Any] = {"stream": {}, "seconds": 1.0, "horizon": None, "stage": 0, "stage_start": 0}
HORIZON = np.int32(10)


def keyword_batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    batch = make_batch(FLAT, seed)

    def ids(slots: int, filled: float) -> np.ndarray:
        return np.where(rng.random((8, slots)) < filled, rng.integers(0, 20, (8, slots)), -1).astype(np.int32)

    return batch | {
        "query_keywords": ids(16, 0.1),
        "query_covered": rng.random(8) < 0.7,
        "product_keywords": ids(PRODUCT_KEYWORDS, 0.3),
        "product": rng.integers(0, 30, 8).astype(np.int32),
    }


@functools.cache
def compiled(loss: LossConfig) -> tuple[Config, Any]:
    config = replace(FLAT, loss=loss)
    return config, make_step(config, make_optimizer(config.optim))


def started(loss: LossConfig) -> tuple[Any, Any]:
    """A fresh state and the step."""
    config, step = compiled(loss)
    return init_state(config, make_optimizer(config.optim)), step


@settings(deadline=None, max_examples=10)
@given(size=st.sampled_from([3, 4, 7, 8, 19]), rows=st.sampled_from([4, 8]), seed=st.integers(0, 99))
def test_it_holds_the_latest_in_order_whatever_its_size(size, rows, seed):
    config = replace(FLAT, loss=replace(EVERY, bank=BankConfig(size=size)))
    expected: deque[tuple[Any, ...]] = deque(maxlen=size)
    rng = np.random.default_rng(seed)
    with set_mesh(1, 1, 1):
        bank = empty_bank(config)
        for _ in range(4):
            batch = {name: rng.integers(0, 100, rows).astype(np.int32) for name in IDS}
            batch["product_keywords"] = rng.integers(0, 20, (rows, PRODUCT_KEYWORDS)).astype(np.int32)
            vectors = rng.normal(size=(rows, CONFIG.model.dim)).astype(np.float32)
            bank = jax.jit(push)(bank, vectors, batch)
            expected.extend((*(int(batch[name][i]) for name in IDS), vectors[i].tobytes()) for i in range(rows))
            held = [
                (*(int(getattr(bank, name)[k]) for name in IDS), np.asarray(bank.vectors)[k].tobytes())
                for k in range(int(bank.filled))
            ]
            assert len(held) == len(expected)
            oldest = 0 if len(held) < size else int(bank.position)
            assert held[oldest:] + held[:oldest] == list(expected)
            newest = (int(bank.position) - 1) % size
            np.testing.assert_array_equal(bank.keywords[newest], batch["product_keywords"][-1])


def test_known_positives_and_empty_places_are_no_negatives(one_device):
    bank = Bank(
        vectors=jnp.zeros((5, 2)),
        product=jnp.array([1, 2, 3, 4, 1]),
        variant=jnp.array([-1, 6, -1, -1, -1]),
        query=jnp.array([10, 11, 12, 13, 14]),
        keywords=None,
        filled=jnp.int32(4),
        position=jnp.int32(4),
    )
    batch = {"product": jnp.array([1, 7, 8]), "variant": jnp.array([-1, 6, -1]), "query": jnp.array([20, 21, 12])}
    expected = np.array([[0, 1, 1, 1, 0], [1, 0, 1, 1, 0], [1, 1, 0, 1, 0]], bool)
    np.testing.assert_array_equal(bank_negatives(bank, batch), expected)
    assert not bank_negatives(opened(bank, jnp.array(False)), batch).any()
    np.testing.assert_array_equal(bank_negatives(opened(bank, jnp.array(True)), batch), expected)


def test_there_is_none_unless_the_config_wants_one(one_device):
    assert init_state(FLAT, make_optimizer(FLAT.optim)).bank is None
    bank = abstract_state(replace(FLAT, loss=replace(EVERY, keyword_mask=False)), make_optimizer(FLAT.optim)).bank
    assert bank.vectors.shape == (19, CONFIG.model.dim)
    assert bank.keywords is None


@pytest.mark.parametrize("loss", [ONE, AVERAGED], ids=["model", "average"])
def test_a_step_stores_the_vectors_of_the_model_or_of_its_average(one_device, loss):
    state, step = started(loss)
    run = jax.jit(forward(FLAT))
    for number in range(3):
        batch = on_mesh(keyword_batch(number))
        # Of the parameters before the step; after at least one, the average differs from them.
        vectors = np.asarray(run(state.ema if loss.momentum else state.params, batch).products.product)
        place = (8 * number + np.arange(8)) % 19
        state, _ = step(state, batch, HORIZON)
        np.testing.assert_allclose(np.asarray(state.bank.vectors)[place], vectors, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(state.bank.product)[place], batch["product"])
    assert int(state.bank.filled) == 19
    gap = np.abs(run(state.ema, batch).products.product - run(state.params, batch).products.product).max()
    assert gap > 1e-4


def test_it_counts_after_the_warm_up_of_each_stage(one_device):
    state, step = started(ONE)
    for number in range(3):
        batch = on_mesh(keyword_batch(number))
        without = replace(jax.tree.map(jnp.copy, state), bank=jax.tree.map(jnp.zeros_like, state.bank))
        state, metrics = step(state, batch, HORIZON)
        _, expected = step(without, batch, HORIZON)
        assert (metrics["loss"] == expected["loss"]) == (number < BANK.warmup_steps)


def test_a_bad_batch_is_not_stored(one_device):
    state, step = started(ONE)
    state, _ = step(state, on_mesh(keyword_batch(0)), HORIZON)
    before = bits(state)
    poisoned = keyword_batch(1)
    poisoned["weight"][3] = np.nan
    state, metrics = step(state, on_mesh(poisoned), HORIZON)
    assert not metrics["finite"]
    assert bits(state) == before


@functools.cache
def every_option(*layout: int) -> Any:
    """Terms, gradients and the next bank of given vectors and a bank of two batches, with every option."""
    with set_mesh(*layout):

        def run(vectors: Any, averaged: Any, batches: Any) -> Any:
            bank = empty_bank(replace(FLAT, loss=EVERY))
            for older in batches[1:]:
                bank = push(bank, averaged["product"], older)

            def total(vectors: Any) -> Any:
                rest = {"targets": make_outputs(averaged), "bank": bank, "keywords": 20, "progress": jnp.float32(0.5)}
                return total_loss(make_context(vectors, batches[0], EVERY, **rest))

            results = jax.value_and_grad(total, has_aux=True)(vectors)
            return results, push(bank, vectors["product"], batches[0])

        vectors = [on_mesh({name: units(seed + i, 8, 8) for i, name in enumerate(SIDES)}) for seed in (0, 10)]
        return jax.device_get(jax.jit(run)(*vectors, [on_mesh(keyword_batch(number)) for number in range(3)]))


@pytest.mark.parametrize("layout", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_every_contrastive_option_together_gives_the_same_on_every_layout(layout):
    found, expected = every_option(*layout), every_option(1, 1, 1)
    assert len(expected[0][0][1]) == 10
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [(8, 1, 1), (2, 4, 1)], ids=str)
def test_a_step_with_every_option_keeps_the_layout_of_its_state(layout):
    config = replace(FLAT, loss=EVERY)
    with set_mesh(*layout):
        optimizer = make_optimizer(config.optim)
        state = abstract_state(config, optimizer)
        after, _ = jax.eval_shape(make_step(config, optimizer), state, on_mesh(keyword_batch(0)), HORIZON)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.sharding.spec == (other.sharding.spec if other.sharding else PartitionSpec())


def test_a_run_resumed_from_a_checkpoint_is_the_same_to_the_bit(one_device, tmp_path: Path):
    mesh, config = jax.sharding.get_mesh(), compiled(AVERAGED)[0]
    state, step = started(AVERAGED)
    for number in range(3):
        state, _ = step(state, on_mesh(keyword_batch(number)), HORIZON)
    checkpoints = Checkpoints(tmp_path, create=True)
    checkpoints.save(3, state, POSITION)
    checkpoints.wait()
    restored, _ = checkpoints.restore(3, abstract_state(config, make_optimizer(config.optim)), mesh)
    checkpoints.close()
    assert bits(restored) == bits(state)
    after, others = (step(this, on_mesh(keyword_batch(3)), HORIZON) for this in (state, restored))
    assert bits(after) == bits(others)
    assert int(after[0].bank.position) == 4 * 8 % 19
