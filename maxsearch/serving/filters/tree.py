"""A filter as a tree of typed conditions; parsed by `parse`, evaluated by `masks`.

A condition on a missing value is neither true nor false but unknown (Kleene's three-valued logic, as in SQL): NOT of it
is unknown too, and a product is kept only where the whole filter is true. So "not red" never shows a product whose
colour nobody knows; whoever wants those too asks for them: or(not(red), missing(colour)). `Exists` is always known.

Values are as the columns store them: text as str, truth as bool, numbers as int or float, a date as days and a time as
microseconds since 1970 (UTC). Nodes are hashable; equal filters are equal nodes.
"""

from dataclasses import dataclass
from typing import TypeAlias

Stored: TypeAlias = str | int | float | bool
"""A value as a column stores it."""


@dataclass(frozen=True)
class And:
    """True where every child is."""

    children: tuple["Node", ...]


@dataclass(frozen=True)
class Or:
    """True where some child is."""

    children: tuple["Node", ...]


@dataclass(frozen=True)
class Not:
    """True where the child is false; unknown where it is unknown."""

    child: "Node"


@dataclass(frozen=True)
class In:
    """True where the value is one of `values`; of a list, where any of its values is."""

    field: str
    values: tuple[Stored, ...]


@dataclass(frozen=True)
class Range:
    """True where low <= value <= high; an end that is None is open."""

    field: str
    low: int | float | None
    high: int | float | None


@dataclass(frozen=True)
class Prefix:
    """True where the category path begins with these components."""

    field: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Exists:
    """True where the product has a value, false where it has none."""

    field: str


Node: TypeAlias = And | Or | Not | In | Range | Prefix | Exists


def fields_of(node: Node) -> frozenset[str]:
    """Names of the fields that a filter looks at."""
    match node:
        case And(children) | Or(children):
            return frozenset().union(*map(fields_of, children))
        case Not(child):
            return fields_of(child)
        case _:
            return frozenset({node.field})


def without_field(node: Node | None, field: str) -> Node | None:
    """The filter without its outermost AND's parts that look at `field` alone; None when nothing is left.

    It is what the counts of a facet are taken over, so that a shopper who chose one value still sees the others.
    """
    if node is None or fields_of(node) == {field}:
        return None
    if not isinstance(node, And):
        return node
    left = tuple(part for child in node.children if (part := without_field(child, field)) is not None)
    return left[0] if len(left) == 1 else And(left)
