"""What an evaluation found: one row of figures per system, and what they rest on."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from maxsearch.evaluation.metrics import Interval
from maxsearch.evaluation.weights import WeightRow

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SystemRow:
    """One ranking's figures.

    Attributes:
      name: "ours", "ours, text only", "ours, image only", "BM25", "random", or the name of a run file.
      metrics: per metric, the mean over the evaluated queries with its interval.
      per_query: per metric, one value per evaluated query.
      missing_queries: evaluated queries for which a run file lists nothing; they score 0.
    """

    name: str
    metrics: dict[str, Interval]
    per_query: dict[str, Float64[np.ndarray, " Q"]]
    missing_queries: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The table, and what it was computed from.

    Attributes:
      rows: one per system, ours first.
      queries: identifiers of the evaluated queries, in the order of `per_query`.
      counts: products and judgments used, and queries and rows left out, by reason.
      settings: what else the figures depend on.
      weights: mean modality weights by value of an attribute; None when they were not asked for.
    """

    rows: list[SystemRow]
    queries: list[str]
    counts: dict[str, Any]
    settings: dict[str, Any]
    weights: list[WeightRow] | None = None

    def to_json(self, *, per_query: bool = False) -> dict[str, Any]:
        """The figures as plain JSON values; with `per_query`, also every query's."""
        systems = []
        for row in self.rows:
            system: dict[str, Any] = {
                "name": row.name,
                "metrics": {name: asdict(interval) for name, interval in row.metrics.items()},
                "missing_queries": row.missing_queries,
            }
            if per_query:
                system["per_query"] = {name: values.tolist() for name, values in row.per_query.items()}
            systems.append(system)
        result = {
            "schema_version": SCHEMA_VERSION,
            "kind": "maxsearch-evaluation",
            "systems": systems,
            "counts": self.counts,
            "settings": self.settings,
        }
        if self.weights is not None:
            result["weights"] = [asdict(row) for row in self.weights]
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
