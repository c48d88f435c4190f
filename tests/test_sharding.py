"""Every layout computes what one device computes, and stores what the table of logical axes says."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from maxsearch.config import Config
from maxsearch.errors import UsageError
from maxsearch.losses.context import Context
from maxsearch.losses.total import total_loss
from maxsearch.mesh import AXES, spec
from maxsearch.presets import load_preset, preset_names
from maxsearch.training.optim import check_groups, make_optimizer
from maxsearch.training.stages import optimizer_of
from maxsearch.training.state import TrainState, abstract_state, init_state, model_graph
from maxsearch.training.step import make_step
from tests.small import CONFIG, lively_params, make_batch, on_mesh, set_mesh, with_model, with_stem

pytestmark = pytest.mark.usefixtures("quick_compile")

DEPTH_0 = {name: replace(getattr(CONFIG.model, name), depth=0) for name in ("query", "image", "fusion")}
FLAT = with_model(CONFIG, **DEPTH_0)
LAYOUTS = [(8, 1, 1), (2, 4, 1), (2, 2, 2)]


@functools.cache
def losses_and_gradients(layout: tuple[int, int, int], stem: str, depth: int) -> tuple[Any, Any]:
    """({kind: (loss, terms)}, gradients of the sum of both kinds), of the same parameters and batch."""
    title = replace(CONFIG.model.title, depth=depth)
    image = replace(with_stem(CONFIG, stem).model.image, depth=depth)
    query = replace(title, depth=0)
    config = with_model(CONFIG, query=query, title=title, image=image, unroll=1)

    def both(params: Any, batch: Any) -> Any:
        model = nnx.merge(model_graph(config), params)
        context = Context(model, model(batch), batch, config.loss, key=None, progress=jnp.zeros(()))
        kinds = ("softmax", "sigmoid")
        results = {kind: total_loss(replace(context, config=replace(config.loss, kind=kind))) for kind in kinds}
        return results["softmax"][0] + results["sigmoid"][0], results

    with set_mesh(*layout):
        run = jax.jit(jax.value_and_grad(both, has_aux=True))
        (_, results), gradients = run(lively_params(config), on_mesh(make_batch(config)))
        return jax.device_get((results, gradients))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("stem", "depth"), [("patch", 2), ("conv", 1)])
def test_losses_and_gradients_equal_those_of_one_device(stem, depth, layout):
    results, gradients = losses_and_gradients(layout, stem, depth)
    expected_results, expected = losses_and_gradients((1, 1, 1), stem, depth)
    assert expected_results["softmax"][0] != expected_results["sigmoid"][0]
    for kind, (expected_loss, expected_terms) in expected_results.items():
        loss, terms = results[kind]
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert terms == {name: pytest.approx(value, rel=1e-5) for name, value in expected_terms.items()}
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        largest = np.abs(theirs).max()
        assert largest > 1e-6, f"{name} has no gradient"
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest + 1e-7, err_msg=name)


@functools.cache
def initial_state(*layout: int) -> TrainState:
    with set_mesh(*layout):
        return init_state(FLAT, make_optimizer(FLAT.optim))


def test_parameters_and_moments_are_born_and_stay_split_as_the_table_says():
    """On (2, 2, 2): embed over fsdp; heads, hidden and vocab over tensor; every copy of the tree alike."""
    width, heads, vocab = 16, 4, 64
    split = {
        ("title_encoder", "embedding"): (("tensor", "fsdp"), (vocab // 2, width // 2)),
        ("title_encoder", "blocks", "qkv"): (
            (None, "fsdp", None, "tensor", None),
            (1, width // 2, 3, heads // 2, width // heads),
        ),
        ("title_encoder", "blocks", "out"): (
            (None, "tensor", None, "fsdp"),
            (1, heads // 2, width // heads, width // 2),
        ),
        ("title_encoder", "blocks", "up"): ((None, "fsdp", "tensor"), (1, width // 2, 2 * width)),
        ("title_encoder", "blocks", "down"): ((None, "tensor", "fsdp"), (1, 2 * width, width // 2)),
        ("fusion", "residual_out", "kernel"): (("fsdp", None), (width, 8)),
        ("fusion", "residual_out", "bias"): ((None,), (8,)),
    }
    state = initial_state(2, 2, 2)
    with set_mesh(2, 2, 2):
        optimizer = make_optimizer(FLAT.optim)
        promised = abstract_state(FLAT, optimizer)
        after, _ = make_step(FLAT, optimizer)(jax.tree.map(jnp.copy, state), on_mesh(make_batch()), jnp.int32(10))
    for this in (state, after):
        adam = this.moments.inner_state[1]
        for tree in (this.params, this.ema, adam.mu, adam.nu):
            for path, (axes, shape) in split.items():
                leaf = functools.reduce(lambda node, key: node[key], path, tree)
                assert leaf.sharding.spec == PartitionSpec(*axes), path
                assert {shard.data.shape for shard in leaf.addressable_shards} == {shape}, path
        assert list(map(layout_of, jax.tree.leaves(this))) == list(map(layout_of, jax.tree.leaves(promised)))


def test_the_initial_parameters_do_not_depend_on_the_layout():
    one, split = (jax.device_get(initial_state(*layout).params) for layout in ((1, 1, 1), (2, 2, 2)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), one, split)


@pytest.mark.parametrize(
    ("changes", "layout"),
    [({"vocab_size": 65}, (1, 1, 2)), ({"dim": 9, "query": replace(CONFIG.model.query, width=20)}, (1, 8, 1))],
    ids=["vocab_size over tensor", "width over fsdp"],
)
def test_a_size_that_does_not_divide_gives_one_sentence(changes, layout):
    config = with_model(CONFIG, **changes)
    with set_mesh(*layout), pytest.raises(UsageError) as caught:
        abstract_state(config, make_optimizer(config.optim))
    message = str(caught.value)
    assert message.startswith("the model does not fit the mesh (")
    assert message.endswith(": choose widths, heads and vocab_size that divide by the fsdp and tensor axes")
    assert "\n" not in message
    assert str(changes.get("vocab_size", 20)) in message


def layout_of(x: Any) -> tuple[Any, ...]:
    """Shape, dtype and split of an array; without a sharding it is whole everywhere."""
    return x.shape, x.dtype, x.sharding.spec if isinstance(x.sharding, NamedSharding) else PartitionSpec()


def check_step(config: Config, layout: tuple[int, ...]) -> float:
    """Shape- and sharding-checks every stage's step for a mesh that is not there; returns the part that is split."""
    mesh = AbstractMesh(layout, AXES, axis_types=(AxisType.Explicit,) * 3)
    replica, fsdp, _ = layout
    assert config.data.batch_size % (replica * fsdp) == 0

    def laid_out(x: np.ndarray) -> jax.ShapeDtypeStruct:
        shape = (config.data.batch_size, *x.shape[1:])
        return jax.ShapeDtypeStruct(
            shape, x.dtype, sharding=NamedSharding(mesh, spec("batch", *(None,) * (x.ndim - 1)))
        )

    batch = jax.tree.map(laid_out, make_batch(replace(config, data=replace(config.data, batch_size=2))))
    words = tuple((word % config.model.vocab_size,) for word in range(config.model.keywords))
    horizon = jax.ShapeDtypeStruct((), jnp.int32)
    for stage in range(len(config.stages) or 1):
        with jax.sharding.use_abstract_mesh(mesh):
            optimizer = optimizer_of(config, stage)
            state = abstract_state(config, optimizer)
            check_groups(state.params, config.optim, config.stages)
            step = make_step(config, optimizer, words, stage)
            after, metrics = jax.eval_shape(step, state, batch, horizon, horizon)
        assert list(map(layout_of, jax.tree.leaves(after))) == list(map(layout_of, jax.tree.leaves(state)))
        terms = {name for name, weight in config.stage(stage).loss.weights.items() if weight > 0}
        assert {name for name in metrics if name.startswith("loss")} == {"loss", *(f"loss/{name}" for name in terms)}
        assert all(value.shape == () for value in metrics.values())
    leaves = jax.tree.leaves(state.params)
    return sum(x.size for x in leaves if "fsdp" in str(x.sharding.spec)) / sum(x.size for x in leaves)


@pytest.mark.parametrize("layout", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("preset", ["fashion", "quickstart"])
def test_small_presets_check_on_eight_devices(preset, layout):
    check_step(load_preset(preset), layout)


LARGE = ("base", "large", "giant")


@pytest.mark.parametrize("preset", [name for name in preset_names() if name not in (*LARGE, "fashion", "quickstart")])
def test_methods_check_on_eight_devices(preset):
    check_step(load_preset(preset), (2, 2, 2))


@pytest.mark.parametrize(
    ("preset", "layout"),
    [
        ("base", (1, 8, 1)), ("base", (128, 8, 4)), ("large", (4, 16, 1)), ("large", (32, 16, 1)),
        ("giant", (128, 16, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_large_presets_check_on_pods_of_their_size(preset, layout):
    assert check_step(load_preset(preset), layout) > 0.99
