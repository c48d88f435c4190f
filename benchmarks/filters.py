"""Filtered searches over made-up clustered vectors: masks, exact scans and over-fetching; JSON lines.

OPENBLAS_NUM_THREADS=1 python benchmarks/filters.py --folder FOLDER --rows 100000
OPENBLAS_NUM_THREADS=1 python benchmarks/filters.py --folder FOLDER --rows 1000000

The vectors and their ScaNN index are made when FOLDER holds none of that size, and kept (1.3 GB for a million).
"ways" are measured for one query at a time in one thread, as medians: "scan" reads the rows that the filter keeps,
"over-fetch" asks ScaNN until k are left, "planner" takes what its measured costs say is cheaper. The filter is a range
of a number that has nothing to do with the vectors, and "recall" is that of the k best under it.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maxsearch.manifest import MANIFEST
from maxsearch.serving.filters.columns import VARIANT, Columns
from maxsearch.serving.filters.costs import measure
from maxsearch.serving.filters.facets import Facet, count_facets
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.filters.masks import MaskCache, matches
from maxsearch.serving.filters.parse import parse_filter
from maxsearch.serving.filters.planner import Plan
from maxsearch.serving.filters.segments import Segment
from maxsearch.serving.filters.vector_table import ArrayVectors
from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import Item, items_table
from maxsearch.serving.nearest import Nearest

SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
CLUSTERS, NOISE = 2000, 0.9
KINDS = {
    VARIANT: Kind.TEXT,
    "price": Kind.FLOAT,
    "brand": Kind.TEXT,
    "category": Kind.PATH,
    "in_stock": Kind.BOOL,
    "tags": Kind.LIST,
}
FILTERS: dict[str, Any] = {
    "range, half": {"range": {"field": "price", "lt": 0.5}},
    "range, 1 in 1000": {"range": {"field": "price", "lt": 0.001}},
    "brand is one of 3 (of 2000)": {"in": {"field": "brand", "values": ["brand 1", "brand 2", "brand 3"]}},
    "in stock (9 of 10)": {"eq": {"field": "in_stock", "value": True}},
    "category prefix (1 in 10)": {"prefix": {"field": "category", "path": "level 1"}},
    "tag (1 in 20)": {"eq": {"field": "tags", "value": "tag 3"}},
    "and of five, with or and not": {
        "and": [
            {"prefix": {"field": "category", "path": "level 1"}},
            {"eq": {"field": "in_stock", "value": True}},
            {"range": {"field": "price", "gte": 0.2, "lt": 0.7}},
            {"not": {"in": {"field": "brand", "values": ["brand 1", "brand 2"]}}},
            {"or": [{"eq": {"field": "tags", "value": "tag 3"}}, {"missing": {"field": "tags"}}]},
        ]
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--only-build", action="store_true", help="make the index and stop")
    flags = parser.parse_args()
    vectors, scann = index(flags.folder / f"{flags.rows}x{flags.dim}", flags.rows, flags.dim)
    if flags.only_build:
        return
    shared = {"rows": flags.rows, "dim": flags.dim}
    columns = made_up_columns(flags.rows)
    print(json.dumps({"benchmark": "prepare", **shared, "ms": milliseconds(columns.prepare, 1)}), flush=True)
    table = ArrayVectors(vectors)
    for name, value in FILTERS.items():
        node = parse_filter(value, KINDS)
        assert node is not None
        kept = int(matches(node, columns).sum())
        again = milliseconds(lambda node=node: matches(node, columns), 15)
        line = {"benchmark": "mask", "filter": name, **shared, "kept": kept, "ms": again}
        print(json.dumps(line), flush=True)

    queries = clustered(flags.queries, flags.dim, seed=2)
    costs = measure(table, scann, clustered(20, flags.dim, seed=5))
    told = {name: round(value, 4) for name, value in asdict(costs).items()}
    print(json.dumps({"benchmark": "costs", **shared, **told}), flush=True)
    cache = MaskCache()
    ways = {
        "scan": None,
        "over-fetch": replace(costs, scan=1e12, depth=flags.rows),
        "planner": costs,
    }
    for share in SHARES:
        keep = parse_filter({"range": {"field": "price", "lt": share}}, KINDS)
        truth: list[set[int]] = []
        for name, way in ways.items():
            base = Segment("bench", columns, table, scann, exact=False, costs=way)
            times, found = [], []
            for query in queries:
                start = time.perf_counter()
                found.append(Plan.make([base], query, cache=cache, keep=keep).ranking(flags.k))
                times.append(time.perf_counter() - start)
            results = [set(ranking.rows.tolist()) for ranking in found]
            truth = truth or results  # the scan's
            hits = sum(len(result & best) for result, best in zip(results, truth, strict=True))
            line = {
                "benchmark": "search",
                "way": name,
                "selectivity": share,
                **shared,
                "k": flags.k,
                "ms": round(float(np.median(times)) * 1e3, 3),
                "p95_ms": round(float(np.quantile(times, 0.95)) * 1e3, 3),
                "recall": round(hits / max(sum(map(len, truth)), 1), 4),
                "exact": sum(ranking.exact for ranking in found) / len(found),
                "scanned": float(np.mean([ranking.scanned for ranking in found])),
                "fetched": float(np.mean([ranking.fetched for ranking in found])),
            }
            print(json.dumps(line), flush=True)
    base = Segment("bench", columns, table, scann, exact=False, costs=costs)
    for field in ("brand", "category", "in_stock", "tags"):
        for share in (1.0, 0.01):
            keep = parse_filter({"range": {"field": "price", "lt": share}}, KINDS)
            elapsed = milliseconds(lambda f=field, n=keep: count_facets([Facet(f)], [base], n, cache), 9)
            print(json.dumps({"benchmark": "facet", "field": field, "selectivity": share, **shared, "ms": elapsed}))


def clustered(count: int, dim: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, 100_000):
        part = vectors[start : start + 100_000]
        part[:] = centres[rng.integers(CLUSTERS, size=len(part))]
        part += NOISE * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def index(folder: Path, rows: int, dim: int) -> tuple[np.ndarray, Nearest]:
    if not (folder / MANIFEST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "source.npy", clustered(rows, dim, seed=1))
        items = items_table(Item(str(row), "", "", {}) for row in range(rows))
        options = IndexOptions("scann", lexical=False)
        write_index(folder, [items], folder / "source.npy", clustered(100, dim, seed=3), "f" * 64, options)
    opened = open_index(folder, checksums=False)
    print(json.dumps({"benchmark": "index", "rows": rows, "dim": dim, **opened.manifest["recall"]}), flush=True)
    return opened.vectors.codes, opened.nearest


def made_up_columns(rows: int) -> Columns:
    rng = np.random.default_rng(4)
    paths = sorted(f"level {a} > sub {b} > leaf {c}" for a in range(10) for b in range(10) for c in range(5))
    brands = [f"brand {i}" for i in range(2000)]
    lengths = rng.integers(0, 4, size=rows)
    tags = pa.array([f"tag {i}" for i in range(30)]).take(pa.array(rng.integers(30, size=lengths.sum())))
    arrays = {
        VARIANT: coded(rng.integers(rows // 3, size=rows), [f"g{i}" for i in range(rows // 3)]),
        "price": pa.array(rng.random(rows)),
        "brand": coded(rng.integers(2000, size=rows), brands),
        "category": coded(rng.integers(len(paths), size=rows), paths),
        "in_stock": pa.array(rng.random(rows) < 0.9),
        "tags": pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), tags),
    }
    return Columns(pa.table(arrays), KINDS)


def coded(codes: np.ndarray, values: list[str]) -> pa.Array:
    order = sorted(range(len(values)), key=lambda at: values[at])
    rank = np.argsort(np.array(order)).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(rank[codes]), pa.array([values[at] for at in order]))


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 3)


if __name__ == "__main__":
    main()
