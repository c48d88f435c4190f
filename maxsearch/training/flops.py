"""Floating-point operations of the model and of any function, counted from its jaxpr.

XLA's own count takes the body of a loop once and does not know kernels; here a scan counts as often as it runs.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from maxsearch.config import Config
from maxsearch.models.search import Words
from maxsearch.training.state import model_graph
from maxsearch.training.step import loss_and_metrics


def flops_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of all matrix products and convolutions, a multiplication and its addition being two.

    Over all devices together: the body of a `shard_map` counts once per device of its mesh. Elementwise work, which the
    field leaves out of model FLOPs, is not counted. The body of a `while` whose length nobody knows counts once.

    Args:
      function: traced, not run.
      arguments: arrays or their shapes.
    """
    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def count(jaxpr: Jaxpr) -> int:
    """Operations of a jaxpr."""
    return sum(count_equation(equation) for equation in jaxpr.eqns)


def count_equation(equation: Any) -> int:
    """Operations of one equation and all that is called by it."""
    name, params = equation.primitive.name, equation.params
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * prod(equation.outvars[0].aval.shape) * prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        features = shapes[1][params["dimension_numbers"].rhs_spec[0]]
        return 2 * prod(equation.outvars[0].aval.shape) * prod(shapes[1]) // features
    if name == "cond":
        return max(count(branch.jaxpr) for branch in params["branches"])
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":
        times = params["mesh"].size
    return times * sum(count(inner) for inner in jaxprs_in(params))


def jaxprs_in(params: dict[str, Any]) -> list[Jaxpr]:
    """The jaxprs that an equation runs; those of custom derivatives are functions, not jaxprs, and stay out."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


def model_flops(config: Config, params: Any, batch: Any, words: Words = ()) -> int:
    """Three times the operations of a forward pass with its losses: the backward pass has two for each.

    Counted on the whole batch at once, so that neither recomputation nor a gradient cache adds to it.
    """
    plain = replace(
        config,
        model=replace(config.model, remat="none"),
        train=replace(config.train, microbatches=1),
        loss=replace(config.loss, ring=False, bank=replace(config.loss.bank, size=0), momentum=0.0),
    )
    graph = model_graph(plain, words)
    return 3 * flops_of(lambda params, batch: loss_and_metrics(graph, plain, params, batch, None)[0], params, batch)
