"""Every way of joining title, image and visual words keeps the contract of the fusion tower."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxsearch.config import AlignConfig, Config, FusionConfig, ModelConfig
from maxsearch.errors import UsageError
from maxsearch.models.fusion import KINDS, Fusion, FusionInputs, Tokens, make_fusion
from maxsearch.models.layers import l2_normalize
from tests.small import CONFIG, bits, forward, lively, lively_params, make_batch, on_mesh, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")

Arrays = dict[str, np.ndarray]
B, D, E = 8, 16, 8
SLOTS = {"words": 5, "patches": 6, "visual": 3}
NO_TITLE, NO_IMAGE, NEITHER = 0, 1, 2
SUMMED = ("gated", "modal_adaptation", "cross_attention")


def model_config(kind: str, visual: bool, **changes: Any) -> ModelConfig:
    """A small tower; of all kinds only `gated` has a joint block, which the others would have in the same place."""
    depth = int(kind == "gated")
    fusion = FusionConfig(kind=kind, width=D, depth=depth, heads=2, mlp_ratio=2.0, clusters=3, groups=4, expansion=2)
    align = AlignConfig(visual_words=SLOTS["visual"] * visual)
    return ModelConfig(dim=E, keywords=64 * visual, fusion=replace(fusion, **changes), align=align)


def arrays(visual: bool, seed: int = 0) -> Arrays:
    """Eight products: one without title, one without image, one with neither; a missing modality is one null token."""
    rng = np.random.default_rng(seed)
    present = np.ones((B, 2), bool)
    present[[NO_TITLE, NEITHER], 0] = present[[NO_IMAGE, NEITHER], 1] = False
    values: Arrays = {"present": present}
    for column, (name, slots) in enumerate(SLOTS.items()):
        real = np.arange(slots) < rng.integers(2, slots + 1, (B, 1))
        missing = ~present[:, min(column, 1)]
        real[missing] = (np.arange(slots) == 0) & (name != "visual")
        values |= {name: rng.normal(size=(B, slots, D)).astype(np.float32), f"{name}_mask": real}
    for name in ("title", "image", "visual_vector"):
        vector = rng.normal(size=(B, E)).astype(np.float32)
        values[name] = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    return {name: value for name, value in values.items() if visual or not name.startswith("visual")}


def inputs_of(values: Any) -> FusionInputs:
    tokens = {name: Tokens(values[name], values[f"{name}_mask"]) if name in values else None for name in SLOTS}
    vectors = {name: values.get(name) for name in ("title", "image", "visual_vector")}
    return FusionInputs(**tokens, **vectors, present=values["present"])


def graph_and_shapes(model: ModelConfig) -> tuple[Any, Any]:
    graph, state = nnx.split(nnx.eval_shape(lambda: make_fusion(nnx.Rngs(0), model)), nnx.Param)
    return graph, nnx.to_pure_dict(state)


def params_of(model: ModelConfig) -> Any:
    return lively(graph_and_shapes(model)[1])


def run(model: ModelConfig, params: Any) -> Callable[..., tuple[Any, Any]]:
    """(arrays, key=None) -> unit product vectors and weights."""
    graph = graph_and_shapes(model)[0]

    @jax.jit
    def call(params: Any, values: Any, key: Any) -> Any:
        product, weights = nnx.merge(graph, params)(inputs_of(values), key)
        return l2_normalize(product), weights

    return lambda values, key=None: jax.device_get(call(params, on_mesh(values), key))


@functools.cache
def lively_tower(kind: str, visual: bool) -> Callable[..., tuple[Any, Any]]:
    model = model_config(kind, visual)
    return run(model, params_of(model))


@pytest.fixture(params=[(kind, visual) for kind in KINDS for visual in (False, True)], ids=str)
def tower(request: pytest.FixtureRequest, one_device: None) -> tuple[Callable[..., tuple[Any, Any]], Arrays]:
    return lively_tower(*request.param), arrays(request.param[1])


def test_every_kind_of_the_config_has_a_tower(one_device):
    assert set(KINDS) == set(get_args(get_type_hints(FusionConfig)["kind"]))
    for kind in KINDS:
        assert isinstance(nnx.eval_shape(lambda kind=kind: make_fusion(nnx.Rngs(0), model_config(kind, False))), Fusion)


def test_weights_sum_to_one_and_a_missing_modality_weighs_exactly_nothing(tower):
    call, values = tower
    product, weights = call(values)
    assert product.shape == (B, E) and product.dtype == weights.dtype == np.float32
    assert np.isfinite(product).all()
    np.testing.assert_allclose(np.linalg.norm(product, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert weights[NO_TITLE, 0] == weights[NO_IMAGE, 1] == 0
    assert (weights[NEITHER + 1 :] > 0).all()


def test_padding_and_the_vectors_of_a_missing_modality_change_no_bit(tower):
    call, values = tower
    garbage = {name: value.copy() for name, value in values.items()}
    for name in SLOTS:
        if name in values:
            garbage[name][~values[f"{name}_mask"]] = 7.0
    garbage["title"][NO_TITLE] = garbage["image"][NO_IMAGE] = -0.5
    if "visual_vector" in values:
        garbage["visual_vector"][NO_IMAGE] = -0.5
    assert bits(call(values)) == bits(call(garbage))


def test_the_order_of_products_and_of_tokens_does_not_matter(tower):
    call, values = tower
    product, weights = call(values)
    order = np.random.default_rng(1).permutation(B)
    shuffled = {name: value[order] for name, value in values.items()}
    for name, slots in SLOTS.items():
        if name in values:
            places = np.random.default_rng(2).permutation(slots)
            shuffled |= {part: shuffled[part][:, places] for part in (name, f"{name}_mask")}
    moved, moved_weights = call(shuffled)
    np.testing.assert_allclose(moved, product[order], atol=2e-6)
    np.testing.assert_allclose(moved_weights, weights[order], atol=2e-6)


def test_every_part_that_is_there_counts(tower):
    call, values = tower
    product, _ = call(values)
    for name in SLOTS:
        if name in values:
            other = values | {name: values[name] + values[f"{name}_mask"][..., None] * arrays(True, seed=5)[name]}
            changed = np.abs(call(other)[0] - product).max(axis=1)
            assert (changed[NEITHER + 1 :] > 1e-4).all(), name
            assert name != "visual" or changed[NO_IMAGE] == 0


@functools.cache
def value_and_gradients(kind: str, layout: tuple[int, int, int]) -> Any:
    model = model_config(kind, visual=True, depth=0)
    target = np.random.default_rng(9).normal(size=(B, E)).astype(np.float32)

    with set_mesh(*layout):
        values = on_mesh(arrays(True) | {"target": target})
        graph, shapes = graph_and_shapes(model)

        def objective(params: Any, values: Any) -> Any:
            product, weights = nnx.merge(graph, params)(inputs_of(values))
            return (l2_normalize(product) * values["target"]).sum(), (product, weights)

        return jax.device_get(jax.jit(jax.value_and_grad(objective, has_aux=True))(lively(shapes), values))


@pytest.mark.parametrize("layout", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_values_and_gradients_of_one_device(kind, layout):
    (_, outputs), gradients = value_and_gradients(kind, layout)
    (_, expected_outputs), expected = value_and_gradients(kind, (1, 1, 1))
    for ours, theirs in zip(outputs, expected_outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        largest = np.abs(theirs).max()
        assert largest > 1e-6, f"{name} has no gradient"
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest + 1e-7, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_turns_dropout_on(kind, one_device):
    """Without a key the same config gives the formulas' values: see below."""
    model = model_config(kind, visual=True, dropout=0.5)
    dropping, values = run(model, params_of(model)), arrays(True)
    one, two, again = (dropping(values, jax.random.key(number)) for number in (1, 2, 1))
    assert bits(one) == bits(again)
    assert np.abs(one[0] - two[0]).max() > 1e-3


@pytest.mark.parametrize("visual", [False, True])
@pytest.mark.parametrize("kind", SUMMED)
def test_at_the_start_the_product_is_a_weighted_sum_of_the_unit_vectors(kind, visual, one_device):
    values = arrays(visual)
    model = model_config(kind, visual, depth=0)
    start = jax.jit(lambda values: make_fusion(nnx.Rngs(0), model)(inputs_of(values)))
    product, weights = start(on_mesh(values))
    product, weights = np.asarray(product), np.asarray(weights)
    np.testing.assert_array_equal(product[NO_IMAGE], values["title"][NO_IMAGE])
    parts = [values[name] for name in ("title", "image", "visual_vector") if name in values]
    row = NEITHER + 1
    shares = np.linalg.lstsq(np.stack([part[row] for part in parts], axis=1), product[row], rcond=None)[0]
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose([shares[0], shares[1:].sum()], weights[row], atol=1e-5)
    assert kind != "cross_attention" or np.ptp(shares) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_for_visual_words_exist_only_with_them(kind, one_device):
    without, with_them = (graph_and_shapes(model_config(kind, visual))[1] for visual in (False, True))
    assert without["modality"].shape == (2, D) and with_them["modality"].shape == (3, D)
    if kind in ("gated", "modal_adaptation"):
        assert without["gate_out"]["kernel"].shape == (D, 2) and with_them["gate_out"]["kernel"].shape == (D, 3)


# References in float64, written from the methods' formulas, product by product.


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def linear(x: np.ndarray, p: Any) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def norm(x: np.ndarray, p: Any) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attention(x: np.ndarray, other: np.ndarray, p: Any) -> np.ndarray:
    result = np.zeros_like(x)
    for head in range(p["query"].shape[1]):
        query, key, value = x @ p["query"][:, head], *(other @ p["key_value"][:, part, head] for part in (0, 1))
        result += softmax(query @ key.T / np.sqrt(query.shape[-1])) @ value @ p["out"][head]
    return result


def real_tokens(values: Arrays, row: int, p: Any) -> list[np.ndarray]:
    """The real tokens of words, patches and visual words, told their part and normalised."""
    parts = []
    for number, name in enumerate(SLOTS):
        states = values[name][row][values[f"{name}_mask"][row]].astype(np.float64)
        parts.append(norm(states + p["modality"][number], p["norm"]))
    return parts


def modal_adaptation(values: Arrays, row: int, p: Any) -> tuple[np.ndarray, np.ndarray]:
    words, patches, visual = real_tokens(values, row, p)
    text = np.concatenate([words, visual])

    def adapted(own: np.ndarray, other: np.ndarray, q: Any) -> np.ndarray:
        seen = attention(own, other, q["attention"])
        gate = sigmoid(linear(np.concatenate([own, seen], axis=1), q["gate"]))
        return gate * seen + (1 - gate) * own

    new_text, new_patches = adapted(text, patches, p["adapt_text"]), adapted(patches, text, p["adapt_patches"])
    means = [new_text[: len(words)].mean(0), new_patches.mean(0), new_text[len(words) :].mean(0)]
    a = softmax(linear(gelu(linear(np.concatenate(means), p["gate_in"])), p["gate_out"]))
    unit = a[0] * values["title"][row] + a[1] * values["image"][row] + a[2] * values["visual_vector"][row]
    mixed = sum(weight * mean for weight, mean in zip(a, means, strict=True))
    return unit + p["project_scale"] * linear(mixed, p["project"]), np.array([a[0], a[1] + a[2]])


def cross_attention(values: Arrays, row: int, p: Any) -> tuple[np.ndarray, np.ndarray]:
    words, patches, visual = real_tokens(values, row, p)
    text = np.concatenate([words, visual])
    new_text = text + np.tanh(p["text_reads"]["gate"]) * attention(text, patches, p["text_reads"]["attention"])
    new_patches = patches + np.tanh(p["patches_read"]["gate"]) * attention(
        patches, text, p["patches_read"]["attention"]
    )
    means = np.concatenate([new_text[: len(words)].mean(0), new_patches.mean(0), new_text[len(words) :].mean(0)])
    unit = (values["title"][row] + values["image"][row] + values["visual_vector"][row]) / 3
    return unit + p["project_scale"] * linear(means, p["project"]), np.array([1 / 3, 2 / 3])


def nextvlad(values: Arrays, row: int, p: Any) -> tuple[np.ndarray, np.ndarray]:
    parts = real_tokens(values, row, p)
    K, F = p["centers"].shape
    sums, mass = np.zeros((K, F)), []
    for part in parts:
        mass.append(0.0)
        for token in part:
            x = np.einsum("d,dgf->gf", token, p["expand"]) + p["expand_bias"]
            for group in range(len(x)):
                share = sigmoid((x * p["attend"][:, :, group]).sum() + p["attend_bias"][group])
                mass[-1] += share
                logits = np.einsum("gf,gfk->k", x, p["assign"][:, :, group]) + p["assign_bias"][group]
                sums += share * softmax(logits)[:, None] * (x[group] - p["centers"])
    descriptors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    hidden = norm(np.einsum("kf,kfe->e", descriptors, p["project"]), p["channel_norm"])
    gate = sigmoid(gelu(hidden @ p["squeeze"] + p["squeeze_bias"]) @ p["excite"] + p["excite_bias"])
    return hidden * gate, np.array([mass[0], mass[1] + mass[2]]) / sum(mass)


def gated(values: Arrays, row: int, p: Any) -> tuple[np.ndarray, np.ndarray]:
    means = np.concatenate([part.mean(0) for part in real_tokens(values, row, p)])
    a = softmax(linear(gelu(linear(means, p["gate_in"])), p["gate_out"]))
    unit = a[0] * values["title"][row] + a[1] * values["image"][row] + a[2] * values["visual_vector"][row]
    residual = linear(gelu(linear(means, p["residual_in"])), p["residual_out"])
    return unit + p["residual_scale"] * residual, np.array([a[0], a[1] + a[2]])


def concat(values: Arrays, row: int, p: Any) -> tuple[np.ndarray, np.ndarray]:
    means = np.concatenate([part.mean(0) for part in real_tokens(values, row, p)])
    return linear(gelu(linear(means, p["hidden"])), p["out"]), np.array([0.5, 0.5])


@pytest.mark.parametrize("reference", [gated, concat, modal_adaptation, cross_attention, nextvlad])
def test_each_kind_equals_its_formulas_also_in_bfloat16_and_drops_nothing_out_without_a_key(reference, one_device):
    model, values = model_config(reference.__name__, visual=True, depth=0, dropout=0.5), arrays(True)
    params = params_of(model)
    call = run(model, params)
    product, weights = call(values)
    rough, rough_weights = call({name: x.astype(jnp.bfloat16) if name in SLOTS else x for name, x in values.items()})
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for row in range(NEITHER + 1, B):
        expected, expected_weights = reference(values, row, exact)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(product[row], expected, atol=1e-5)
        np.testing.assert_allclose(weights[row], expected_weights, atol=1e-5)
        assert rough[row] @ expected > 0.99
        np.testing.assert_allclose(rough_weights[row], expected_weights, atol=0.03)
    assert rough.dtype == rough_weights.dtype == np.float32


# In the whole model.


def two_pictures(kind: str) -> Config:
    fusion = replace(CONFIG.model.fusion, kind=kind, groups=4, clusters=3)
    image = replace(CONFIG.model.image, depth=0)
    text = replace(CONFIG.model.title, depth=0)
    align = AlignConfig(visual_words=4, source="raw")
    return with_model(CONFIG, fusion=fusion, image=image, query=text, title=text, align=align, images=2)


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_model_what_is_absent_changes_no_bit_and_pictures_have_no_order(kind, one_device):
    config = two_pictures(kind)
    params, model = lively_params(config), jax.jit(forward(config))
    batch, other = make_batch(config), make_batch(config, seed=1)
    batch["image_present"][2, 1] = False
    batch["title_mask"][3] = batch["image_present"][3] = False

    def products(batch: Arrays) -> Any:
        return model(params, on_mesh(batch)).products

    outputs = products(batch)
    np.testing.assert_allclose(outputs.weights[:2], [[0, 1], [1, 0]], atol=1e-6)
    assert outputs.weights[0, 0] == outputs.weights[1, 1] == 0
    assert np.isfinite(outputs.product).all()
    garbage = {name: value.copy() for name, value in batch.items()}
    garbage["title_ids"][[0, 3]], garbage["image"][[1, 3]] = 63, other["image"][[1, 3]]
    garbage["image"][2, 1] = other["image"][2, 1]
    assert bits(outputs) == bits(products(garbage))
    swapped = batch | {name: batch[name][:, ::-1].copy() for name in ("image", "image_present")}
    np.testing.assert_allclose(products(swapped).product, outputs.product, atol=2e-6)
    present = batch | {"image_present": np.ones_like(batch["image_present"])}
    assert np.abs(products(present).product - outputs.product).max(axis=1)[1:3].min() > 1e-4


def test_groups_that_do_not_divide_give_one_sentence():
    with pytest.raises(
        UsageError, match=r"model\.fusion\.groups must divide width x expansion = 32 of nextvlad, not 5"
    ):
        FusionConfig(kind="nextvlad", width=16, heads=2, groups=5)
    assert FusionConfig(kind="gated", width=16, heads=2, groups=5).groups == 5
    with pytest.raises(UsageError, match=r"model\.fusion\.expansion must be at least 1, not 0"):
        FusionConfig(expansion=0)
