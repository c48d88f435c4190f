"""An index in Milvus: seconds to push it, recall, and milliseconds per search through the engine, as JSON lines.

python benchmarks/milvus.py --index index --model model --uri /tmp/milvus.db --index-types HNSW FLAT

Searches are the index's probes one at a time, for 10 results: by vector, by vector under a filter on --filter-by (its
most frequent value), and hybrid with the title of a product as words. Recall is of the first 10 through the engine
against exact search, by scores.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maxsearch.encode import Encoder
from maxsearch.serving.engines.milvus.client import connect
from maxsearch.serving.engines.milvus.engine import MilvusEngine
from maxsearch.serving.engines.milvus.options import MilvusOptions
from maxsearch.serving.engines.milvus.push import PushOptions, push
from maxsearch.serving.recall import recall_of
from maxsearch.serving.shop.answer import Hybrid, Wanted
from maxsearch.serving.store.store import open_snapshot

K = 10


def timed(engine: MilvusEngine, queries: np.ndarray, wanted: Sequence[Wanted]) -> tuple[float, list[list[str]]]:
    """Milliseconds per search, the median, and the ids that were found."""
    times, found = [], []
    for query, one in zip(queries, wanted, strict=True):
        start = time.perf_counter()
        hits = engine.search(query, one).hits
        times.append(1e3 * (time.perf_counter() - start))
        found.append([hit.product_id for hit in hits])
    return round(float(np.median(times)), 1), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, default=Path("index"))
    parser.add_argument("--model", type=Path, default=Path("model"))
    parser.add_argument("--uri", required=True)
    parser.add_argument("--alias", default="benchmark")
    parser.add_argument("--index-types", nargs="+", default=["HNSW"])
    parser.add_argument("--filter-by", default="colour")
    parser.add_argument("--queries", type=int, default=100)
    arguments = parser.parse_args()
    snapshot, model = open_snapshot(arguments.index), Encoder.from_model(arguments.model)
    options = MilvusOptions(uri=arguments.uri, alias=arguments.alias, timeout=60.0)
    client = connect(options)
    queries = snapshot.index.probes()[: arguments.queries]
    truth = snapshot.index.vectors.exact().search(queries, K)[1]
    common = Counter(snapshot.index.columns.plain(arguments.filter_by)).most_common(2)
    value = next(value for value, _ in common if value is not None)
    keep = {"eq": {"field": arguments.filter_by, "value": value}}
    titles = [item.title for item in snapshot.take(range(len(queries)))]
    for kind in arguments.index_types:
        start = time.perf_counter()
        facts = push(client, snapshot, PushOptions(arguments.alias, kind)).facts
        seconds = time.perf_counter() - start
        engine = MilvusEngine(client, options, model)
        timed(engine, queries[:5], [Wanted(K)] * 5)
        dense, found = timed(engine, queries, [Wanted(K)] * len(queries))
        rows = np.array([[snapshot.index.rows[one] for one in ids] for ids in found], np.int64)
        filtered, _ = timed(engine, queries, [Wanted(K, filter=keep)] * len(queries))
        hybrid, _ = timed(engine, queries, [Wanted(K, text=title, hybrid=Hybrid()) for title in titles])
        figures = {
            "index": kind,
            "server": client.get_server_version(),
            "products": facts.products,
            "dim": facts.dim,
            "push_seconds": round(seconds, 1),
            "width": facts.width,
            "recall@10": round(recall_of(rows, queries, snapshot.index.vectors, truth), 4),
            "search_ms": dense,
            "filtered_ms": filtered,
            "hybrid_ms": hybrid,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
