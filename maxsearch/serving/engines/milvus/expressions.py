"""Filters as Milvus writes them.

A condition on a missing value is unknown (see `filters.tree`), and so is NOT of it. Milvus and Milvus-Lite do not agree
on NOT of a missing value everywhere, so none is asked of them: NOT is carried inwards by De Morgan's laws, and a
condition is negated among known values only. A path begins with some components when it is that path, or lies between
"A > " and "A >!" ('!' follows ' ' in every order of bytes): LIKE would take % and _ in a category for wildcards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from maxsearch.serving.filters.kinds import LARGEST_INT, SEPARATOR, Kind, path_text
from maxsearch.serving.filters.tree import And, Exists, In, Node, Not, Or, Prefix, Range, Stored

ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


@dataclass(frozen=True)
class FieldName:
    """The field of a collection that holds an attribute, and the attribute's type."""

    name: str
    kind: Kind


def expression(node: Node, fields: Mapping[str, FieldName], *, negated: bool = False) -> str:
    """The expression that is true exactly where the filter is.

    Args:
      node: the filter; its fields and values fit the attributes (`parse_filter` has checked that).
      fields: field per attribute.
      negated: whether the expression is wanted that is true where the filter is false.
    """
    match node:
        case And(children) | Or(children):
            word = " and " if isinstance(node, And) != negated else " or "
            return f"({word.join(expression(child, fields, negated=negated) for child in children)})"
        case Not(child):
            return expression(child, fields, negated=not negated)
        case Exists(attribute):
            return f"({fields[attribute].name} is {'' if negated else 'not '}null)"
    field = fields[node.field]
    found = condition(node, field)
    return f"({field.name} is not null and not ({found}))" if negated else f"({found})"


def condition(node: In | Range | Prefix, field: FieldName) -> str:
    """The expression of one condition, for values that are known."""
    name = field.name
    match node:
        case In(_, values) if field.kind is Kind.BOOL:
            return " or ".join(f"{name} == {literal(value)}" for value in values)
        case In(_, values) if field.kind is Kind.LIST:
            return f"array_contains_any({name}, [{literals(values)}])"
        case In(_, values):
            return f"{name} in [{literals(values)}]"
        case Prefix(_, path):
            begun = f"{path_text(path)} {SEPARATOR} "
            behind = f"{begun[:-1]}!"
            return f"{name} == {literal(begun[:-3])} or ({name} >= {literal(begun)} and {name} < {literal(behind)})"
        case Range(_, low, high):
            if field.kind is not Kind.FLOAT and ((low or 0) > LARGEST_INT or (high or 0) < -LARGEST_INT):
                return f"({name} is null and {name} is not null)"  # a bound that 64 bits do not hold: no value fits
            ends = [f"{name} >= {literal(low)}"] if low is not None else []
            return " and ".join(ends + ([f"{name} <= {literal(high)}"] if high is not None else []))


def literal(value: Stored) -> str:
    """A value as an expression writes it."""
    if isinstance(value, str):
        return f'"{value.translate(ESCAPES)}"'
    return json.dumps(value)


def literals(values: tuple[Stored, ...]) -> str:
    """Values between commas."""
    return ", ".join(map(literal, values))


def one_of(field: str, values: list[str], *, negated: bool = False) -> str:
    """Whether a field that is never missing is one of these texts, or none of them."""
    return f"{field} {'not in' if negated else 'in'} [{literals(tuple(values))}]"
