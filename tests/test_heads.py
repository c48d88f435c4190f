"""The heads inside the model: when they exist, what they read, and the terms that they give on every mesh."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxsearch.config import Config, Stage
from maxsearch.errors import UsageError
from maxsearch.losses.context import Context
from maxsearch.losses.total import total_loss
from maxsearch.models.attention import CrossAttention, CrossBlock
from maxsearch.models.fusion import Tokens
from maxsearch.models.heads import MaskedWordHead, MatchingHead
from maxsearch.training.state import init_params, model_graph
from tests.small import CONFIG, bits, lively_params, make_batch, on_mesh, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")

TERMS = (
    "keywords",
    "keywords_image",
    "keywords_product",
    "mlm_query",
    "mlm_title",
    "mpm",
    "matching",
    "image_matching",
)
# Every head at once, in a model that is nothing but what they read.
FLAT = {name: replace(getattr(CONFIG.model, name), depth=0) for name in ("query", "title", "image", "fusion")}
HEAD = replace(CONFIG.model.head, heads=2)
OFF = {name: 0.0 for name, weight in CONFIG.loss.weights.items() if weight}
EVERY = replace(
    with_model(CONFIG, **FLAT, head=HEAD, keywords=64),
    loss=replace(CONFIG.loss, **OFF, **dict.fromkeys(TERMS, 1.0)),
)
Batch = dict[str, np.ndarray]


def terms_of(config: Config, params: Any, batch: Any, key: Any = None) -> tuple[Any, Any]:
    model = nnx.merge(model_graph(config), params)
    return total_loss(
        Context(
            model=model,
            outputs=model(batch),
            batch=batch,
            config=config.loss,
            key=key,
            progress=jnp.zeros(()),
            keywords=config.model.keywords,
        )
    )


@functools.cache
def compiled() -> Any:
    """(batch, seed of the losses' key) -> (terms, gradients of the parameters), on one device."""
    params = lively_params(EVERY)
    run = jax.jit(jax.grad(lambda p, batch, key: terms_of(EVERY, p, batch, key), has_aux=True))

    def call(batch: Batch, seed: int = 0) -> tuple[dict[str, float], Any]:
        gradients, terms = run(params, on_mesh(batch), jax.random.key(seed))
        return {name: float(value) for name, value in terms.items()}, jax.device_get(gradients)

    return call


@functools.cache
def on_layout(*layout: int) -> tuple[Any, Any]:
    with set_mesh(*layout):
        if layout == (1, 1, 1):
            return compiled()(make_batch(EVERY))
        run = jax.jit(jax.grad(lambda p, batch, key: terms_of(EVERY, p, batch, key), has_aux=True))
        gradients, terms = run(lively_params(EVERY), on_mesh(make_batch(EVERY)), jax.random.key(0))
        return {name: float(value) for name, value in terms.items()}, jax.device_get(gradients)


def tokens(states: np.ndarray, mask: np.ndarray) -> Tokens:
    return Tokens(jnp.asarray(states, jnp.float32), jnp.asarray(mask))


def heads_of(config: Config) -> set[str]:
    with set_mesh(1, 1, 1):
        return set(jax.eval_shape(lambda: init_params(config, jax.random.key(0))).get("heads", {}))


def test_a_head_exists_only_when_some_stage_trains_it():
    assert heads_of(CONFIG) == set()
    assert heads_of(EVERY) == set(TERMS)
    stages = (Stage("adapt", 1), Stage("fuse", 1, {"mpm": 0.5}))
    assert heads_of(replace(CONFIG, stages=stages)) == {"mpm"}


@pytest.mark.parametrize(
    ("head", "weights", "message"),
    [
        ({"heads": 3}, {"mlm_title": 1.0}, "model.head.heads 3 does not divide the width 16 of model.title"),
        ({"heads": 3}, {"image_matching": 1.0}, "model.head.heads 3 does not divide the width 16 of model.query"),
        ({"depth": 0}, {"matching": 1.0}, "model.head.depth must be at least 1 for loss.matching"),
    ],
)
def test_heads_that_do_not_fit_are_refused(head, weights, message):
    model = replace(CONFIG.model, head=replace(CONFIG.model.head, **head))
    replace(CONFIG, model=model)  # unused, they may be anything
    with pytest.raises(UsageError) as caught:
        replace(CONFIG, model=model, loss=replace(CONFIG.loss, **weights))
    assert message in str(caught.value)


def test_terms_and_gradients_equal_those_of_one_device():
    (terms, gradients), (expected_terms, expected) = on_layout(2, 2, 2), on_layout(1, 1, 1)
    assert terms == {name: pytest.approx(value, rel=1e-5) for name, value in expected_terms.items()}
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-7, err_msg=name)


def test_terms_with_one_row_on_each_device_equal_those_of_one_device():
    with set_mesh(8, 1, 1):
        run = jax.jit(lambda params, batch, key: terms_of(EVERY, params, batch, key)[1])
        terms = run(lively_params(EVERY), on_mesh(make_batch(EVERY)), jax.random.key(0))
        assert terms == {name: pytest.approx(value, rel=1e-5) for name, value in on_layout(1, 1, 1)[0].items()}


@pytest.mark.usefixtures("one_device")
def test_every_parameter_of_every_head_and_every_encoder_learns():
    terms, gradients = on_layout(1, 1, 1)
    assert set(terms) == set(TERMS)
    assert all(value > 0.1 for value in terms.values())
    for path, gradient in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # The logit scale serves the contrastive terms, which are off; hard negatives do not teach it.
        assert (np.abs(gradient).max() > 1e-6) == (not name.startswith("logit_")), name


@pytest.mark.usefixtures("one_device")
def test_what_is_drawn_depends_on_the_key():
    one, two, again = (compiled()(make_batch(EVERY), seed)[0] for seed in (1, 2, 1))
    assert one == again
    drawn = {"mlm_query", "mlm_title", "mpm", "matching", "image_matching"}
    assert {name for name in one if one[name] != two[name]} == drawn


@pytest.mark.usefixtures("one_device")
def test_what_is_missing_or_padding_changes_no_term():
    """The title of row 0 and the image of row 1 are missing; keywords and words end where padding begins."""
    batch, other = make_batch(EVERY), make_batch(EVERY, seed=1)
    garbage = {name: value.copy() for name, value in batch.items()}
    garbage["image"][1], garbage["title_ids"][0] = other["image"][1], other["title_ids"][2]
    for name in ("query", "title"):
        garbage[f"{name}_ids"] = np.where(batch[f"{name}_mask"], batch[f"{name}_ids"], 63).astype(np.int32)
        garbage[f"{name}_word"] = np.where(batch[f"{name}_mask"], batch[f"{name}_word"], 3).astype(np.int32)
    assert compiled()(batch)[0] == compiled()(garbage)[0]
    seen = garbage | {"image_present": np.ones_like(batch["image_present"])}
    changed = compiled()(seen)[0]
    assert {name for name in TERMS if changed[name] != compiled()(batch)[0][name]} >= {"keywords_image", "mpm"}


@pytest.mark.usefixtures("one_device")
def test_masked_words_are_guessed_without_an_image_too_and_the_image_is_read():
    batch = make_batch(EVERY)
    blind = batch | {"image_present": np.zeros_like(batch["image_present"])}
    terms, unseen = compiled()(batch)[0], compiled()(blind)[0]
    for name in ("mlm_query", "mlm_title"):
        assert terms[name] != unseen[name]
        assert unseen[name] > 0.1
    for name in ("mpm", "keywords_image", "image_matching"):
        assert unseen[name] == 0


@pytest.mark.usefixtures("one_device")
def test_a_query_predicts_only_the_keywords_that_it_lacks():
    batch = make_batch(EVERY)
    terms = compiled()(batch)[0]
    everything = batch["product_keywords"][:, :16].copy()
    known = batch | {"query_keywords": everything, "product_keywords": np.pad(everything, ((0, 0), (0, 32)), "edge")}
    assert compiled()(known)[0]["keywords"] == 0
    nothing = batch | {"product_keywords": np.full_like(batch["product_keywords"], -1)}
    nothing = compiled()(nothing)[0]
    assert nothing["keywords"] == nothing["keywords_image"] == nothing["keywords_product"] == 0
    assert min(terms[name] for name in TERMS[:3]) > 1


@pytest.mark.usefixtures("one_device")
def test_related_pairs_are_never_drawn_as_negatives():
    """All queries are one: no pair is a negative, and only the true pairs count."""
    batch = make_batch(EVERY, whole=True)
    one = batch | {"query": np.zeros_like(batch["query"])}
    model = nnx.merge(model_graph(EVERY), lively_params(EVERY))

    def true_pairs(batch: Any) -> Any:
        outputs = model(batch)
        logits = model.heads["matching"](outputs.query_words, outputs.tokens.words, outputs.tokens.patches)
        weights = batch["weight"] ** EVERY.loss.pair_power
        return (jax.nn.softplus(-logits) * weights).sum() / weights.sum()

    assert compiled()(one)[0]["matching"] == pytest.approx(float(jax.jit(true_pairs)(on_mesh(one))), rel=1e-5)


@pytest.mark.usefixtures("one_device")
def test_cross_attention_equals_its_formula_and_padding_never_attends():
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, 3, 8)).astype(np.float32), rng.normal(size=(2, 5, 6)).astype(np.float32)
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    attention = CrossAttention(nnx.Rngs(0), 8, 6, 2)
    weights = {name: np.asarray(getattr(attention, name)[...], float) for name in ("query", "key_value", "out")}
    expected = np.zeros_like(x, dtype=float)
    for b in range(2):
        for h in range(2):
            q = x[b] @ weights["query"][:, h]
            k, v = (other[b][mask[b]] @ weights["key_value"][:, i, h] for i in range(2))
            e = np.exp(q @ k.T / np.sqrt(4))
            expected[b] += e / e.sum(axis=1, keepdims=True) @ v @ weights["out"][h]
    np.testing.assert_allclose(jax.jit(attention)(x, other, mask), expected, atol=1e-5)
    garbage = np.where(mask[..., None], other, 99).astype(np.float32)
    for layer in (jax.jit(attention), jax.jit(CrossBlock(nnx.Rngs(0), 8, 6, 2, 2.0))):
        assert bits(layer(x, other, mask)) == bits(layer(x, garbage, mask))


@pytest.mark.usefixtures("one_device")
def test_masked_words_are_gathered_before_the_projection_to_the_vocabulary():
    """The logits of a slot are those that the whole sequence would have there, and no larger array has V columns."""
    model = replace(CONFIG.model, vocab_size=97)
    head, rng = MaskedWordHead(nnx.Rngs(0), model, 16), np.random.default_rng(0)
    words = tokens(rng.normal(size=(2, 6, 16)), np.arange(6) < np.array([[6], [4]]))
    patches = tokens(rng.normal(size=(2, 5, 16)), np.ones((2, 5), bool))
    every = jnp.tile(jnp.eye(6, dtype=bool), (2, 1, 1))
    some = every[:, [4, 1]]
    run = jax.jit(head)
    np.testing.assert_allclose(run(words, patches, some), run(words, patches, every)[:, [4, 1]], atol=1e-5)
    program = jax.make_jaxpr(head)(words, patches, some)
    sizes = [v.aval.shape for eqn in program.jaxpr.eqns for v in eqn.outvars if v.aval.shape[-1:] == (97,)]
    assert max(np.prod(shape) for shape in sizes) == max(2 * 2, 16) * 97  # the kernel is larger


@pytest.mark.usefixtures("one_device")
def test_the_matching_head_ignores_padding_on_both_sides():
    head = MatchingHead(nnx.Rngs(0), replace(CONFIG.model, head=HEAD), title=True)
    rng = np.random.default_rng(0)
    mask = {"query": [4, 2, 1], "words": [3, 5, 1], "patches": [6, 6, 1]}
    mask = {name: np.arange(6) < np.array(counts)[:, None] for name, counts in mask.items()}
    states = {name: rng.normal(size=(3, 6, 16)).astype(np.float32) for name in mask}

    run = jax.jit(head)

    def score(states: dict[str, np.ndarray]) -> Any:
        return np.asarray(run(*(tokens(states[name], mask[name]) for name in mask)))

    scores = score(states)
    assert bits(scores) == bits(score({name: np.where(mask[name][..., None], x, 7) for name, x in states.items()}))
    assert np.ptp(scores) > 1e-3
    for name in mask:
        changed = score(states | {name: states[name] + rng.normal(size=(3, 6, 16))})
        assert np.abs(changed - scores).min() > 1e-6, name


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("term", ["mlm_title", "mpm"])
def test_what_is_hidden_cannot_be_read(term):
    """The encoder's states depend on a hidden word or patch nowhere."""
    config = replace(CONFIG, loss=replace(CONFIG.loss, **{term: 1.0}))
    model = nnx.merge(model_graph(config), lively_params(config))
    batch, rng = make_batch(config, whole=True), np.random.default_rng(0)
    null, encoder = model.heads[term].null[...], model.title_encoder if term == "mlm_title" else model.image_encoder
    if term == "mlm_title":
        hidden, mask = batch["title_mask"] & (np.arange(8) == 1), batch["title_mask"]
        one = batch["title_ids"]
        two = np.where(hidden, 60, one).astype(np.int32)
        run = jax.jit(lambda ids: encoder(ids, jnp.asarray(mask), None, (jnp.asarray(hidden), null)))
    else:
        one = batch["image"][:, 0]
        hidden, two = np.arange(6) == np.zeros((len(one), 1)), one.copy()
        two[:, :8, :8] = rng.integers(0, 256, two[:, :8, :8].shape)
        run = jax.jit(lambda image: encoder(image, None, (jnp.asarray(hidden), null)))
    assert (one != two).any()
    assert bits(run(one)) == bits(run(two))


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_shapes_hold_for_several_pictures_in_bfloat16_with_blocks(layout):
    """Checked without computing: terms stay float32 scalars."""
    model = replace(CONFIG.model, images=2, dtype="bfloat16", keywords=64, head=replace(HEAD, depth=2))
    config = replace(EVERY, model=model)
    with set_mesh(*layout):
        terms = jax.eval_shape(
            lambda p, b: terms_of(config, p, b)[1], lively_params(config), on_mesh(make_batch(config))
        )
    assert set(terms) == set(TERMS)
    assert {(value.shape, value.dtype.name) for value in terms.values()} == {((), "float32")}
