"""What a user relies on in the vectors: padding, missing modalities, precision, and layers that mean what they say."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxsearch.config import Config, ModelConfig, TextConfig
from maxsearch.models.layers import Transformer, dropout, l2_normalize, layer_norm, masked_mean
from maxsearch.models.stems import Colours, ConvStem, PatchStem
from maxsearch.models.text import TextEncoder
from tests.small import CONFIG, bits, forward, lively_params, make_batch, on_mesh, with_model, with_stem

pytestmark = pytest.mark.usefixtures("one_device", "quick_compile")

CONV = with_stem(with_model(CONFIG, image=replace(CONFIG.model.image, depth=0)), "conv")
Batch = dict[str, np.ndarray]
Vectors = dict[str, np.ndarray]


@functools.cache
def model_of(config: Config) -> Callable[..., Vectors]:
    """The model with live parameters, compiled once for all tests: (batch, key=None) -> every vector, and weights."""
    params, model = lively_params(config), jax.jit(forward(config))

    def call(batch: Batch, key: Any = None) -> Vectors:
        outputs = model(params, on_mesh(batch), key)
        return {"query": outputs.query, **vars(outputs.products)}

    return call


@pytest.fixture
def small(one_device: None) -> Callable[..., Vectors]:
    return model_of(CONFIG)


def same(a: Vectors, b: Vectors, rows: slice = slice(None)) -> None:
    """All vectors of these rows agree to rounding."""
    for name in a:
        np.testing.assert_allclose(a[name][rows], b[name][rows], atol=2e-6, err_msg=name)


def test_vectors_have_unit_length_and_modality_weights_sum_to_one(small):
    for name, value in small(make_batch()).items():
        assert value.dtype == np.float32
        if name == "weights":
            np.testing.assert_allclose(value.sum(axis=1), 1, atol=1e-6)
            assert (np.asarray(value[2:]) > 0).all()
            assert np.ptp(value[2:, 0]) > 1e-3  # decided product by product
        else:
            assert value.shape == (CONFIG.data.batch_size, CONFIG.model.dim)
            np.testing.assert_allclose(np.linalg.norm(value, axis=1), 1, atol=1e-5)


def test_what_stands_in_the_padding_changes_no_bit(small):
    batch = make_batch()
    other = batch | {
        name: np.where(batch[mask], batch[name], 63).astype(np.int32)
        for name, mask in [("query_ids", "query_mask"), ("title_ids", "title_mask")]
    }
    assert any((batch[name] != other[name]).any() for name in batch)
    assert bits(small(batch)) == bits(small(other))


def test_longer_padding_changes_no_vector(small):
    batch = make_batch()
    for name in ("query_mask", "title_mask"):
        batch[name][:, 5:] = False
    shorter = {name: value[:, :5] if name.endswith(("_ids", "_mask")) else value for name, value in batch.items()}
    same(small(batch), small(shorter))


def test_other_members_of_the_batch_change_no_vector(small):
    batch, other = make_batch(seed=0), make_batch(seed=1)
    mixed = {name: np.concatenate([batch[name][:3], other[name][3:]]) for name in batch}
    same(small(batch), small(mixed), slice(0, 3))
    with pytest.raises(AssertionError):
        same(small(batch), small(mixed), slice(3, None))


def test_the_query_never_reaches_the_product(small):
    batch, other = make_batch(seed=0), make_batch(seed=1)
    changed = batch | {name: other[name] for name in ("query_ids", "query_mask", "query")}
    before, after = small(batch), small(changed)
    assert np.abs(before.pop("query") - after.pop("query")).max() > 0.1
    assert bits(before) == bits(after)


def test_word_order_counts(small):
    batch = make_batch(whole=True)
    batch["query_mask"][:] = True
    swapped = batch | {"query_ids": batch["query_ids"][:, ::-1].copy()}
    assert np.abs(small(batch)["query"] - small(swapped)["query"]).max() > 1e-3


def test_a_missing_modality_weighs_nothing_and_its_content_changes_no_bit(small):
    batch, other = make_batch(seed=0), make_batch(seed=1)
    garbage = {name: value.copy() for name, value in batch.items()}
    garbage["title_ids"][0], garbage["image"][1] = other["title_ids"][2], other["image"][1]
    outputs = small(batch)
    np.testing.assert_array_equal(outputs["weights"][:2], [[0, 1], [1, 0]])
    assert bits(outputs) == bits(small(garbage))
    present = garbage | {"image_present": np.ones_like(batch["image_present"])}
    assert np.abs(small(present)["product"][1] - outputs["product"][1]).max() > 1e-3


def test_missing_both_or_a_query_without_words_gives_finite_vectors(small):
    batch = make_batch()
    batch["title_mask"][0], batch["image_present"][0], batch["query_mask"][0] = False, False, False
    for name, value in small(batch).items():
        assert np.isfinite(value).all(), name
    assert small(batch)["weights"][0].sum() == pytest.approx(1)


@pytest.mark.parametrize("config", [CONFIG, CONV], ids=["patch stem", "conv stem, no blocks"])
def test_bfloat16_stays_close_to_float32(config):
    exact, rough = model_of(config)(make_batch()), model_of(with_model(config, dtype="bfloat16"))(make_batch())
    for name in ("query", "title", "image", "product"):
        assert rough[name].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(exact[name], axis=1), 1, atol=1e-5)
        assert (exact[name] * rough[name]).sum(axis=1).min() > 0.998, name
        assert np.abs(exact[name] - rough[name]).max() > 1e-6, f"{name} was not computed in bfloat16"
    np.testing.assert_allclose(rough["weights"], exact["weights"], atol=0.02)


def test_remat_and_unroll_change_neither_tokens_nor_gradients():
    real = np.array([[True] * 5, [True, True, False, False, False]])
    tokens = on_mesh({"x": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32), "mask": real})

    def run(remat: str, unroll: int) -> Any:
        tower = TextConfig(width=8, depth=3, heads=2, mlp_ratio=2.0, dropout=0.25)
        graph, params = nnx.split(Transformer(nnx.Rngs(0), tower, ModelConfig(remat=remat, unroll=unroll)))

        def objective(params: Any) -> Any:
            y = nnx.merge(graph, params)(**tokens, key=jax.random.key(0))
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(objective, has_aux=True))(params)

    plain = run(remat="none", unroll=0)
    for remat, unroll in [("full", 1), ("dots", 3), ("none", 2)]:
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(run(remat, unroll)), strict=True):
            assert np.abs(a).max() > 1e-3
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_depth_zero_has_no_blocks_and_sees_each_word_alone():
    """A bag of words: a word's state does not depend on its neighbours; with one block it does."""
    for depth in (0, 1):
        text = replace(CONFIG.model.title, depth=depth)
        config = with_model(CONFIG, query=text, title=text, fusion=replace(CONFIG.model.fusion, depth=0))
        params = lively_params(config)
        assert ("qkv" in params["title_encoder"].get("blocks", {})) == (depth == 1)
        assert "qkv" not in params["fusion"].get("blocks", {})
        encoder = nnx.merge(
            nnx.split(nnx.eval_shape(lambda m=config.model: TextEncoder(nnx.Rngs(0), m.title, m)))[0],
            params["title_encoder"],
        )
        ids, mask = jnp.array([[5, 6, 7], [5, 9, 7]]), jnp.ones((2, 3), bool)
        states = np.asarray(jax.jit(encoder)(ids, mask))
        assert np.abs(states[0, 1] - states[1, 1]).max() > 0.1
        assert (np.abs(states[0, ::2] - states[1, ::2]).max() < 1e-6) == (depth == 0)


def test_patch_stem_is_a_convolution_of_stride_one_patch():
    stem = PatchStem(nnx.Rngs(0), patch=8, width=5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 24, 3)), jnp.float32)
    kernel = stem.project.kernel[...].reshape(8, 8, 3, 5)
    convolved = jax.lax.conv_general_dilated(x, kernel, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(jax.jit(stem)(x), convolved.reshape(2, 6, 5), atol=1e-5)


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_conv_stem_has_the_patch_grid_row_by_row(patch):
    stem = ConvStem(nnx.Rngs(0), patch=patch, stem_width=4, width=6)
    x = np.zeros((1, 4 * patch, 6 * patch, 3), np.float32)
    corner = x.copy()
    corner[0, 1, -2] = 9.0  # in the first row's last patch
    stem = jax.jit(stem)
    difference = np.abs(np.asarray(stem(corner)) - np.asarray(stem(x))).max(axis=-1).reshape(4, 6)
    assert difference.argmax() == 5
    assert difference[2:].max() == 0
    assert difference[:, :4].max() == 0


def test_colours_read_the_means_of_squares_within_their_patch():
    colours = Colours(nnx.Rngs(0), patch=8, hidden=6, width=5)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(1, 4, 6, 3)).astype(np.float32)
    smooth = means.repeat(4, axis=1).repeat(4, axis=2)
    grain = rng.normal(size=smooth.shape).reshape(1, 4, 4, 6, 4, 3)
    grain = (grain - grain.mean(axis=(2, 4), keepdims=True)).reshape(smooth.shape).astype(np.float32)
    colours = jax.jit(colours)
    states = np.asarray(colours(smooth))
    assert states.shape == (1, 6, 5)
    np.testing.assert_allclose(states, colours(smooth + grain), atol=1e-5)
    smooth[0, 9, 17] += 9.0  # in the second row's last patch
    assert (np.abs(colours(smooth) - states).max(axis=(0, 2)) > 1e-3).tolist() == [False] * 5 + [True]


def test_dropout_keeps_the_mean_and_acts_with_a_key_only():
    x = jnp.ones((64, 64))
    assert bits(dropout(x, 0.5, None)) == bits(x)
    dropped = np.asarray(dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("towers", [{"query", "fusion"}, {"title", "image"}])
def test_every_tower_drops_out_by_its_own_rate_and_by_the_key_only(towers):
    model = {tower: getattr(CONFIG.model, tower) for tower in ("query", "title", "image", "fusion")}
    model = {
        name: replace(tower, dropout=0.5 * (name in towers), depth=int(name in towers)) for name, tower in model.items()
    }
    model, batch = model_of(with_model(CONFIG, **model)), make_batch()
    one, two, again = (model(batch, jax.random.key(number)) for number in (1, 2, 1))
    assert bits(one) == bits(again)
    for name in ("query", "title", "image"):
        assert (np.abs(one[name] - two[name]).max() > 1e-3) == (name in towers), name
    assert np.abs(one["product"] - two["product"]).max() > 1e-3


def test_layers_equal_their_formulas():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 5)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 5)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias
    np.testing.assert_allclose(layer_norm(*map(jnp.asarray, (x, scale, bias))), expected, atol=1e-5)
    mask = np.array([[True, False, True], [False, False, False]])
    pooled = masked_mean(jnp.asarray(x), jnp.asarray(mask))
    np.testing.assert_allclose(pooled[0], (x[0, 0] + x[0, 2]) / 2, atol=1e-6)
    np.testing.assert_array_equal(pooled[1], 0)
    gradient = jax.grad(lambda v: l2_normalize(v).sum())(jnp.zeros((1, 5)))
    assert np.isfinite(gradient).all()
