"""A traced function without its layout over devices: one device has nothing to be told, and the arithmetic stays.

The model is written for a mesh with explicit axes. Traced on one device, its layout still stands in the program, and
keeps XLA from inserting the sizes of a symbolic batch. So the trace is replayed equation by equation, without it.
"""

from collections.abc import Callable, Mapping, Sequence
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


Compute = Callable[[Any, list[Any]], Sequence[Any]]
"""The results of an equation for its arguments."""


def without_layout(traced: ClosedJaxpr, own: Mapping[str, Compute] | None = None) -> Callable[..., list[Any]]:
    """What a trace computes, as a function of flat arguments to flat results, to be traced outside every mesh.

    Args:
      traced: the trace.
      own: how to compute the primitives of these names, for a reader of the result that lacks them.

    Raises:
      NotImplementedError: when the function is called, for a primitive with equations of its own that is unknown here.
    """
    replay = _Replay(own or {})
    return lambda *arguments: replay(traced.jaxpr, traced.consts, arguments)


def inputs_read(traced: ClosedJaxpr) -> list[bool]:
    """Of each flat input of a trace, whether anything reads it."""
    readers = [*(v for equation in traced.jaxpr.eqns for v in equation.invars), *traced.jaxpr.outvars]
    read = {v for v in readers if not isinstance(v, Literal)}
    return [v in read for v in traced.jaxpr.invars]


class _Replay:
    """Computes the equations of a trace one after the other."""

    def __init__(self, own: Mapping[str, Compute]) -> None:
        self._own = own

    def __call__(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """The results for these arguments."""
        values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            results = self._compute(equation, [read(v) for v in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _compute(self, equation: Any, arguments: list[Any]) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        if name in self._own:
            return self._own[name](equation, arguments)
        if name == "reshard":
            return arguments
        if name in WRAPPERS:
            inner = params[WRAPPERS[name]]
            jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
            return self(jaxpr, consts, arguments)
        if name == "scan":
            return self._scan(params, arguments)
        if any(isinstance(value, (Jaxpr, ClosedJaxpr)) for value in params.values()):
            raise NotImplementedError(f"the primitive {name} has equations of its own, which cannot be replayed yet")
        plain = {key: None if key in LAYOUT else value for key, value in params.items()}
        results = equation.primitive.bind(*arguments, **plain)
        return results if equation.primitive.multiple_results else [results]

    def _scan(self, params: dict[str, Any], arguments: list[Any]) -> Sequence[Any]:
        body, consts, carried = params["jaxpr"], params["num_consts"], params["num_carry"]

        def step(carry: tuple[Any, ...], slices: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            results = self(body.jaxpr, body.consts, [*arguments[:consts], *carry, *slices])
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
