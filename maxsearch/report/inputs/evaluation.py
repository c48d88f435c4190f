"""The JSON that `maxsearch evaluate --out` writes, schema version 2."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maxsearch.evaluation.embedded import OURS
from maxsearch.evaluation.weights import WeightRow
from maxsearch.report.inputs.shapes import Interval, finite, read_shape, sound

KIND, SCHEMA_VERSION = "maxsearch-evaluation", 2
REMEDY = "run `maxsearch evaluate ... --out FILE` again and give that file to --evaluation"


@dataclass(frozen=True)
class System:
    """One ranking's means over queries with their intervals, by metric; one that has no figure is not there."""

    name: str
    metrics: dict[str, Interval]
    missing_queries: int = 0


@dataclass(frozen=True)
class Comparison:
    """How far `system` lies above `against`, with p-values as they are and corrected for several comparisons."""

    system: str
    against: str
    metric: str
    mean: float
    low: float
    high: float
    p: float
    p_corrected: float


@dataclass(frozen=True)
class Slice:
    """The figures of the queries, or of the products, that share one value; systems as `System.metrics`.

    `differences` are of the same queries: each system less ours.
    """

    slice: str
    value: str
    of: str
    queries: int
    judgments: int
    metric: str
    systems: dict[str, Interval]
    differences: dict[str, Interval]


@dataclass(frozen=True)
class Caution:
    """What makes the figures doubtful, in a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Returned:
    """A product that the model ranked, in order."""

    product_id: str
    title: str
    grade: int
    score: float


@dataclass(frozen=True)
class Wanted:
    """A product that the judgments ask for, and the rank where the model has it; None when it is not among them."""

    product_id: str
    title: str
    grade: int
    rank: int | None = None


@dataclass(frozen=True)
class Worst:
    """A query that went wrong."""

    query_id: str
    query: str
    metric: str
    value: float
    returned: list[Returned]
    wanted: list[Wanted]


@dataclass(frozen=True)
class Weights:
    """How much title and image weigh, by the values of an attribute."""

    attribute: str
    rows: list[WeightRow]


@dataclass(frozen=True)
class EvaluationFile:
    """One evaluation.

    Attributes:
      systems: ours first.
      comparisons: of the other systems with ours.
      slices, warnings, worst: what their classes say.
      counts: products and judgments used, and what was left out.
      settings: what else the figures depend on.
      weights: by an attribute; None when they were not asked for.
      name: what the user calls it.
    """

    systems: list[System]
    counts: dict[str, Any]
    settings: dict[str, Any]
    comparisons: list[Comparison] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    warnings: list[Caution] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    weights: Weights | None = None
    name: str = ""

    @property
    def main(self) -> System | None:
        """The evaluated model's row."""
        return next((system for system in self.systems if system.name == OURS), next(iter(self.systems), None))

    def comparison(self, system: str, metric: str) -> Comparison | None:
        """How a system compares with ours by a metric, when that was tested."""
        return next((one for one in self.comparisons if (one.system, one.metric) == (system, metric)), None)

    def setting(self, name: str, kind: type) -> Any:
        """A setting, None when it is absent or of another type."""
        value = self.settings.get(name)
        return value if isinstance(value, kind) else None

    def count(self, name: str) -> int:
        """A count, 0 when it is absent."""
        value = self.counts.get(name)
        return value if isinstance(value, int) else 0


def read_evaluation(path: Path, name: str) -> EvaluationFile:
    """Reads an evaluation; figures that are no numbers are dropped.

    Raises:
      MaxsearchError: as `read_shape`.
    """
    found = read_shape(path, EvaluationFile, kind=KIND, version=SCHEMA_VERSION, what="evaluation", remedy=REMEDY)
    weights = found.weights
    if weights is not None:
        weights = replace(weights, rows=[row for row in weights.rows if finite(row.title, row.image)])
    return replace(
        found,
        name=name,
        systems=[replace(one, metrics=sound(one.metrics)) for one in found.systems],
        slices=[replace(one, systems=sound(one.systems), differences=sound(one.differences)) for one in found.slices],
        comparisons=[one for one in found.comparisons if finite(one.mean, one.low, one.high, one.p, one.p_corrected)],
        worst=[one for one in found.worst if finite(one.value)],
        weights=weights,
    )
