"""Raising or lowering products: by a filter that they meet, or by the value of a number.

A product's score s becomes s * f + a, with f the product of the factors and a the sum of the additions that apply to
it. A negative score is divided by f instead, so that a factor above 1 always raises and one below 1 always lowers, and
two products with the same boosts keep their order. Ours; search engines differ here, most of them have no negative
scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from maxsearch.errors import UsageError
from maxsearch.serving.filters.column_types import Numbers
from maxsearch.serving.filters.kinds import Kind, read_value
from maxsearch.serving.filters.masks import MaskCache
from maxsearch.serving.filters.parse import known_field, parse_filter
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.tree import Node

MOST = 20
LARGEST_FACTOR, LARGEST_ADDITION = 100.0, 100.0


@dataclass(frozen=True)
class FilterBoost:
    """Applies to products that a filter keeps: the factor multiplies their score, then the addition is added."""

    when: Node
    factor: float = 1.0
    add: float = 0.0


@dataclass(frozen=True)
class FieldBoost:
    """Adds `weight` times the field's value, scaled so that `low` gives 0 and `high` 1; missing values add 0."""

    field: str
    low: float
    high: float
    weight: float


Boost: TypeAlias = FilterBoost | FieldBoost


def parse_boosts(value: Any, kinds: Mapping[str, Kind], *, where: str = "boosts") -> tuple[Boost, ...]:
    """Reads a list of {"filter", "factor", "add"} and {"field", "low", "high", "weight"}; null means none.

    Raises:
      UsageError: it is malformed; the message begins with the place.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST:
        raise UsageError(f"{where}: expected a list of at most {MOST} boosts")
    return tuple(_boost(boost, kinds, f"{where}[{i}]") for i, boost in enumerate(value))


def _boost(value: Any, kinds: Mapping[str, Kind], where: str) -> Boost:
    if isinstance(value, dict) and "filter" in value and not set(value) - {"filter", "factor", "add"}:
        when = parse_filter(value["filter"], kinds, where=f"{where}.filter")
        if when is None:
            raise UsageError(f"{where}.filter: a boost of every product changes nothing: give a filter")
        factor = _number(value.get("factor", 1.0), 1 / LARGEST_FACTOR, LARGEST_FACTOR, f"{where}.factor")
        return FilterBoost(
            when, factor, _number(value.get("add", 0.0), -LARGEST_ADDITION, LARGEST_ADDITION, f"{where}.add")
        )
    if isinstance(value, dict) and set(value) == {"field", "low", "high", "weight"}:
        field, kind = known_field(value["field"], kinds, f"{where}.field")
        if not kind.ordered:
            raise UsageError(f"{where}.field: needs a number or a date and {field} is of type {kind}")
        ends = []
        for end in ("low", "high"):
            try:
                ends.append(float(read_value(value[end], Kind.FLOAT if kind is Kind.INT else kind)))
            except ValueError as error:
                raise UsageError(f"{where}.{end}: expected {error}") from None
        if ends[0] >= ends[1]:
            raise UsageError(f"{where}: low must be below high")
        weight = _number(value["weight"], -LARGEST_ADDITION, LARGEST_ADDITION, f"{where}.weight")
        return FieldBoost(field, ends[0], ends[1], weight)
    raise UsageError(
        f"{where}: expected an object with filter and factor or add, or one with field, low, high and weight"
    )


def _number(value: Any, low: float, high: float, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{where}: expected a number from {low:g} to {high:g}")
    return float(value)


@dataclass(frozen=True)
class Boosted:
    """What boosts do to the rows of one segment.

    Attributes:
      factors, additions: one per row.
    """

    factors: Float64[np.ndarray, " N"]
    additions: Float64[np.ndarray, " N"]

    @classmethod
    def of(cls, boosts: Sequence[Boost], segment: Segment, cache: MaskCache) -> "Boosted | None":
        """What they do to a segment's rows; None without boosts."""
        if not boosts:
            return None
        factors, additions = np.ones(len(segment)), np.zeros(len(segment))
        for boost in boosts:
            if isinstance(boost, FilterBoost):
                mask = cache.get(segment.key, boost.when, segment.columns)
                factors[mask] *= boost.factor
                additions[mask] += boost.add
            else:
                column = segment.columns[boost.field]
                assert isinstance(column, Numbers)
                share = np.clip((column.values - boost.low) / (boost.high - boost.low), 0, 1)
                additions += np.where(column.present, boost.weight * share, 0.0)
        return cls(factors, additions)

    def apply(self, rows: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Boosted scores of these rows."""
        factors = self.factors[rows]
        return np.where(scores >= 0, scores * factors, scores / factors) + self.additions[rows]

    def ceiling(self, score: float) -> float:
        """The most that a row can get whose own score is at most `score`."""
        if not len(self.factors):
            return -math.inf
        factor = self.factors.max()
        return float((score * factor if score >= 0 else score / factor) + self.additions.max())

    def spread(self, error: float) -> float:
        """The most by which an error in a score can move a boosted one."""
        widest = max(self.factors.max(initial=1.0), 1 / self.factors.min(initial=1.0))
        return float(error * widest)
