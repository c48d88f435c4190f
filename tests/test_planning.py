"""Counted FLOPs, collectives read from compiled programs, and the search for a batch."""

import io
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, reshard
from rich.console import Console

from maxsearch.chips import CHIPS, GIB
from maxsearch.config import Config, DataConfig
from maxsearch.data.layout import batch_layout
from maxsearch.errors import UsageError
from maxsearch.losses.contrastive import IDS
from maxsearch.losses.ring import About, ring_softmax_loss
from maxsearch.mesh import spec
from maxsearch.planning.hlo import ARRAY, Traffic, collectives, on_the_wire, sizes_of
from maxsearch.planning.plan import Memory, Plan
from maxsearch.planning.report import print_plan
from maxsearch.planning.search import largest_batch
from maxsearch.planning.topology import parse
from maxsearch.training.flops import flops_of
from tests.small import CONFIG, make_batch, set_mesh, with_model

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_products_convolutions_and_loops_are_counted():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert flops_of(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    assert flops_of(lambda a, b: jnp.einsum("ij,jk->", a, b).sum(), a, b) >= 2 * 4

    def looped(a, b):
        return jax.lax.scan(lambda c, _: (c @ jnp.ones((4, 4)), None), a, None, length=7)[0] @ b

    assert flops_of(looped, a, b) == 7 * 2 * 3 * 4 * 4 + 2 * 3 * 4 * 5
    assert flops_of(jax.jit(jax.checkpoint(looped)), a, b) == flops_of(looped, a, b)
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 6))

    def convolved(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert flops_of(convolved, image, kernel) == 2 * (2 * 4 * 4 * 6) * (2 * 2 * 3)


def test_a_mapped_function_counts_on_every_device():
    with set_mesh(4, 2, 1):
        mapped = jax.shard_map(
            lambda x: x @ x.T, in_specs=PartitionSpec(("replica", "fsdp")), out_specs=PartitionSpec(("replica", "fsdp"))
        )
        x = jax.ShapeDtypeStruct((16, 3), jnp.float32)
        x = jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(jax.sharding.get_mesh(), PartitionSpec(("replica", "fsdp")))
        )
        assert flops_of(mapped, x) == 8 * 2 * 2 * 2 * 3


def test_collectives_are_read_with_their_bytes_and_the_loops_around_them():
    with set_mesh(2, 4, 1):
        split, whole = PartitionSpec(None, "fsdp"), PartitionSpec(None, None)

        def step(x, weights):
            def layer(x, w):
                return jnp.tanh(x @ reshard(w, whole)), None

            return jax.lax.scan(layer, x, weights)[0]

        mesh = jax.sharding.get_mesh()
        x = jax.device_put(np.ones((8, 16), np.float32), NamedSharding(mesh, PartitionSpec("replica", None)))
        weights = jax.device_put(np.ones((5, 16, 16), np.float32), NamedSharding(mesh, PartitionSpec(None, *split)))
        text = jax.jit(step).lower(x, weights).compile().as_text()
        found = {each.kind: each for each in collectives(text, 8)}
    gather = found["all-gather"]
    assert gather.count == 5
    assert gather.result_bytes == 5 * 16 * 16 * 4
    assert gather.wire_bytes == pytest.approx(gather.result_bytes * 3 / 4)


def test_the_ring_at_65536_holds_one_block_and_sends_each_vector_round_thrice():
    B, E, n = 65536, 16, 8
    with set_mesh(2, 4, 1):
        mesh = jax.sharding.get_mesh()

        def rows(dtype, *shape):
            sharding = NamedSharding(mesh, spec("batch", *(None,) * len(shape)))
            return jax.ShapeDtypeStruct((B, *shape), dtype, sharding=sharding)

        def loss(left, right, about):
            ways = ring_softmax_loss(left, right, (about, about), jnp.float32(20))
            return sum(rows.sum() for rows, _ in ways)

        vectors = rows(jnp.float32, E)
        about = About({name: rows(jnp.int32) for name in IDS}, rows(jnp.bool_))
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(vectors, vectors, about).compile()
    sizes = [
        np.prod([int(edge) for edge in edges.split(",")]) for _, edges in ARRAY.findall(compiled.as_text()) if edges
    ]
    block = (B // n) ** 2
    assert max(sizes) == block  # of B x B pairs a device never has more than these
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * 4 * block
    permutes = {each.kind: each for each in collectives(compiled.as_text(), n)}["collective-permute"]
    # Two rounds forward, one backward and the gradient's; ids and sums over rows are some twenty numbers a row more.
    vector_bytes = 4 * E * (B // n) * n
    assert 4 * vector_bytes * (n - 1) / n <= permutes.wire_bytes <= 4 * vector_bytes + 40 * 4 * B


def test_bytes_on_the_wire_are_those_of_ring_algorithms():
    assert on_the_wire("all-reduce", 80, 4) == 120
    assert on_the_wire("all-gather", 80, 4) == 60
    assert on_the_wire("reduce-scatter", 20, 4) == 60
    assert on_the_wire("collective-permute", 80, 4) == 80
    assert sizes_of("(bf16[4,8]{1,0}, bf16[16,8]{1,0})") == [64, 256]
    assert sizes_of("pred[]") == [1]


def test_the_layout_is_that_of_batches():
    for changes in ({}, {"keywords": 20}, {"images": 2, "texts": 1}):
        config = with_model(CONFIG, **changes)
        config = replace(config, loss=replace(config.loss, mlm_title=0.1))
        batch = make_batch(config)
        layout = batch_layout(config)
        assert layout.keys() == batch.keys()
        for name, (shape, dtype) in layout.items():
            if not name.endswith("keywords"):
                assert (batch[name].shape, batch[name].dtype) == (shape, np.dtype(dtype)), name


@pytest.mark.parametrize(("limit", "begin", "expected"), [(100, 16, 96), (100, 512, 96), (4, 16, None), (8, 8, 8)])
def test_the_largest_batch_is_found(limit, begin, expected):
    tried = []

    def plan(config):
        peak = CHIPS["v5e"].hbm * config.data.batch_size // limit
        memory = Memory(arguments=0, outputs=0, temporaries=0, peak=peak)
        return Plan(config, "train", parse("v5e:2x2"), {}, 0, memory, "", 0, (), 0.0)

    found = largest_batch(Config(data=DataConfig(batch_size=begin)), 8, plan, lambda made: tried.append(made))
    assert (found and found.config.data.batch_size) == expected
    assert len(tried) <= 8


def test_topologies_have_names():
    topology = parse("v5p:4x4x8", slices=2)
    assert (topology.chips, topology.name) == (256, "v5p:4x4x8")
    for text in ("v5p", "v5p:", "v5p:4x", "v9z:2x2"):
        with pytest.raises(UsageError, match="topology"):
            parse(text)
    assert {"v5e", "v5p", "v6e", "h200"} <= CHIPS.keys()


def planned(peak: int, **changes: Any) -> Plan:
    config = replace(CONFIG, name="small", **changes)
    memory = Memory(arguments=1 * GIB, outputs=1 * GIB, temporaries=2 * GIB, peak=peak)
    traffic = (Traffic("all-gather", 12, 4 * 10**9, 3 * 10**9),)
    mesh = {"replica": 4, "fsdp": 2, "tensor": 1}
    return Plan(config, "train", parse("v5e:2x4"), mesh, 10**6, memory, "", 394 * 10**13, traffic, 3.0)


def test_a_plan_says_what_a_step_needs_at_least():
    plan = planned(8 * GIB)
    assert plan.fits
    assert plan.bounds["compute"] == pytest.approx(1000 * 394e13 / 8 / 197e12)
    assert plan.bounds["memory"] == pytest.approx(1000 * 2 * GIB / 819e9)
    assert plan.bounds["network"] == pytest.approx(1000 * 3e9 / 200e9)
    said = printed(plan)
    assert "It fits: the peak is 50 % of the memory." in said
    assert "all-gather" in said and "12 x, 3.000 GB sent per device" in said
    assert plan.to_json()["lower_bound_ms"] == plan.bounds


def test_a_plan_that_does_not_fit_says_what_to_change():
    said = printed(planned(32 * GIB))
    assert "It does not fit: the peak is 200 % of the memory." in said
    for flag in ("--loss.ring", "--model.remat full", "--train.microbatches 4", "--mesh.fsdp 4", "--data.batch-size 4"):
        assert flag in said
    model = replace(CONFIG.model, remat="full")
    loss, train = replace(CONFIG.loss, ring=True), replace(CONFIG.train, microbatches=4)
    said = printed(planned(32 * GIB, model=model, loss=loss, train=train))
    assert "--train.microbatches 8" in said
    assert "--loss.ring" not in said and "remat" not in said


def printed(plan: Plan) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    print_plan(plan, console)
    return console.export_text()
