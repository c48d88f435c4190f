"""The aligner: which visual words it takes, what they are, and the controls."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import AlignConfig, Config
from maxsearch.errors import UsageError
from maxsearch.models.align import best_distinct
from maxsearch.training.state import model_graph
from tests.small import CONFIG, lively_params, make_batch, on_mesh, set_mesh, with_model

K, M = 21, 3
WORDS = tuple((i + 5,) if i % 3 else (i + 5, (7 * i) % 50 + 1) for i in range(K))


def config(**options) -> Config:
    return with_model(CONFIG, keywords=K, images=2, align=AlignConfig(**{"visual_words": M, **options}))


def run(settings: Config, batch: dict[str, np.ndarray], mesh=(1, 1, 1), *, vectors: bool = False):
    """(visual words' states, mask, ids, scores; vocabulary, mapped patches, which patches are valid)."""

    def go(params, batch):
        model = nnx.merge(model_graph(settings, WORDS), params)
        arguments = (batch["title_ids"], batch["title_mask"], batch["image"], batch["image_present"])
        tokens = model.product_tokens(*arguments)
        seen = jnp.repeat(batch["image_present"], tokens.patches.mask.shape[1] // 2, axis=1)
        found = model.aligner(tokens.patches.states, seen, batch["image"], model.title_encoder)
        extra = (model.encode_product(*arguments).product,) if vectors else ()
        vocabulary = model.aligner.vocabulary(model.title_encoder)
        mapped = model.aligner.mapped(tokens.patches.states)
        return found.tokens.states, found.tokens.mask, found.ids, found.scores, vocabulary, mapped, seen, *extra

    with set_mesh(*mesh):
        return jax.device_get(jax.jit(go)(lively_params(settings), on_mesh(batch)))


def batch_of(settings: Config) -> dict[str, np.ndarray]:
    batch = make_batch(settings)
    batch["image_present"][3] = [True, False]
    return batch


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(scores: np.ndarray, ids: np.ndarray, valid: np.ndarray, m: int) -> list[int]:
    """Patches in the order in which they are taken."""
    taken: list[int] = []
    for patch in sorted(np.flatnonzero(valid), key=lambda p: (-scores[p], p)):
        if ids[patch] < 0 or ids[patch] not in ids[taken]:
            taken.append(patch)
    return taken[:m]


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.sampled_from([1, 5]))
@settings(max_examples=25, deadline=None)
def test_the_best_distinct_words_are_those_of_a_plain_loop(seed, m, patches):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (2, patches)).astype(np.float32)
    ids, valid = rng.integers(-1, 3, (2, patches)).astype(np.int32), rng.random((2, patches)) < 0.7
    chosen = np.asarray(jax.jit(best_distinct, static_argnums=3)(scores, ids, valid, m))
    for row in range(2):
        expected = reference(scores[row], ids[row], valid[row], m)
        assert [int(line.argmax()) for line in chosen[row] if line.any()] == expected
        assert chosen[row].sum() == len(expected)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("hard", [False, True])
def test_visual_words_are_mixtures_of_the_vocabulary_or_its_nearest_words(hard):
    c = config(hard=hard)
    batch = batch_of(c)
    states, mask, ids, scores, vocabulary, mapped, valid = run(c, batch)
    cosines = unit(mapped.astype(float)) @ unit(vocabulary.astype(float)).T
    best = cosines.argmax(axis=-1)
    for row in range(len(states)):
        taken = reference(cosines[row].max(axis=-1), best[row], valid[row], M)
        assert mask[row].sum() == len(taken)
        assert ids[row].tolist() == [*best[row][taken], *[-1] * (M - len(taken))]
        np.testing.assert_allclose(scores[row][: len(taken)], cosines[row].max(axis=-1)[taken], rtol=1e-4)
        weights = np.exp(cosines[row][taken] / c.model.align.temperature)
        soft = weights / weights.sum(axis=-1, keepdims=True) @ vocabulary
        expected = vocabulary[best[row][taken]] if hard else soft
        np.testing.assert_allclose(states[row][: len(taken)], expected, rtol=2e-3, atol=1e-4)
    assert not mask[1].any()  # the product without a picture


@pytest.mark.usefixtures("quick_compile", "one_device")
def test_a_hard_word_has_the_gradient_of_the_mixture_and_words_have_none():
    def gradient(hard):
        c = config(hard=hard)
        graph = model_graph(c, WORDS)

        def total(params, batch):
            model = nnx.merge(graph, params)
            tokens = model.product_tokens(
                batch["title_ids"], jnp.zeros_like(batch["title_mask"]), batch["image"], batch["image_present"]
            )
            return jnp.sin(jnp.arange(16.0)) @ tokens.visual.states.sum(axis=(0, 1))

        return jax.jit(jax.grad(total))(lively_params(c), on_mesh(batch_of(c)))

    soft, hard = gradient(hard=False), gradient(hard=True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), soft, hard)
    assert np.abs(soft["aligner"]["project"]["kernel"]).max() > 1e-4
    assert not np.asarray(soft["title_encoder"]["embedding"]).any()


@pytest.mark.usefixtures("quick_compile")
def test_controls_take_the_patches_as_they_are_or_words_that_only_the_pixels_decide():
    c = config(source="raw")
    batch = batch_of(c)
    states, mask, ids, _, _, mapped, valid = run(c, batch)
    longest = np.where(valid, np.square(mapped).sum(axis=-1), -1).argmax(axis=1)
    for row in np.flatnonzero(mask[:, 0]):
        np.testing.assert_allclose(states[row, 0], mapped[row, longest[row]], rtol=1e-4, atol=1e-5)
    assert (ids == -1).all()
    assert not mask[1].any()

    c = config(source="random")
    states, mask, ids, _, vocabulary, _, _ = run(c, batch)
    np.testing.assert_allclose(states[mask], vocabulary[ids[mask]], rtol=1e-5)
    turned = {name: rows[::-1].copy() for name, rows in batch.items()}
    np.testing.assert_array_equal(run(c, turned)[2], ids[::-1])
    assert len({tuple(row) for row in ids[mask.all(axis=1)]}) > 4
    assert ids[mask].min() >= 0
    assert ids.max() < K


@pytest.mark.usefixtures("quick_compile")
def test_every_layout_gives_the_same_visual_words_and_products():
    c = config()
    batch = batch_of(c)
    expected = run(c, batch, vectors=True)
    found = run(c, batch, (2, 2, 2), vectors=True)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("one_device")
def test_an_aligner_without_keywords_says_what_to_do():
    with pytest.raises(UsageError, match="prepare the data again"):
        jax.eval_shape(
            lambda p, b: nnx.merge(model_graph(config()), p)(b), lively_params(config()), on_mesh(batch_of(config()))
        )


@pytest.mark.usefixtures("one_device")
def test_the_aligner_exists_where_something_uses_it():
    def has(c: Config) -> bool:
        return "aligner" in lively_params(c)

    assert not has(CONFIG)
    assert has(config())
    assert has(replace(CONFIG, loss=replace(CONFIG.loss, align_bag=1.0)))
