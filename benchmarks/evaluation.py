"""What the figures of an evaluation cost beside the ranking: metrics, intervals, comparisons, AUC and slices.

    python benchmarks/evaluation.py --queries 869 10000 100000 --systems 8

Draws rankings and judgments of that size and prints one JSON line per number of queries: seconds of each part, and the
largest resident memory of the process so far.
"""

import argparse
import json
import resource
import time

import numpy as np

from maxsearch.evaluation.auc import auc_values
from maxsearch.evaluation.bootstrap import bootstrap
from maxsearch.evaluation.comparison import compare
from maxsearch.evaluation.metrics import PER_QUERY, Relevance, score
from maxsearch.evaluation.slice_figures import depth, slice_rows
from maxsearch.evaluation.slices import Slicing

PRODUCTS = 100_000
JUDGED = 50  # products for each query
RANKS = 100
PARTS = 10


def measure(queries: int, systems: int) -> dict[str, float]:
    """Seconds by part."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, PRODUCTS, size=(queries, JUDGED))
    keys = np.unique(rows + np.arange(queries)[:, None] * PRODUCTS)
    grades = rng.integers(1, 3, size=len(keys))
    relevance = Relevance.of_keys(keys, grades, queries, PRODUCTS, relevant_grade=1)
    K = depth(RANKS, queries)
    ranked = {}
    for number in range(systems):
        ranking = rng.integers(0, PRODUCTS, size=(queries, K), dtype=np.int32)
        ranking[:, : JUDGED * (systems - number) // systems] = rows[:, : JUDGED * (systems - number) // systems]
        ranked["ours" if number == 0 else f"system {number}"] = ranking
    seconds = {}

    def timed(name: str, started: float) -> None:
        seconds[name] = round(time.perf_counter() - started, 3)

    start = time.perf_counter()
    values = {name: score(ranking[:, :RANKS], relevance) for name, ranking in ranked.items()}
    timed("metrics", start)
    start = time.perf_counter()
    bootstrap(np.stack([column for of in values.values() for column in of.values()], axis=1))
    timed("intervals", start)
    start = time.perf_counter()
    compare(values, "ours", PER_QUERY)
    timed("comparisons", start)
    start = time.perf_counter()
    query = np.repeat(np.arange(queries), 2 * JUDGED)
    positive = np.arange(len(query)) % 2 == 0
    for _ in range(systems):
        auc_values(rng.random(len(query), dtype=np.float32), positive, query, queries)
    timed("auc", start)
    start = time.perf_counter()
    cut = [
        Slicing("of queries", "queries", tuple(map(str, range(PARTS))), rng.integers(0, PARTS, queries)),
        Slicing("of products", "products", tuple(map(str, range(PARTS))), rng.integers(0, PARTS, len(keys))),
    ]
    slice_rows(cut, ranked, {name: of["ndcg@10"] for name, of in values.items()}, relevance)
    timed("slices", start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, nargs="+", default=[869, 10_000, 100_000])
    parser.add_argument("--systems", type=int, default=8)
    options = parser.parse_args()
    for queries in options.queries:
        seconds = measure(queries, options.systems)
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
        line = {"queries": queries, "systems": options.systems, "seconds": seconds, "peak_mb": peak}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
