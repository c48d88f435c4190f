"""The aligner's losses beside plain NumPy ones in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from maxsearch.config import AlignLossConfig
from maxsearch.losses import align
from maxsearch.losses.align import bag_loss, bag_scores, matched_loss, structure_loss, transport
from maxsearch.losses.context import Context
from maxsearch.losses.total import total_loss
from maxsearch.models.fusion import Tokens
from maxsearch.training.state import model_graph
from tests.small import CONFIG, lively_params, make_batch, on_mesh, set_mesh

B, P, T, D = 6, 4, 5, 8
TAU = 0.3


def draw(seed: int) -> dict[str, np.ndarray]:
    """Patches and words; row 0 lacks words and row 1 patches."""
    rng = np.random.default_rng(seed)
    patch_mask = np.arange(P) < rng.integers(1, P + 1, B)[:, None]
    word_mask = np.arange(T) < rng.integers(1, T + 1, B)[:, None]
    word_mask[0], patch_mask[1] = False, False
    patches, words = rng.normal(size=(B, P, D)), rng.normal(size=(B, T, D))
    return {"patches": patches, "words": words, "patch_mask": patch_mask, "word_mask": word_mask}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tokens(x: dict[str, np.ndarray], *, normal: bool = True) -> tuple[Tokens, Tokens]:
    f = unit if normal else np.asarray
    put = on_mesh({**x, "patches": f(x["patches"]).astype(np.float32), "words": f(x["words"]).astype(np.float32)})
    return Tokens(put["patches"], put["patch_mask"]), Tokens(put["words"], put["word_mask"])


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random((B, B)) < 0.2
    return positive | positive.T | np.eye(B, dtype=bool), rng.random((B, B)) < 0.8


def reference_structure(x: dict[str, np.ndarray], row: int) -> float:
    patches, words = x["patches"][row][x["patch_mask"][row]], x["words"][row][x["word_mask"][row]]
    if not len(patches) or not len(words):
        return 0.0
    logits = unit(patches) @ unit(words).T / TAU
    attention = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def rows(m: np.ndarray) -> np.ndarray:
        return m / (np.abs(m).sum(axis=1, keepdims=True) + 1e-6)

    centred = patches - patches.mean(axis=0)
    norms = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) + 1e-12)
    seen = rows((centred / norms) @ (centred / norms).T)
    found = rows(attention.T @ seen @ attention)
    return np.square(found - rows(unit(words) @ unit(words).T)).sum() / len(words)


def reference_scores(x: dict[str, np.ndarray]) -> np.ndarray:
    scores = np.zeros((2, B, B))
    for i in range(B):
        for j in range(B):
            cosines = unit(x["patches"][i][x["patch_mask"][i]]) @ unit(x["words"][j][x["word_mask"][j]]).T
            if cosines.size:
                scores[:, i, j] = cosines.max(axis=1).mean(), cosines.max(axis=0).mean()
    return scores


def structure(x: dict[str, np.ndarray]):
    patches, words = tokens(x, normal=False)
    cosines = jnp.einsum("BPD,BTD->BPT", *(unit(np.asarray(y.states)) for y in (patches, words)))
    return jax.jit(lambda *arrays: structure_loss(*arrays, TAU))(patches, words, cosines)


@pytest.mark.usefixtures("one_device", "quick_compile")
def test_structure_equals_the_reference():
    for seed in range(3):
        x = draw(seed)
        losses, has = structure(x)
        # float32 loses digits where a row of the product nearly cancels.
        np.testing.assert_allclose(losses, [reference_structure(x, row) for row in range(B)], rtol=2e-3, atol=1e-5)
        assert has.tolist() == [False, False, *[True] * (B - 2)]


@pytest.mark.usefixtures("one_device", "quick_compile")
def test_bag_scores_equal_the_reference_in_one_block_and_in_several(monkeypatch):
    x = draw(0)
    for limit in (2**25, 1):
        monkeypatch.setattr(align, "BLOCK_ELEMENTS", limit)
        for ours, expected in zip(jax.jit(bag_scores)(*tokens(x)), reference_scores(x), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_bag_loss_equals_the_reference(axis):
    scores = np.random.default_rng(0).normal(size=(B, B)) * 5
    for seed in range(4):
        positive, valid = pairs(seed)
        valid[2, :] = valid[:, 3] = False
        losses, has = bag_loss(jnp.asarray(scores, jnp.float32), jnp.asarray(positive), jnp.asarray(valid), axis=axis)
        s, p, v = (m if axis == 1 else m.T for m in (scores, positive, valid))
        for row in range(B):
            hits, negatives = np.flatnonzero(p[row] & v[row]), np.exp(s[row][v[row] & ~p[row]]).sum()
            assert has[row] == bool(len(hits))
            expected = np.mean([np.log1p(negatives / np.exp(s[row, j])) for j in hits]) if len(hits) else 0
            np.testing.assert_allclose(losses[row], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("capacity", [1.0, 1.5, 3.0])
def test_the_transport_keeps_its_marginals_and_capacities_and_is_optimal(capacity):
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, (3, P, T))
    patch_mask, word_mask = np.ones((3, P), bool), np.ones((3, T), bool)
    patch_mask[1, 2:], word_mask[1, 3:] = False, False
    plan = np.asarray(
        transport(*map(jnp.asarray, (cosines.astype(np.float32), patch_mask, word_mask)), 0.2, capacity, 300)
    )
    real = patch_mask[:, :, None] & word_mask[:, None]
    assert not plan[~real].any()
    room = capacity / word_mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plan.sum(axis=2), patch_mask / patch_mask.sum(axis=1, keepdims=True), rtol=1e-5)
    assert (plan.sum(axis=1) <= room * (1 + 5e-3) + 1e-6).all()
    # Optimal: log plan - cosines / temperature is a sum of a row's and a column's number, and the column's is 0 where
    # there is room left and below it where there is none.
    rest = np.log(plan[0]) - cosines[0] / 0.2
    column = (rest - rest[:, :1]).mean(axis=0)
    np.testing.assert_allclose(rest - rest[:, :1], np.broadcast_to(column, (P, T)), atol=1e-3)
    free = plan[0].sum(axis=0) < room[0] * 0.99
    if free.any():
        np.testing.assert_allclose(column[free], column[free].max(), atol=1e-3)
        assert (column[~free] <= column[free].max() + 1e-3).all()


@pytest.mark.usefixtures("one_device", "quick_compile")
def test_matched_loss_compares_with_the_hardest_titles_by_the_plan():
    x = draw(3)
    patches, words = tokens(x)
    positive = np.eye(B, dtype=bool)
    valid = x["patch_mask"].any(axis=1)[:, None] & x["word_mask"].any(axis=1)[None]
    config = AlignLossConfig(matching="sinkhorn", iterations=20)
    grid = on_mesh({"positive": positive, "valid": valid})
    losses, has = jax.jit(lambda *a: matched_loss(*a, config))(patches, words, *grid.values(), jnp.float32(3.0))
    assert has.tolist() == [False, False, *[True] * (B - 2)]
    every = np.full((B, B), -np.inf)
    for i in range(B):
        for j in np.flatnonzero(valid[i]):  # 5 other titles are fewer than the hard negatives: all of them count
            masks = jnp.asarray(x["patch_mask"][i]), jnp.asarray(x["word_mask"][j])
            cosines = unit(x["patches"][i]) @ unit(x["words"][j]).T
            plan = transport(jnp.asarray(cosines, jnp.float32), *masks, config.temperature, config.capacity, 20)
            every[i, j] = 3 * (np.asarray(plan) * cosines).sum()
    for i in np.flatnonzero(np.asarray(has)):
        np.testing.assert_allclose(losses[i], np.log(np.exp(every[i]).sum()) - every[i, i], rtol=1e-4)


@jax.jit
def losses_of(patches: Tokens, words: Tokens, states: Tokens, positive: jax.Array, valid: jax.Array):
    """Unreduced losses of all kinds."""
    cosines = jnp.einsum("BPD,BTD->BPT", patches.states, words.states)
    by_patch, by_word = bag_scores(patches, words)
    config = AlignLossConfig(matching="sinkhorn", iterations=3)
    return (
        structure_loss(states, words, cosines, TAU)[0],
        bag_loss(4 * by_patch, positive, valid)[0],
        bag_loss(4 * by_word, positive, valid, axis=0)[0],
        matched_loss(patches, words, positive, valid, jnp.float32(3.0), config)[0],
    )


def every_loss(x: dict[str, np.ndarray], positive: np.ndarray) -> tuple[np.ndarray, ...]:
    patches, words = tokens(x)
    valid = x["patch_mask"].any(axis=1)[:, None] & x["word_mask"].any(axis=1)[None]
    grid = on_mesh({"positive": positive, "valid": valid})
    return jax.device_get(losses_of(patches, words, tokens(x, normal=False)[0], grid["positive"], grid["valid"]))


@pytest.mark.usefixtures("one_device", "quick_compile")
def test_masked_patches_and_words_change_nothing():
    x = draw(1)
    other = {name: array.copy() for name, array in x.items()}
    other["patches"][~x["patch_mask"]] = 7.0
    other["words"][~x["word_mask"]] = -5.0
    for ours, theirs in zip(
        every_loss(x, np.eye(B, dtype=bool)), every_loss(other, np.eye(B, dtype=bool)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.usefixtures("one_device", "quick_compile")
@given(st.integers(0, 2**31 - 1))
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
def test_permuting_the_batch_permutes_the_losses(seed):
    x, order = draw(seed % 1000), np.random.default_rng(seed).permutation(B)
    positive = pairs(seed)[0]
    turned = {name: array[order] for name, array in x.items()}
    for ours, theirs in zip(every_loss(turned, positive[order][:, order]), every_loss(x, positive), strict=True):
        np.testing.assert_allclose(ours, theirs[order], rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("one_device", "quick_compile")
def test_gradients_equal_the_slopes_of_the_references():
    x = draw(2)
    rng = np.random.default_rng(0)
    step = rng.normal(size=x["patches"].shape) * x["patch_mask"][..., None]
    positive, valid = pairs(0)
    words = tokens(x)[1]

    def ours(patches: jax.Array) -> jax.Array:
        mapped = Tokens(patches / jnp.linalg.norm(patches, axis=-1, keepdims=True), jnp.asarray(x["patch_mask"]))
        by_patch, by_word = bag_scores(mapped, words)
        plain = Tokens(jnp.asarray(x["patches"], jnp.float32), mapped.mask)
        # Of the structure loss only the attention learns through the map; its patches stay.
        cosines = jnp.einsum("BPD,BTD->BPT", mapped.states, words.states)
        structured = structure_loss(plain, words, cosines, TAU)[0].sum()
        return structured + jnp.where(valid, by_patch * 2 + by_word * positive, 0).sum()

    def theirs(shift: float) -> float:
        moved = {**x, "patches": x["patches"] + shift * step}
        by_patch, by_word = reference_scores(moved)
        total = np.where(valid, by_patch * 2 + by_word * positive, 0).sum()
        return total + sum(structure_of(x, moved, row) for row in range(B))

    def structure_of(still: dict[str, np.ndarray], moved: dict[str, np.ndarray], row: int) -> float:
        patches, mapped = (y["patches"][row][y["patch_mask"][row]] for y in (still, moved))
        words = still["words"][row][still["word_mask"][row]]
        if not len(patches) or not len(words):
            return 0.0
        logits = unit(mapped) @ unit(words).T / TAU
        attention = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

        def rows(m: np.ndarray) -> np.ndarray:
            return m / (np.abs(m).sum(axis=1, keepdims=True) + 1e-6)

        centred = patches - patches.mean(axis=0)
        centred /= np.sqrt(np.square(centred).sum(axis=1, keepdims=True) + 1e-12)
        found = rows(attention.T @ rows(centred @ centred.T) @ attention)
        return np.square(found - rows(unit(words) @ unit(words).T)).sum() / len(words)

    gradient = np.asarray(jax.jit(jax.grad(ours))(jnp.asarray(x["patches"], jnp.float32)), float)
    slope = (theirs(1e-5) - theirs(-1e-5)) / 2e-5
    np.testing.assert_allclose((gradient * step).sum(), slope, rtol=5e-3)
    assert not gradient[~x["patch_mask"]].any()


def terms_on(layout: tuple[int, int, int], matching: str):
    options = AlignLossConfig(matching=matching)
    config = replace(CONFIG, loss=replace(CONFIG.loss, align_bag=1.0, align_structure=0.5, align=options))
    weights = config.loss.with_weights(
        dict.fromkeys(("query_product", "query_title", "query_image", "title_image"), 0.0)
    )

    def loss(params, batch):
        model = nnx.merge(model_graph(config), params)
        return total_loss(Context(model, model(batch), batch, weights, None, jnp.zeros(())))

    with set_mesh(*layout):
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return jax.device_get(run(lively_params(config), on_mesh(make_batch(config))))


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("matching", ["max", "sinkhorn"])
def test_the_terms_learn_the_map_and_not_the_words_on_every_layout(matching):
    (value, terms), gradients = terms_on((1, 1, 1), matching)
    assert value == pytest.approx(terms["align_bag"] + 0.5 * terms["align_structure"])
    assert not gradients["title_encoder"]["embedding"].any()
    assert gradients["aligner"]["project"]["kernel"].any()
    assert gradients["image_encoder"]["position"].any()
    (other, _), split = terms_on((2, 2, 2), matching)
    assert other == pytest.approx(value, rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), split, gradients)
