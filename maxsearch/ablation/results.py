"""What a ladder found so far: per rung the means over its seeds, and the paired difference to another rung.

S seeds, Q queries.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from maxsearch.ablation.jobs import Plan
from maxsearch.ablation.ladder import Part, Rung
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.bootstrap import RESAMPLES, Interval, bootstrap
from maxsearch.evaluation.comparison import Difference, holm, paired_differences
from maxsearch.evaluation.embedded import IMAGE_ONLY, OURS, TEXT_ONLY

METRICS = ("ndcg@10", "recall@100")
SYSTEMS: dict[Part, str] = {"product": OURS, "title": TEXT_ONLY, "image": IMAGE_ONLY}
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RungResult:
    """One rung's figures over the seeds that are finished.

    Attributes:
      rung: the rung.
      run: whose runs it reads: its own name, or that of an earlier rung of equal config and data.
      seeds: the finished ones.
      by_seed: per metric, the mean over queries of each of those seeds.
      means: per metric, the mean over seeds and queries with its bootstrap interval over queries (of each query's mean
        over seeds); empty without a finished seed.
      differences: per metric, the rung less the one that it is compared with, over the seeds that both have finished;
        empty when there are none, or nothing to compare with.
      corrected: per metric, the p-value of the difference after Holm's correction over all rungs that are compared.
      minutes: training time of each finished seed.
    """

    rung: Rung
    run: str
    seeds: list[int]
    by_seed: dict[str, list[float]]
    means: dict[str, Interval]
    differences: dict[str, Difference]
    corrected: dict[str, float]
    minutes: list[float]

    def spread(self, metric: str) -> float | None:
        """Standard deviation over seeds (n - 1); None with fewer than two."""
        return float(np.std(self.by_seed[metric], ddof=1)) if len(self.seeds) > 1 else None

    def to_json(self, wanted: int) -> dict[str, Any]:
        """The figures as plain JSON values; `wanted` seeds make it complete."""
        return {
            "name": self.rung.name,
            "part": self.rung.part,
            "data": self.rung.data,
            "against": self.rung.against,
            "run": self.run,
            "seeds": self.seeds,
            "complete": len(self.seeds) == wanted,
            "training_minutes": self.minutes,
            "metrics": {
                metric: {
                    **asdict(self.means[metric]),
                    "by_seed": self.by_seed[metric],
                    "sd": self.spread(metric),
                    "difference": {**asdict(self.differences[metric]), "p_corrected": self.corrected[metric]}
                    if self.differences
                    else None,
                }
                for metric in self.means
            },
        }


@dataclass(frozen=True)
class Results:
    """The ladder's rungs in order, and what their figures rest on."""

    plan: Plan
    rungs: list[RungResult]
    queries: int
    products: int
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The value of ablation.json; `failed` has a sentence per run that did."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "maxsearch-ablation",
            "seeds": list(self.plan.seeds),
            "data": self.plan.data,
            "queries": self.queries,
            "products": self.products,
            "interval": {
                "level": 0.95,
                "resamples": RESAMPLES,
                "mean": "percentile bootstrap over queries of each query's mean over seeds",
                "difference": "the same of each query's difference, seed by seed; p by paired randomisation of signs",
            },
            "rungs": [rung.to_json(len(self.plan.seeds)) for rung in self.rungs],
            "failed": self.failed,
        }


class Collector:
    """Reads the figures of finished runs, each file once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._read: dict[tuple[str, int], dict[str, Any]] = {}
        self._queries: list[str] = []
        self._products = 0

    def collect(self, failed: dict[str, str]) -> Results:
        """The results as they stand; `failed` says by run what went wrong.

        Raises:
          MaxsearchError: figures are broken, or of other queries than the rest.
        """
        values = {rung.name: self._values(rung) for rung in self._plan.rungs}
        columns: list[Float64[np.ndarray, " Q"]] = []
        for rung in self._plan.rungs:
            ours, theirs = values[rung.name], values.get(rung.against or "", {})
            common = [seed for seed in ours if seed in theirs]
            for metric in METRICS:
                if common:
                    columns.append(np.mean([ours[seed][metric] - theirs[seed][metric] for seed in common], axis=0))
        differences = paired_differences(np.stack(columns, axis=1)) if columns else []
        families = [holm([one.p for one in differences[place :: len(METRICS)]]) for place in range(len(METRICS))]
        found, corrected = iter(differences), [iter(family) for family in families]
        results = []
        for rung in self._plan.rungs:
            ours = values[rung.name]
            compared = any(seed in values.get(rung.against or "", {}) for seed in ours)
            results.append(
                RungResult(
                    rung=rung,
                    run=self._plan.job(rung.name, self._plan.seeds[0]).rungs[0],
                    seeds=list(ours),
                    by_seed={m: [float(ours[seed][m].mean()) for seed in ours] for m in METRICS},
                    means=_means(ours),
                    differences={metric: next(found) for metric in METRICS} if compared else {},
                    corrected={m: next(p) for m, p in zip(METRICS, corrected, strict=True)} if compared else {},
                    minutes=[self._figures(rung, seed)["training"]["seconds"] / 60 for seed in ours],
                )
            )
        return Results(self._plan, results, len(self._queries), self._products, failed)

    def _values(self, rung: Rung) -> dict[int, dict[str, Float64[np.ndarray, " Q"]]]:
        """Per finished seed and metric, every query's value of the rung's part."""
        values = {}
        for seed in self._plan.seeds:
            if self._plan.job(rung.name, seed).finished:
                systems = {system["name"]: system for system in self._figures(rung, seed)["systems"]}
                name = SYSTEMS[rung.part]
                if name not in systems:
                    raise MaxsearchError(
                        f"rung {rung.name!r} ranks by the {rung.part} and no product of the evaluated catalogue has "
                        "one: give --products and --map of a catalogue that does, or take the rung out"
                    )
                values[seed] = {metric: np.array(systems[name]["per_query"][metric]) for metric in METRICS}
        return values

    def _figures(self, rung: Rung, seed: int) -> dict[str, Any]:
        job = self._plan.job(rung.name, seed)
        key = (job.rungs[0], seed)
        if key not in self._read:
            figures = job.figures()
            if self._queries and figures["queries"] != self._queries:
                raise MaxsearchError(
                    f"{job.folder} was evaluated on other queries than the rest: give --redo {key[0]!r}"
                )
            self._queries, self._products = figures["queries"], figures["counts"]["products"]
            self._read[key] = figures
        return self._read[key]


def _means(values: dict[int, dict[str, Float64[np.ndarray, " Q"]]]) -> dict[str, Interval]:
    if not values:
        return {}
    columns = [np.mean([seed[metric] for seed in values.values()], axis=0) for metric in METRICS]
    return dict(zip(METRICS, bootstrap(np.stack(columns, axis=1)), strict=True))
