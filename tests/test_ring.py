"""The ring losses beside the dense ones: same values, same gradients, on every layout of the mesh."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import BankConfig, LossConfig
from maxsearch.errors import UsageError
from maxsearch.losses.contrastive import IDS, Negatives, known_pairs, sigmoid_loss, softmax_loss
from maxsearch.losses.masks import contained_pairs
from maxsearch.losses.ring import About, ring_sigmoid_loss, ring_softmax_loss
from maxsearch.mesh import gathered
from maxsearch.training.optim import make_optimizer
from maxsearch.training.state import init_state
from maxsearch.training.step import make_step
from tests.small import CONFIG, make_batch, on_mesh, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")

VOCABULARY = 7
SCALE, BIAS, MARGIN = np.float32(6), np.float32(-2), 0.15


def draw(seed: int, rows: int, width: int, bank: int) -> dict[str, np.ndarray]:
    """Two sides and a bank with clashing ids, absent rows and keywords."""
    rng = np.random.default_rng(seed)

    def side(name: str, size: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(size, width))
        return {
            f"{name}_vectors": (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32),
            f"{name}_present": rng.random(size) < 0.8,
            f"{name}_keywords": rng.integers(-1, VOCABULARY, (size, 3)).astype(np.int32),
        }

    def ids(name: str, size: int) -> dict[str, np.ndarray]:
        return {
            f"{name}_query": rng.integers(0, size, size).astype(np.int32),
            f"{name}_product": rng.integers(0, 2 * size, size).astype(np.int32),
            f"{name}_variant": rng.integers(-1, size, size).astype(np.int32),
        }

    return {
        **side("left", rows), **side("right", rows), **ids("pair", rows), **side("bank", bank), **ids("bank", bank),
        "covered": rng.random(rows) < 0.7,
        "cotangent": rng.normal(size=rows).astype(np.float32),
    }  # fmt: skip


def dense(x: dict[str, jax.Array], left: Any, right: Any, scale: Any, bias: Any, kind: str, turned: bool) -> Any:
    ids = {name: x[f"pair_{name}"] for name in IDS}
    whole = {name: gathered(value, None) for name, value in ids.items()}
    known = known_pairs(ids, whole)
    valid = x["left_present"][:, None] & gathered(x["right_present"], None)[None, :]
    owned = {side: gathered(x[f"{side}_keywords"], None, None) for side in ("left", "right", "bank")}
    if turned:  # the right side are the queries
        contained = contained_pairs(x["right_keywords"], x["covered"], owned["left"], VOCABULARY)
        contained = gathered(contained.T, "batch", None)
    else:
        contained = contained_pairs(x["left_keywords"], x["covered"], owned["right"], VOCABULARY)
    valid &= known | ~contained
    if kind == "sigmoid":
        return [sigmoid_loss(left, right, known, valid, scale, bias)]
    bank = {name: gathered(x[f"bank_{name}"], None) for name in IDS}
    usable = x["left_present"][:, None] & gathered(x["bank_present"], None)[None, :] & ~known_pairs(ids, bank)
    if not turned:
        usable &= ~contained_pairs(x["left_keywords"], x["covered"], owned["bank"], VOCABULARY)
    logits = scale * jnp.einsum("IE,KE->IK", left, gathered(x["bank_vectors"], None, None))
    return [
        softmax_loss(left, right, known, valid, scale, margin=MARGIN, further=(Negatives(logits, usable),)),
        softmax_loss(right, left, known, gathered(valid.T, "batch", None), scale, margin=MARGIN),
    ]


def ringed(x: dict[str, jax.Array], left: Any, right: Any, scale: Any, bias: Any, kind: str, turned: bool) -> Any:
    ids = {name: x[f"pair_{name}"] for name in IDS}
    asked, owned = ("right", "left") if turned else ("left", "right")
    about = {
        asked: About(ids, x[f"{asked}_present"], asked=x[f"{asked}_keywords"], covered=x["covered"]),
        owned: About(ids, x[f"{owned}_present"], owned=x[f"{owned}_keywords"]),
    }
    both = about["left"], about["right"]
    if kind == "sigmoid":
        return [ring_sigmoid_loss(left, right, both, scale, bias, vocabulary=VOCABULARY)]
    bank = About(
        {name: x[f"bank_{name}"] for name in IDS},
        x["bank_present"],
        owned=None if turned else x["bank_keywords"],
    )
    return ring_softmax_loss(
        left, right, both, scale, bank=(x["bank_vectors"], bank), margin=MARGIN, vocabulary=VOCABULARY
    )


def value_and_gradients(loss: Any, x: dict[str, np.ndarray], kind: str, turned: bool) -> Any:
    def total(left: Any, right: Any, scale: Any, bias: Any, x: dict[str, jax.Array]) -> Any:
        ways = loss(x, left, right, scale, bias, kind, turned)
        totals = [(rows * x["cotangent"] ** (1 + number)).sum() for number, (rows, _) in enumerate(ways)]
        return sum(totals), list(ways)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    put = on_mesh(x)
    (_, aux), gradients = run(put["left_vectors"], put["right_vectors"], jnp.asarray(SCALE), jnp.asarray(BIAS), put)
    return jax.device_get((aux, gradients))


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 3),
    width=st.integers(2, 5),
    bank=st.integers(1, 2),
    layout=st.sampled_from([(8, 1, 1), (2, 4, 1), (1, 2, 4), (1, 1, 1)]),
    turned=st.booleans(),
)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_ring_gives_the_dense_losses_and_gradients(kind, seed, rows, width, bank, layout, turned):
    devices = layout[0] * layout[1]
    x = draw(seed, rows * devices, width, bank * devices)
    with set_mesh(*layout):
        expected, theirs = value_and_gradients(dense, x, kind, turned)
        found, ours = value_and_gradients(ringed, x, kind, turned)
    for (rows, has), (reference, mask) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(has, mask)
        np.testing.assert_allclose(rows, reference, rtol=1e-5, atol=1e-6)
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-5)


SIX = LossConfig(
    query_title=0.5, query_image=0.5, title_image=0.2, title_product=0.3, image_product=0.3,
    pair_power=0.5, keyword_mask=True, scale=5.0,
)  # fmt: skip
BANK = BankConfig(size=16, warmup_steps=1)


def losses_of(loss: LossConfig, layout: tuple[int, int, int]) -> list[dict[str, Any]]:
    config = replace(with_model(CONFIG, keywords=20), loss=loss)
    optimizer = make_optimizer(config.optim)
    with set_mesh(*layout):
        state, step = init_state(config, optimizer), make_step(config, optimizer)
        said = []
        for number in range(3):
            state, metrics = step(state, on_mesh(make_batch(config, number)), jnp.int32(10))
            said.append(jax.device_get(metrics))
    return said


@pytest.mark.parametrize("kind", ["softmax", pytest.param("am_softmax", marks=pytest.mark.slow), "sigmoid"])
def test_training_on_the_ring_is_training(kind):
    loss = replace(SIX, kind=kind, bank=BANK if kind != "sigmoid" else BankConfig())
    expected = losses_of(loss, (1, 1, 1))
    for ours, theirs in zip(losses_of(replace(loss, ring=True), (2, 2, 2)), expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), name


def test_what_the_ring_cannot_do_is_refused():
    for changes in ({"kind": "sdm"}, {"soft_labels": 0.1}, {"same_side": 0.8}, {"momentum": 0.2}):
        with pytest.raises(UsageError, match=r"loss\.ring goes with"):
            LossConfig(ring=True, **changes)
