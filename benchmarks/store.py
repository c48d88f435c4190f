"""What writes to a store cost, and what they cost its searches: one JSON line for each step.

python -m benchmarks.store --count 100000 --dim 256 --upserts 1000

A store of drawn vectors takes upserts one by one, as many in one call, and deletes of a tenth as many of its first
products; then it is opened anew and compacted. `milliseconds` are medians, `p99` of the same.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.serve import drawn
from maxsearch.serving.index import IndexOptions
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import Item, items_table
from maxsearch.serving.store.generations import StoreFolder
from maxsearch.serving.store.store import Store
from maxsearch.serving.store.writes import Upsert

MODEL = "benchmark"


def timed(step: str, calls: Sequence[Callable[[], object]]) -> None:
    """Prints how long each of the calls takes."""
    times = []
    for call in calls:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    middle, late = (round(float(value), 4) for value in np.percentile(times, [50, 99]))
    print(json.dumps({"step": step, "calls": len(times), "milliseconds": middle, "p99": late}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--upserts", type=int, default=1000)
    arguments = parser.parse_args()
    vectors, queries = drawn(arguments.count, arguments.dim, 0.9)
    fresh, _ = drawn(arguments.upserts, arguments.dim, 1.0)
    with tempfile.TemporaryDirectory(prefix="maxsearch-store-") as folder:
        work, path = Path(folder), Path(folder) / "store"
        np.save(work / "vectors.npy", vectors)
        table = items_table(Item(f"p{row}", "", "", {}) for row in range(arguments.count))
        StoreFolder(path).add(
            lambda draft: write_index(draft, [table], work / "vectors.npy", queries, MODEL, IndexOptions()),
            made_by="build",
        )
        store = Store.open(path)
        search = [lambda row=row: store.snapshot().search(queries[row : row + 1], 10) for row in range(len(queries))]
        timed("search", search)
        store.delete(["p0"])  # the first write reads all ids
        one_by_one = [Upsert(Item(f"n{row}", "", "", {}), vector) for row, vector in enumerate(fresh)]
        timed("upsert one by one", [lambda one=one: store.upsert([one], MODEL) for one in one_by_one])
        timed("search after them", search)
        together = [Upsert(Item(f"m{row}", "", "", {}), vector) for row, vector in enumerate(fresh)]
        timed("upsert as many in one call", [lambda: store.upsert(together, MODEL)])
        timed("delete a tenth as many", [lambda: store.delete([f"p{row}" for row in range(arguments.upserts // 10)])])
        timed("search after all", search)
        timed("open, with checksums", [lambda: Store.open(path)])
        timed("compact", [store.compact])


if __name__ == "__main__":
    main()
