"""AdamW with regex parameter groups, warm-up and cosine, and global-norm clipping."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from maxsearch.config import OptimConfig, ParamGroup, Stage
from maxsearch.errors import UsageError

Params = Any


def learning_rate(step: Array, horizon: Array, config: OptimConfig) -> Float[Array, ""]:
    """Linear warm-up, then a cosine from the peak to `final_lr` x the peak.

    Args:
      step: updates done so far.
      horizon: the update at which the cosine ends. It is an argument, not a constant, so that a run that is bounded by
        time can place the end of its schedule as it learns how fast it is.
      config: peak, warm-up and floor.
    """
    step = step.astype(jnp.float32)
    warm = jnp.minimum(1.0, (step + 1) / max(config.warmup_steps, 1))
    span = jnp.maximum(horizon.astype(jnp.float32) - config.warmup_steps, 1)
    progress = jnp.clip((step - config.warmup_steps) / span, 0, 1)
    cosine = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return config.learning_rate * warm * cosine


def path_name(path: tuple[Any, ...]) -> str:
    """`query_encoder/blocks/qkv` of a key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def group_of(name: str, groups: tuple[ParamGroup, ...]) -> ParamGroup:
    """The first group whose pattern is found in the parameter's path.

    Raises:
      UsageError: no group covers it.
    """
    for group in groups:
        if re.search(group.pattern, name):
            return group
    raise UsageError(f"optim.groups: no pattern matches parameter {name}: end the groups with one for '.*'")


def per_parameter(params: Params, groups: tuple[ParamGroup, ...], pick: Callable[[ParamGroup], Any]) -> Any:
    """A tree like `params` of what `pick` reads from each parameter's group."""
    return jax.tree.map_with_path(lambda path, _: pick(group_of(path_name(path), groups)), params)


def check_groups(params: Params, config: OptimConfig, stages: tuple[Stage, ...] = ()) -> None:
    """Checks that every parameter has a group, every group but the last has a parameter, and that each stage learns.

    A stage's own groups may leave nothing to those of the config, which come after them.

    Raises:
      UsageError: one of these does not hold.
    """
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]

    def check(where: str, groups: tuple[ParamGroup, ...], named: tuple[ParamGroup, ...], learns: bool) -> None:
        used = [group_of(name, groups) for name in names]
        for group in named:
            if group not in used:
                raise UsageError(
                    f"{where}: pattern {group.pattern!r} decides no parameter, check its spelling and its place"
                )
        if learns and all(group.lr is None for group in used):
            raise UsageError(f"{where}: every parameter is frozen, give some group an lr")

    check("optim.groups", config.groups, config.groups[:-1], learns=not stages)
    for stage in stages:
        check(f"stages: groups of {stage.name}", stage.groups + config.groups, stage.groups, learns=True)


def learning_size(params: Params, groups: tuple[ParamGroup, ...]) -> int:
    """How many numbers learn."""
    leaves = jax.tree.leaves_with_path(params)
    return sum(x.size for path, x in leaves if group_of(path_name(path), groups).lr is not None)


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Adam's direction for the trainable parameters, with clipping by global norm before it.

    The learning rate, its group factors and the weight decay are applied by `apply_updates`, because they depend on the
    horizon of the schedule. Frozen parameters keep no moments and do not count in the norm.
    """

    def trainable(params: Params) -> Any:
        return per_parameter(params, config.groups, lambda group: group.lr is not None)

    clip = optax.clip_by_global_norm(config.clip_norm)
    return optax.masked(optax.chain(clip, optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)), trainable)


def gradient_norm(gradients: Params, groups: tuple[ParamGroup, ...]) -> Float[Array, ""]:
    """Global norm of what learns; the compiler then leaves out the backward pass of what is frozen."""
    learning = per_parameter(gradients, groups, lambda group: group.lr is not None)
    used = [gradient for gradient, learns in zip(*map(jax.tree.leaves, (gradients, learning)), strict=True) if learns]
    norm: Array = optax.tree.norm(used)
    return norm


def apply_updates(params: Params, updates: Params, rate: Float[Array, ""], config: OptimConfig) -> Params:
    """AdamW's step (Loshchilov & Hutter 2019): decay is decoupled from the gradient and follows the learning rate."""

    def apply(path: tuple[Any, ...], param: Array, update: Array) -> Array:
        group = group_of(path_name(path), config.groups)
        if group.lr is None:
            return param
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        return param - rate * group.lr * (update + decay * param)

    return jax.tree.map_with_path(apply, params, updates)


def average(old: Params, new: Params, decay: Float[Array, ""], groups: tuple[ParamGroup, ...]) -> Params:
    """decay * old + (1 - decay) * new; of what is frozen, the old to the last bit, which rounding would move."""

    def mix(path: tuple[Any, ...], old: Array, new: Array) -> Array:
        return old if group_of(path_name(path), groups).lr is None else decay * old + (1 - decay) * new

    return jax.tree.map_with_path(mix, old, new)
