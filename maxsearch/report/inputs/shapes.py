"""JSON files of another command as dataclasses, refused in one sentence when they are something else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dacite

from maxsearch.errors import MaxsearchError
from maxsearch.files import read_json

T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def read_shape(path: Path, shape: type[T], *, kind: str, version: int, what: str, remedy: str) -> T:
    """Reads a JSON file into a dataclass; keys that it does not have are left out, and null is as absent.

    Args:
      path: the file.
      shape: the dataclass; its floats take whole numbers too.
      kind, version: what the file's `kind` and `schema_version` must be.
      what: its role in words, for messages ("evaluation").
      remedy: what a user does when it is absent or broken.

    Raises:
      MaxsearchError: the file is absent, no JSON, of another kind or version, or lacks a value.
    """
    if path.is_dir():
        raise MaxsearchError(f"the {what} {path} is a folder: {remedy}")
    value = read_json(path, what=what, remedy=remedy)
    found = value.get("kind") if isinstance(value, dict) else None
    if found != kind:
        raise MaxsearchError(f"{path} is no {what} (its kind is {found!r}, not {kind!r}): {remedy}")
    if value.get("schema_version") != version:
        raise MaxsearchError(
            f"the {what} {path} has schema version {value.get('schema_version')!r} and this maxsearch reads version "
            f"{version}: {remedy}"
        )
    try:
        return dacite.from_dict(shape, _without_nulls(value), dacite.Config(type_hooks={float: number}))
    except dacite.DaciteError as error:
        raise MaxsearchError(f"the {what} {path} is damaged ({str(error)[:300]}): {remedy}") from None


def sound(intervals: Mapping[str, Interval]) -> dict[str, Interval]:
    """The intervals whose numbers are numbers: a figure that could not be computed is as one that is not there."""
    return {name: one for name, one in intervals.items() if finite(one.mean, one.low, one.high)}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def finite(*values: float) -> bool:
    """Whether every value is neither NaN nor infinite."""
    return all(map(math.isfinite, values))


def number(value: Any) -> Any:
    """A whole number as a float, infinite when it has no place in one; anything else as it is."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf
