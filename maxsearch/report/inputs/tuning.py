"""The JSON that `maxsearch index tune --out` writes."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxsearch.report.inputs.shapes import number, read_shape

KIND, SCHEMA_VERSION = "maxsearch-index-tuning", 1
REMEDY = "run `maxsearch index tune ... --out FILE` again and give that file to --tuning"
RECALL = re.compile(r"recall@([0-9]{1,6})")


@dataclass(frozen=True)
class _File:
    count: int
    queries: int
    target_recall: float
    k: int
    chosen: dict[str, Any] | None
    settings: list[dict[str, Any]]
    dim: int = 0


@dataclass(frozen=True)
class Measured:
    """One setting of the index.

    Attributes:
      setting: by name.
      recalls: share of the exact search's products that it finds, by "recall@10" and the like.
      milliseconds: of a single query.
      queries_per_second: in batches; None when it was not measured.
      chosen: whether the index was set to it.
    """

    setting: dict[str, Any]
    recalls: dict[str, float]
    milliseconds: float
    queries_per_second: float | None
    chosen: bool

    @property
    def said(self) -> str:
        """The setting in words."""
        return ", ".join(f"{name} {value}" for name, value in self.setting.items()) or "as it is"


@dataclass(frozen=True)
class Tuning:
    """What was measured of an index of `count` vectors of `dim` numbers, with `queries` queries."""

    count: int
    dim: int
    queries: int
    target_recall: float
    k: int
    measured: list[Measured] = field(default_factory=list)

    @property
    def recalls(self) -> list[str]:
        """The recalls that were measured, that of the fewest products first."""
        names = {name for one in self.measured for name in one.recalls}
        return sorted(names, key=lambda name: int(name.partition("@")[2]))

    @property
    def metric(self) -> str:
        """The recall that the target speaks of."""
        return f"recall@{self.k}"


def read_tuning(path: Path) -> Tuning:
    """Reads a tuning; settings whose time is no number above 0 are dropped.

    Raises:
      MaxsearchError: as `read_shape`.
    """
    found = read_shape(path, _File, kind=KIND, version=SCHEMA_VERSION, what="index tuning", remedy=REMEDY)
    measured = [_measured(one, found.chosen) for one in found.settings]
    return Tuning(
        count=found.count,
        dim=found.dim,
        queries=found.queries,
        target_recall=found.target_recall,
        k=found.k,
        measured=[one for one in measured if one is not None],
    )


def _measured(one: dict[str, Any], chosen: dict[str, Any] | None) -> Measured | None:
    time, pace, setting = _number(one.get("milliseconds")), _number(one.get("queries_per_second")), one.get("setting")
    recalls = {
        name: found for name, value in one.items() if RECALL.fullmatch(name) and (found := _number(value)) is not None
    }
    if not time or time < 0 or not recalls or not isinstance(setting, dict):
        return None
    return Measured(setting, recalls, time, pace, setting == chosen)


def _number(value: Any) -> float | None:
    value = number(value)
    return value if isinstance(value, float) and math.isfinite(value) else None
