"""The schedule, parameter groups and AdamW's arithmetic, on a tree of three parameters."""

import math
import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maxsearch.config import OptimConfig, ParamGroup
from maxsearch.errors import UsageError
from maxsearch.training.optim import (
    apply_updates,
    check_groups,
    gradient_norm,
    group_of,
    learning_rate,
    make_optimizer,
)
from tests.small import bits, set_mesh

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = OptimConfig(learning_rate=0.02, warmup_steps=3, final_lr=0.1, weight_decay=0.3, clip_norm=0.4, eps=1e-2)
FROZEN = ParamGroup("^towers/frozen/", lr=None)
GROUPS = (FROZEN, ParamGroup("/bias$", lr=0.5, weight_decay=0.0), ParamGroup(".*"))
HORIZON = jnp.int32(10)


def schedule(step: int, config: OptimConfig, horizon: int) -> float:
    """Warm-up from 1 / n of the peak, then half a cosine down to the floor, in plain Python."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    progress = min(max((step - config.warmup_steps) / (horizon - config.warmup_steps), 0.0), 1.0)
    floor = config.final_lr
    return config.learning_rate * warm * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def tree() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "towers": {
            "frozen": {"kernel": rng.normal(size=(4, 6)).astype(np.float32)},
            "live": {
                "kernel": rng.normal(size=(4, 6)).astype(np.float32),
                "bias": rng.normal(size=6).astype(np.float32),
            },
        }
    }


def objective(params: Any) -> jax.Array:
    """A quadratic whose gradient changes as the parameters do, far above the clipping norm at first."""
    towers = params["towers"]
    return (
        jnp.square(towers["live"]["kernel"] - 1.0).sum() * 0.3
        + (towers["live"]["bias"] * jnp.cos(towers["live"]["bias"])).sum()
        + 50 * jnp.square(towers["frozen"]["kernel"]).sum()
    )


def update(params: Any, moments: Any, step: int, config: OptimConfig) -> tuple[Any, Any]:
    gradients = jax.grad(objective)(params)
    updates, moments = make_optimizer(config).update(gradients, moments, params)
    return apply_updates(params, updates, learning_rate(jnp.int32(step), HORIZON, config), config), moments


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 6, 9, 10, 500])
def test_learning_rate_follows_the_formula(step):
    for config in (CONFIG, replace(CONFIG, warmup_steps=0)):
        ours = learning_rate(jnp.int32(step), HORIZON, config)
        assert ours == pytest.approx(schedule(step, config, 10), rel=1e-6)


def test_learning_rate_at_the_corners():
    at = [float(learning_rate(jnp.int32(step), HORIZON, CONFIG)) for step in (0, 2, 3, 10)]
    assert at == pytest.approx([0.02 / 3, 0.02, 0.02, 0.002])


def test_a_horizon_inside_the_warm_up_is_finite():
    assert learning_rate(jnp.int32(1), jnp.int32(2), CONFIG) == pytest.approx(0.02 * 2 / 3)


def test_a_sharded_run_equals_optax_on_one_device():
    """Six steps with clipping, decay, a schedule and a group of another rate; the reference is written in optax."""
    config = replace(CONFIG, groups=GROUPS[1:])
    params = tree()
    with set_mesh(2, 2, 2):
        mesh = jax.sharding.get_mesh()
        ours = jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*("fsdp", "tensor")[-x.ndim :]))), params
        )
        moments = make_optimizer(config).init(ours)
        step = jax.jit(update, static_argnums=(2, 3))
        for number in range(6):
            ours, moments = step(ours, moments, number, config)
        kernel = ours["towers"]["live"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (2, 3)

    def adamw(factor: float, decay: float) -> optax.GradientTransformation:
        rates = jnp.array([factor * schedule(step, config, 10) for step in range(6)])
        return optax.adamw(lambda count: rates[count], config.b1, config.b2, config.eps, weight_decay=decay)

    labels = {"towers": {"frozen": {"kernel": "rest"}, "live": {"kernel": "rest", "bias": "bias"}}}
    reference = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.multi_transform({"bias": adamw(0.5, 0.0), "rest": adamw(1.0, config.weight_decay)}, labels),
    )
    plain = jax.tree.map(jnp.asarray, params)
    state = reference.init(plain)
    for _ in range(6):
        gradients = jax.grad(objective)(plain)
        assert optax.tree.norm(gradients) > config.clip_norm
        updates, state = reference.update(gradients, state, plain)
        plain = optax.apply_updates(plain, updates)
    for before, mine, theirs in zip(*map(jax.tree.leaves, (params, ours, plain)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
        assert np.abs(mine - before).max() > 1e-3


def test_a_frozen_group_keeps_its_bits_and_no_moments_and_does_not_count_in_clipping():
    config = replace(CONFIG, groups=GROUPS)
    params = jax.tree.map(jnp.asarray, tree())
    moments = make_optimizer(config).init(params)
    sizes = sorted(x.size for x in jax.tree.leaves(moments))
    assert sizes == [1, 6, 6, 24, 24]  # a count, and two moments each of the live bias and kernel
    after, _ = update(params, moments, 5, config)
    assert bits(after["towers"]["frozen"]) == bits(params["towers"]["frozen"])
    assert bits(after["towers"]["live"]) != bits(params["towers"]["live"])

    # The frozen kernel's huge gradient must not shrink the others: without it they move alike.
    harmless = {"towers": {**params["towers"], "frozen": {"kernel": jnp.zeros((4, 6))}}}
    alone, _ = update(harmless, moments, 5, config)
    assert bits(after["towers"]["live"]) == bits(alone["towers"]["live"])
    gradients = jax.grad(objective)(params)
    assert gradient_norm(gradients, GROUPS) == pytest.approx(float(optax.tree.norm(gradients["towers"]["live"])))
    assert gradient_norm(gradients, GROUPS[1:]) == pytest.approx(float(optax.tree.norm(gradients)))


def test_the_first_matching_group_decides():
    first, second = ParamGroup("kernel", lr=0.1), ParamGroup("^query/", lr=0.2)
    assert group_of("query/kernel", (first, second)) is first
    assert group_of("query/bias", (first, second)) is second
    default = OptimConfig().groups
    for name in ("fusion/gate_in/bias", "logit_scale", "title_encoder/norm/scale", "image_encoder/position"):
        assert group_of(name, default).weight_decay == 0, name
    for name in ("fusion/gate_in/kernel", "query_encoder/embedding", "query_encoder/blocks/qkv"):
        assert group_of(name, default).weight_decay is None, name


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            (ParamGroup("kernel$"),),
            "optim.groups: no pattern matches parameter towers/live/bias: end the groups with one for '.*'",
        ),
        (
            (ParamGroup("^towers/frozn/", lr=None), ParamGroup(".*")),
            "optim.groups: pattern '^towers/frozn/' decides no parameter, check its spelling and its place",
        ),
        (
            (ParamGroup(".*"), ParamGroup("bias", lr=None), ParamGroup("kernel")),
            "optim.groups: pattern 'bias' decides no parameter, check its spelling and its place",
        ),
        ((ParamGroup(".*", lr=None),), "optim.groups: every parameter is frozen, give some group an lr"),
    ],
    ids=["uncovered", "misspelt", "shadowed", "all frozen"],
)
def test_groups_that_do_not_fit_give_one_sentence(groups, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check_groups(tree(), OptimConfig(groups=groups))


def test_groups_that_fit_pass():
    check_groups(tree(), OptimConfig(groups=GROUPS))


def test_a_pattern_that_is_no_regular_expression_gives_one_sentence():
    with pytest.raises(UsageError, match=r"^optim.groups: '\(' is not a regular expression \("):
        ParamGroup("(")
