"""A traced function without its layout over devices: one device has nothing to be told, and the arithmetic stays.

The model is written for a mesh with explicit axes. Traced on one device, its layout still stands in the program, and
keeps XLA from inserting the sizes of a symbolic batch. So the trace is replayed equation by equation, without it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

LAYOUT = ("sharding", "out_sharding")
WRAPPERS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that only wrap equations, and where these stand; derivatives are of no use to a served model."""


def without_layout(traced: ClosedJaxpr) -> Callable[..., list[Any]]:
    """What a trace computes, as a function of flat arguments to flat results, to be traced outside every mesh.

    Raises:
      NotImplementedError: when called, for a primitive with equations of its own that is not known here.
    """
    return lambda *arguments: _replay(traced.jaxpr, traced.consts, arguments)


def inputs_read(traced: ClosedJaxpr) -> list[bool]:
    """Of each flat input of a trace, whether anything reads it."""
    readers = [*(v for equation in traced.jaxpr.eqns for v in equation.invars), *traced.jaxpr.outvars]
    read = {v for v in readers if not isinstance(v, Literal)}
    return [v in read for v in traced.jaxpr.invars]


def _replay(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        results = _compute(equation, [read(v) for v in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _compute(equation: Any, arguments: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "reshard":
        return arguments
    if name in WRAPPERS:
        inner = params[WRAPPERS[name]]
        if isinstance(inner, ClosedJaxpr):
            return _replay(inner.jaxpr, inner.consts, arguments)
        return _replay(inner, (), arguments)
    if name == "scan":
        return _scan(params, arguments)
    if any(isinstance(value, (Jaxpr, ClosedJaxpr)) for value in params.values()):
        raise NotImplementedError(f"the primitive {name} has equations of its own, which cannot be replayed yet")
    results = equation.primitive.bind(
        *arguments, **{key: None if key in LAYOUT else value for key, value in params.items()}
    )
    return results if equation.primitive.multiple_results else [results]


def _scan(params: dict[str, Any], arguments: list[Any]) -> Sequence[Any]:
    body, consts, carried = params["jaxpr"], params["num_consts"], params["num_carry"]

    def step(carry: tuple[Any, ...], slices: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        results = _replay(body.jaxpr, body.consts, [*arguments[:consts], *carry, *slices])
        return tuple(results[:carried]), tuple(results[carried:])

    carry, stacked = jax.lax.scan(
        step,
        tuple(arguments[consts : consts + carried]),
        tuple(arguments[consts + carried :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]
