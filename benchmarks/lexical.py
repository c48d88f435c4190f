"""How fast, and in how much memory, the lexical baselines rank drawn titles; bm25s beside them.

    python -m benchmarks.lexical --products 1000000 --queries 1000 --systems bm25 bm25f tfidf bm25s

One JSON line per system: seconds to draw and take the catalogue, seconds to rank 100 products for every query, and the
peak memory of the process, which each system has to itself. Titles are of 4 to 12 words of a vocabulary of 200,000,
drawn by Zipf's law.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import bm25s
import numpy as np
import Stemmer

from maxsearch.data.records import Product
from maxsearch.evaluation.baselines.spec import parse_baselines
from maxsearch.evaluation.rankers import Task

WORDS = 200_000
BATCH = 1024
K = 100


def titles(count: int, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    likely = 1 / np.arange(10, WORDS + 10)
    ends = np.cumsum(likely / likely.sum())
    for start in range(0, count, BATCH):
        lengths = rng.integers(4, 13, min(BATCH, count - start))
        words = iter(np.searchsorted(ends, rng.random(lengths.sum())).tolist())
        for length in lengths:
            yield " ".join(f"w{next(words)}" for _ in range(length))


def batches(count: int) -> Iterator[list[Product]]:
    batch: list[Product] = []
    for number, title in enumerate(titles(count, seed=0)):
        batch.append(Product(str(number), title))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def measure(system: str, products: int, queries: int) -> dict[str, object]:
    asked = [" ".join(title.split()[:3]) for title in titles(queries, seed=1)]
    start = time.perf_counter()
    if system == "bm25s":
        words = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
        model = bm25s.BM25(k1=1.5, b=0.75)
        model.index(bm25s.tokenize(list(titles(products, seed=0)), **words), show_progress=False)
        taken = time.perf_counter()
        model.retrieve(bm25s.tokenize(asked, **words), k=K, show_progress=False)
    else:
        (ranker,) = parse_baselines([system])
        ranker.start(Task(asked, K, {}))
        for batch in batches(products):
            ranker.add(batch)
        taken = time.perf_counter()
        ranker.ranking()
    ended = time.perf_counter()
    return {
        "system": system,
        "products": products,
        "queries": queries,
        "seconds_to_take": round(taken - start, 2),
        "seconds_to_rank": round(ended - taken, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--systems", nargs="+", default=["bm25", "bm25f", "tfidf", "bm25s"])
    words = parser.parse_args()
    if len(words.systems) == 1:
        print(json.dumps(measure(words.systems[0], words.products, words.queries)), flush=True)
        return
    for system in words.systems:
        sizes = ["--products", str(words.products), "--queries", str(words.queries)]
        subprocess.run([sys.executable, "-m", "benchmarks.lexical", *sizes, "--systems", system], check=True)


if __name__ == "__main__":
    main()
