"""Searches of a sharded index behind Ray Serve beside those of the same index in this process, on one machine.

    python -m benchmarks.ray --index INDEX --model MODEL [--shards 2] [--replicas 1]

Prints one JSON line: median and 99th percentile of the milliseconds of a search, and whether both find the same.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from maxsearch.encode import Encoder
from maxsearch.serving.engines.ray.options import RayOptions
from maxsearch.serving.engines.ray.shards import open_engine
from maxsearch.serving.index import open_index
from maxsearch.serving.items import Items
from maxsearch.serving.shards.split import split
from maxsearch.serving.shop.answer import Engine, Hybrid, Wanted
from maxsearch.serving.shop.engine import StoreEngine
from maxsearch.serving.store.publish import publish_folder

QUERIES = 200


def milliseconds(search: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Median and 99th percentile over the queries, after a round that is not counted."""
    took = []
    for number in range((rounds + 1) * QUERIES):
        started = time.perf_counter()
        search(number % QUERIES)
        took.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(took[QUERIES:], [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    model = Encoder.from_model(flags.model)
    index = open_index(flags.index)
    rows = np.linspace(0, len(index.items) - 1, QUERIES).astype(int).tolist()
    texts = [item.title for item in Items(index.items.table).take(rows)]
    vectors = model.encode_queries(texts)
    found: dict[str, Any] = {"benchmark": "ray", "products": len(index.items), "dim": model.dim}
    found |= {"kind": index.manifest["index"]["kind"], "shards": flags.shards, "replicas": flags.replicas}
    with TemporaryDirectory(dir=flags.index.parent) as folder:
        publish_folder(Path(folder) / "store", flags.index)
        started = time.perf_counter()
        split(flags.index, flags.shards, Path(folder) / "shards")
        found["split_seconds"] = round(time.perf_counter() - started, 1)
        whole = StoreEngine.open(Path(folder) / "store", model)
        started = time.perf_counter()
        options = RayOptions(replicas=flags.replicas, cpus=0.25)
        shards = open_engine(Path(folder) / "shards", model, options)
        found["start_seconds"] = round(time.perf_counter() - started, 1)
        kinds = {"dense": {}, "facets": {"facets": tuple(f.name for f in whole.fields if f.facet)[:3]}}
        if index.lexical is not None:
            kinds["hybrid"] = {"hybrid": Hybrid()}
        for kind, more in kinds.items():

            def ids(engine: Engine, number: int, more: dict[str, Any] = more) -> list[str]:
                hits = engine.search(vectors[number], Wanted(k=10, text=texts[number], **more)).hits
                return [hit.product_id for hit in hits]

            same = [len({*ids(whole, n)} & {*ids(shards, n)}) / 10 for n in range(QUERIES)]
            found[kind] = {
                "whole": milliseconds(lambda n: ids(whole, n), flags.rounds),
                "sharded": milliseconds(lambda n: ids(shards, n), flags.rounds),
                "same_of_10": round(float(np.mean(same)), 4),
            }
    print(json.dumps({**found, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
