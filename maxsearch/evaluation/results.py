"""What an evaluation found: one row of figures per system, what tells them apart, slices, and what they rest on."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from maxsearch.evaluation.bootstrap import Interval
from maxsearch.evaluation.comparison import Comparison
from maxsearch.evaluation.weights import WeightRow

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class SystemRow:
    """One ranking's figures.

    Attributes:
      name: "ours", "ours, text only", "ours, image only", that of a baseline, or the name of a run file.
      metrics: per metric, the mean over the evaluated queries with its interval; None where the system does not have
        it (ROC-AUC where it scores no pairs).
      per_query: per metric but ROC-AUC, one value per evaluated query.
      missing_queries: evaluated queries for which nothing is ranked; they score 0.
    """

    name: str
    metrics: dict[str, Interval | None]
    per_query: dict[str, Float64[np.ndarray, " Q"]]
    missing_queries: int = 0

    def mean(self, metric: str) -> float | None:
        """The mean of one metric."""
        interval = self.metrics[metric]
        return None if interval is None else interval.mean


@dataclass(frozen=True)
class SliceRow:
    """A part of the queries or of the products, and each system's nDCG@10 on it.

    Attributes:
      slice: by what is cut.
      value: which part.
      of: "queries" or "products".
      queries: how many are averaged over.
      judgments: of relevant products in the part.
      left_out: queries that are not averaged over because a system's ranks end before ten are left.
      few: whether there are too few queries to say much.
      systems: the figures; a TREC run that ends too early for the part is left out.
      differences: each other system less ours on the same queries, with its paired interval.
    """

    slice: str
    value: str
    of: str
    queries: int
    judgments: int
    left_out: int
    few: bool
    systems: dict[str, Interval]
    differences: dict[str, Interval]


@dataclass(frozen=True)
class Shown:
    """A product in the account of a query.

    Attributes:
      product_id, title: what a reader knows it by.
      grade: its grade for the query; 0 when it is not judged.
      score: our score; None where a product is wanted and not returned.
      rank: our rank, from 1; None below the ranks that were looked at.
    """

    product_id: str
    title: str
    grade: int
    score: float | None
    rank: int | None


@dataclass(frozen=True)
class Worst:
    """A query that we answer badly: what came first, and what should have."""

    query_id: str
    query: str
    value: float
    returned: list[Shown]
    wanted: list[Shown]


@dataclass(frozen=True)
class Warned:
    """A doubt about the figures: a code for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """The table, and what it was computed from.

    Attributes:
      rows: one per system, ours first.
      queries: identifiers of the evaluated queries, in the order of `per_query`.
      counts: products and judgments used, and queries and rows left out, by reason.
      settings: what else the figures depend on.
      comparisons: every other system less ours.
      slices: parts of the queries and products.
      warnings: doubts about the figures.
      worst: the queries that we answer worst.
      weights: mean modality weights by value of an attribute; None when they were not asked for.
    """

    rows: list[SystemRow]
    queries: list[str]
    counts: dict[str, Any]
    settings: dict[str, Any]
    comparisons: list[Comparison] = field(default_factory=list)
    slices: list[SliceRow] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    weights: list[WeightRow] | None = None

    def to_json(self, *, per_query: bool = False) -> dict[str, Any]:
        """The figures as plain JSON values; with `per_query`, also every query's."""
        systems = []
        for row in self.rows:
            system: dict[str, Any] = {
                "name": row.name,
                "metrics": {name: _interval(interval) for name, interval in row.metrics.items()},
                "missing_queries": row.missing_queries,
            }
            if per_query:
                system["per_query"] = {name: values.tolist() for name, values in row.per_query.items()}
            systems.append(system)
        by = self.settings.get("weights_by")
        result = {
            "schema_version": SCHEMA_VERSION,
            "kind": "maxsearch-evaluation",
            "systems": systems,
            "comparisons": [
                {
                    "system": one.system,
                    "against": one.against,
                    "metric": one.metric,
                    **asdict(one.difference),
                    "p_corrected": one.p_corrected,
                }
                for one in self.comparisons
            ],
            "slices": [{**asdict(row), "metric": "ndcg@10"} for row in self.slices],
            "warnings": [asdict(warning) for warning in self.warnings],
            "worst": [
                {
                    "query_id": one.query_id,
                    "query": one.query,
                    "metric": "ndcg@10",
                    "value": one.value,
                    "returned": [_shown(product, "score") for product in one.returned],
                    "wanted": [_shown(product, "rank") for product in one.wanted],
                }
                for one in self.worst
            ],
            "counts": self.counts,
            "settings": self.settings,
            "weights": None
            if self.weights is None
            else {"attribute": by, "rows": [asdict(row) for row in self.weights]},
        }
        if per_query:
            result["queries"] = self.queries
        return result

    def row(self, name: str) -> SystemRow:
        """The system of that name.

        Raises:
          KeyError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def _shown(product: Shown, last: str) -> dict[str, Any]:
    value = {"product_id": product.product_id, "title": product.title, "grade": product.grade}
    return value | {last: getattr(product, last)}
