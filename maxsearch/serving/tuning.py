"""How much of a ScaNN index to search: the fastest setting that reaches a target recall.

Recall is against the exact search of the same stored vectors, judged by score: see `recall_of`.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import write_json
from maxsearch.manifest import MANIFEST
from maxsearch.serving.index import LoadedIndex
from maxsearch.serving.nearest import Rows, Scores
from maxsearch.serving.recall import recall_of
from maxsearch.serving.scann_index import Effort, ScannNearest

SECONDS = 0.2
"""How long each setting is timed."""
GROWTH = 0.001
"""Wider searches than one that adds less recall than this are not measured."""
WIDTHS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200, 320, 512, 800, 1280, 2048)
TUNED_REORDERED = (30, 50, 100, 300, 1000)


@dataclass(frozen=True)
class Measured:
    """One setting's recall and speed.

    Attributes:
      effort: the setting; its depth is the K that it was asked for.
      recall: by K.
      milliseconds: per query, one at a time, median.
      queries_per_second: all queries in one call.
    """

    effort: Effort
    recall: dict[int, float]
    milliseconds: float
    queries_per_second: float

    def to_json(self) -> dict[str, Any]:
        """As in the tuning's file."""
        return {
            "setting": setting_of(self.effort),
            **{f"recall@{k}": value for k, value in self.recall.items()},
            "milliseconds": round(self.milliseconds, 4),
            "queries_per_second": round(self.queries_per_second, 1),
        }


def setting_of(effort: Effort) -> dict[str, Any]:
    """The setting's name and value pairs."""
    if effort.leaves_to_search == 0:
        return {"exact": True}
    return {"leaves_to_search": effort.leaves_to_search, "reordered": effort.reordered}


def tune(
    index: LoadedIndex, queries: Float32[np.ndarray, "Q D"], *, target_recall: float = 0.95, k: int = 10
) -> dict[str, Any]:
    """Measures an index at many settings and keeps the fastest that reaches the target, for up to `k` results.

    The choice goes into the index's manifest, whose other content stays as it was; it holds from the next opening on.

    Args:
      index: the opened index.
      queries: unit vectors of queries.
      target_recall: the recall at `k` to reach, above 0 and at most 1.
      k: how many results searches will ask for.

    Returns:
      The tuning, as JSON.

    Raises:
      UsageError: a target or `k` out of range.
      MaxsearchError: no queries, or one that is not finite.
    """
    if not 0 < target_recall <= 1:
        raise UsageError(f"--target-recall {target_recall:g} is no recall: give a number above 0 and up to 1")
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    if len(queries) == 0 or not np.isfinite(queries).all():
        raise MaxsearchError("there are no queries with finite vectors to tune with: look at --queries and the model")
    measured = _measure_all(index, queries, k)
    reaching = [one for one in measured if one.recall[k] >= target_recall]
    chosen = min(reaching, key=lambda one: one.milliseconds)
    if isinstance(index.nearest, ScannNearest):
        _keep(index, replace(chosen.effort, recall=chosen.recall[k]), target_recall)
    return {
        "schema_version": 1,
        "kind": "maxsearch-index-tuning",
        "index": str(index.folder),
        "count": len(index.items),
        "dim": index.manifest["dim"],
        "queries": len(queries),
        "target_recall": target_recall,
        "k": k,
        "chosen": setting_of(chosen.effort),
        "settings": [one.to_json() for one in measured],
    }


def clock(
    search: Callable[[Float32[np.ndarray, "Q D"]], Any], queries: Float32[np.ndarray, "Q D"]
) -> tuple[float, float]:
    """Milliseconds of a query on its own (median), and queries per second when all are asked in one call."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 10 or time.perf_counter() - start < SECONDS:
        row = len(times) % len(queries)
        before = time.perf_counter()
        search(queries[row : row + 1])
        times.append(time.perf_counter() - before)
    rounds, start = 0, time.perf_counter()
    while rounds < 1 or time.perf_counter() - start < SECONDS:
        search(queries)
        rounds += 1
    return float(np.median(times)) * 1e3, rounds * len(queries) / (time.perf_counter() - start)


def _measure_all(index: LoadedIndex, queries: Float32[np.ndarray, "Q D"], k: int) -> list[Measured]:
    exact = index.vectors.exact()
    depths = sorted({10, 100, k})
    truth = {depth: exact.search(queries, min(depth, len(index.vectors)))[1] for depth in depths}

    def measure(effort: Effort, search: Callable[[Float32[np.ndarray, "Q D"], int], Any]) -> Measured:
        recall = {}
        for depth in depths:
            rows, _ = search(queries, depth)
            recall[depth] = round(recall_of(rows, queries, index.vectors, truth[depth]), 4)
        return Measured(effort, recall, *clock(lambda some: search(some, k), queries))

    found = [measure(Effort(k, 0, 0, 1.0), exact.search)]
    nearest = index.nearest
    if isinstance(nearest, ScannNearest):
        leaves = index.manifest["index"]["leaves"]
        for reordered in TUNED_REORDERED:
            if reordered < k or reordered > len(index.vectors):
                continue
            best = 0.0
            for width in (*(width for width in WIDTHS if width < leaves), leaves):
                effort = Effort(k, width, reordered, 1.0)
                one = measure(effort, partial(_search, nearest, effort))
                found.append(one)
                if one.recall[k] < best + GROWTH or one.milliseconds > found[0].milliseconds:
                    break
                best = one.recall[k]
    return found


def _search(nearest: ScannNearest, effort: Effort, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
    return nearest.search_with(queries, k, effort)


def _keep(index: LoadedIndex, effort: Effort, target_recall: float) -> None:
    kept = [one for one in index.manifest["index"]["efforts"] if one["depth"] != effort.depth]
    efforts = sorted([*kept, asdict(effort)], key=lambda one: one["depth"])
    described = {**index.manifest["index"], "efforts": efforts, "target_recall": target_recall}
    write_json(index.folder / MANIFEST, {**index.manifest, "index": described})


def print_tuning(tuning: dict[str, Any], console: Console | None = None) -> None:
    """Prints a tuning as a table, the choice marked."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    names = [name for name in tuning["settings"][0] if name != "setting"]
    for name in ("", "leaves", "reordered", *names):
        table.add_column(name.replace("_", " "), justify="right")
    for one in tuning["settings"]:
        setting = one["setting"]
        leaves = "all" if setting.get("exact") else str(setting["leaves_to_search"])
        table.add_row(
            "*" if setting == tuning["chosen"] else "",
            leaves,
            str(setting.get("reordered", "")),
            *(f"{one[name]:,.0f}" if name == "queries_per_second" else f"{one[name]:.4f}" for name in names),
        )
    (console or Console()).print(table)
