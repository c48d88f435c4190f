"""Filters from JSON: checked against the attributes' types, with errors that name the place in the tree.

    {"and": [{"prefix": {"field": "category", "path": "Apparel > Topwear"}},
             {"in": {"field": "colour", "values": ["Blue", "Navy"]}},
             {"range": {"field": "price", "gte": 10, "lt": 50}},
             {"eq": {"field": "in_stock", "value": true}},
             {"not": {"exists": {"field": "discontinued"}}}]}

The other keys are "or" and "missing"; a range may use "gt", "gte", "lt" and "lte".
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from maxsearch.errors import UsageError
from maxsearch.serving.filters.kinds import Kind, path_of, read_number, read_value
from maxsearch.serving.filters.tree import And, Exists, In, Node, Not, Or, Prefix, Range, Stored

CONDITIONS = ("and", "or", "not", "eq", "in", "range", "prefix", "exists", "missing")
BOUNDS = ("gt", "gte", "lt", "lte")


@dataclass(frozen=True)
class Limits:
    """How large a filter may be.

    Attributes:
      depth: nodes from the outermost to an innermost one.
      nodes: nodes of the whole tree.
      values: values of one "in".
      characters: of one text value.
    """

    depth: int = 10
    nodes: int = 200
    values: int = 1000
    characters: int = 500


def parse_filter(
    value: Any, kinds: Mapping[str, Kind], *, limits: Limits | None = None, where: str = "filter"
) -> Node | None:
    """Reads a filter.

    Args:
      value: decoded JSON; null means every product.
      kinds: type per attribute that can be filtered by.
      limits: how large it may be.
      where: its name in messages.

    Raises:
      UsageError: it is malformed or too large, or does not fit the attributes; the message begins with the place.
    """
    return None if value is None else _Parser(kinds, limits or Limits()).node(value, where, 1)


def known_field(field: Any, kinds: Mapping[str, Kind], where: str) -> tuple[str, Kind]:
    """An attribute's name and type.

    Raises:
      UsageError: there is none of that name; the message begins with `where`.
    """
    if not isinstance(field, str):
        _refuse(where, "expected the name of an attribute")
    if field not in kinds:
        close = difflib.get_close_matches(field, kinds, n=1)
        known = ", ".join(sorted(kinds)[:20]) or "none"
        hint = f"did you mean {close[0]!r}?" if close else f"the attributes are {known}"
        _refuse(where, f"no attribute is called {field[:100]!r}: {hint}")
    return field, kinds[field]


class _Parser:
    def __init__(self, kinds: Mapping[str, Kind], limits: Limits) -> None:
        self._kinds, self._limits, self._nodes = kinds, limits, 0

    def node(self, value: Any, where: str, depth: int) -> Node:
        self._nodes += 1
        if depth > self._limits.depth:
            _refuse(where, f"conditions are nested deeper than {self._limits.depth}: write a flatter filter")
        if self._nodes > self._limits.nodes:
            _refuse(where, f"the filter has more than {self._limits.nodes} conditions: write a shorter one")
        if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in CONDITIONS:
            _refuse(where, f"expected an object with exactly one key of {', '.join(CONDITIONS)}")
        (name, body) = next(iter(value.items()))
        inner = f"{where}.{name}"
        if name in ("and", "or"):
            if not isinstance(body, list) or not body:
                _refuse(inner, "expected a list of at least one condition")
            children = tuple(self.node(child, f"{inner}[{i}]", depth + 1) for i, child in enumerate(body))
            return And(children) if name == "and" else Or(children)
        if name == "not":
            return Not(self.node(body, inner, depth + 1))
        return self._condition(name, body, inner)

    def _condition(self, name: str, body: Any, where: str) -> Node:
        wanted = {
            "eq": {"field", "value"},
            "in": {"field", "values"},
            "prefix": {"field", "path"},
            "range": {"field", *BOUNDS},
        }.get(name, {"field"})
        if not isinstance(body, dict):
            _refuse(where, f"expected an object with {', '.join(sorted(wanted))}")
        unknown = sorted(set(body) - wanted)
        if unknown:
            _refuse(where, f"does not know {unknown[0]!r}: it takes {', '.join(sorted(wanted))}")
        missing = sorted(wanted - set(body) - set(BOUNDS))
        if missing:
            _refuse(where, f"lacks {missing[0]!r}")
        field, kind = self._field(body["field"], where)
        match name:
            case "eq":
                return In(field, (self._value(body["value"], kind, f"{where}.value"),))
            case "in":
                return In(field, self._values(body["values"], kind, f"{where}.values"))
            case "range":
                return self._range(field, kind, body, where)
            case "prefix":
                return self._prefix(field, kind, body["path"], where)
            case "exists":
                return Exists(field)
            case _:
                return Not(Exists(field))

    def _field(self, field: Any, where: str) -> tuple[str, Kind]:
        return known_field(field, self._kinds, f"{where}.field")

    def _value(self, value: Any, kind: Kind, where: str) -> Stored:
        if isinstance(value, str) and len(value) > self._limits.characters:
            _refuse(where, f"the text is longer than {self._limits.characters} characters: shorten it")
        try:
            return read_value(value, kind)
        except ValueError as error:
            _refuse(where, f"expected {error}, not {_shown(value)}")

    def _values(self, values: Any, kind: Kind, where: str) -> tuple[Stored, ...]:
        if not isinstance(values, list) or not values:
            _refuse(where, "expected a list of at least one value")
        if len(values) > self._limits.values:
            _refuse(where, f"holds {len(values)} values and may hold {self._limits.values}: send fewer")
        return tuple(sorted({self._value(value, kind, f"{where}[{i}]") for i, value in enumerate(values)}))

    def _prefix(self, field: str, kind: Kind, path: Any, where: str) -> Prefix:
        if kind is not Kind.PATH:
            _refuse(where, f"needs a category path and {field} is of type {kind}: use eq or in")
        components = path_of(str(self._value(path, kind, f"{where}.path")))
        if not components:
            _refuse(f"{where}.path", "the path is empty: name at least one category")
        return Prefix(field, components)

    def _range(self, field: str, kind: Kind, body: Mapping[str, Any], where: str) -> Range:
        if not kind.ordered:
            _refuse(where, f"needs a number or a date and {field} is of type {kind}: use eq or in")
        if not set(body) & set(BOUNDS):
            _refuse(where, f"has no bound: give at least one of {', '.join(BOUNDS)}")
        for pair in (("gt", "gte"), ("lt", "lte")):
            if set(pair) <= set(body):
                _refuse(where, f"has both {pair[0]} and {pair[1]}: give one of them")
        ends: dict[str, int | float] = {}
        for bound in BOUNDS:
            if bound in body:
                ends[bound[0]] = _closed(self._bound(body[bound], kind, f"{where}.{bound}"), kind, bound)
        return Range(field, ends.get("g"), ends.get("l"))

    def _bound(self, value: Any, kind: Kind, where: str) -> int | float:
        if kind is not Kind.INT:
            stored = self._value(value, kind, where)
            assert not isinstance(stored, str)
            return stored
        try:  # whole numbers may be compared with broken ones
            return read_number(value)
        except ValueError as error:
            _refuse(where, f"expected {error}, not {_shown(value)}")


def _closed(end: int | float, kind: Kind, bound: str) -> int | float:
    """The nearest value that the column can hold and the bound lets in."""
    if kind is Kind.FLOAT:
        return {"gt": math.nextafter(end, math.inf), "lt": math.nextafter(end, -math.inf)}.get(bound, float(end))
    return {
        "gt": math.floor(end) + 1,
        "gte": math.ceil(end),
        "lt": math.ceil(end) - 1,
        "lte": math.floor(end),
    }[bound]


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"


def _refuse(where: str, problem: str) -> NoReturn:
    raise UsageError(f"{where}: {problem}")
