"""The ablation.json that `maxsearch ablate` writes."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from maxsearch.ablation.results import SCHEMA_VERSION
from maxsearch.report.inputs.shapes import Interval, finite, read_shape

FILE, KIND = "ablation.json", "maxsearch-ablation"
REMEDY = "run `maxsearch ablate LADDER ... --out DIR` again and give that folder to --ablation"


@dataclass(frozen=True)
class RungDifference(Interval):
    """The paired difference to another rung, with its p-value as it is, and corrected where that was done."""

    p: float
    p_corrected: float | None = None


@dataclass(frozen=True)
class RungMetric:
    """One metric of a rung: mean over seeds and queries with its interval, every seed's, and the paired difference."""

    mean: float
    low: float
    high: float
    by_seed: list[float]
    sd: float | None
    difference: RungDifference | None

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class RungFile:
    """One rung; `against` is the rung of its differences, empty for none."""

    name: str
    part: str
    against: str | None
    seeds: list[int]
    complete: bool
    training_minutes: list[float]
    metrics: dict[str, RungMetric]


@dataclass(frozen=True)
class AblationFile:
    """One ladder; `failed` has a sentence per run that did, and `name` is what the user calls it."""

    seeds: list[int]
    queries: int
    products: int
    rungs: list[RungFile]
    failed: dict[str, str] = field(default_factory=dict)
    name: str = ""


def read_ablation(folder: Path, name: str) -> AblationFile:
    """Reads a ladder's figures; those that are no numbers are dropped.

    Args:
      folder: the ladder's folder, or its ablation.json.
      name: what the user calls it.

    Raises:
      MaxsearchError: as `read_shape`.
    """
    path = folder / FILE if folder.is_dir() else folder
    found = read_shape(path, AblationFile, kind=KIND, version=SCHEMA_VERSION, what="ablation", remedy=REMEDY)
    return replace(found, name=name, rungs=[replace(rung, metrics=_sound(rung)) for rung in found.rungs])


def _sound(rung: RungFile) -> dict[str, RungMetric]:
    kept = {}
    for name, one in rung.metrics.items():
        if finite(one.mean, one.low, one.high, *one.by_seed):
            found = one.difference
            whole = found is not None and finite(found.mean, found.low, found.high, found.p, found.p_corrected or 0)
            kept[name] = replace(one, difference=found if whole else None)
    return kept
