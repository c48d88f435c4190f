"""Recall against speed of the index, beside other libraries that are installed: one JSON line for each setting.

python -m benchmarks.index --count 100000 --dim 256                  # drawn vectors in 300 clusters
python -m benchmarks.index --index INDEX                             # the vectors and probe queries of a float32 index
python -m benchmarks.index --count 1000000 --systems float32 faiss-ivfpq faiss-hnsw hnswlib

Every system is built and searched in a process of its own with --threads threads (ScaNN's build takes all cores).
`build_seconds` and `build_megabytes` (peak resident, vectors included) are of the first process, `megabytes` (peak
resident, after opening and one batch) of the second. Recall is judged by the true scores of what was found.
`milliseconds` is of one query at a time (median), `queries_per_second` of all in one call, both for 10 results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import Item, items_table
from maxsearch.serving.nearest import ExactNearest
from maxsearch.serving.recall import recall_of
from maxsearch.serving.scann_index import Effort, ScannNearest
from maxsearch.serving.tuning import WIDTHS, clock
from maxsearch.serving.vectors import StoredVectors

OURS = ("float32", "bfloat16", "int8")
PEERS = ("faiss-ivfpq", "faiss-hnsw", "hnswlib")
QUERIES = 512

Search = Callable[[np.ndarray, int], np.ndarray]


def drawn(count: int, dim: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around 300 centres, and queries drawn alike."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, dim)).astype(np.float32)

    def some(n: int) -> np.ndarray:
        vectors = centres[rng.integers(300, size=n)] + np.float32(noise) * rng.normal(size=(n, dim)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return some(count), some(QUERIES)


def megabytes() -> float:
    """Peak resident memory of this process; getrusage would count what its parent had before it."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1e3, 1)


def build(system: str, work: Path) -> None:
    """Writes the system's index into the folder."""
    vectors = np.load(work / "vectors.npy", mmap_mode="r")
    count, dim = vectors.shape
    if system in OURS:
        source = work / "source.npy"
        source.unlink(missing_ok=True)
        source.hardlink_to(work / "vectors.npy")  # a float32 index takes its source over
        (work / system).mkdir()
        blocks = (range(start, min(start + 10_000, count)) for start in range(0, count, 10_000))
        tables = (items_table(Item(str(row), "", "", {}) for row in block) for block in blocks)
        probes = np.load(work / "queries.npy")[: QUERIES // 2]
        write_index(work / system, tables, source, probes, "benchmark", IndexOptions("scann", system))
    elif system == "hnswlib":
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=dim)
        graph.init_index(max_elements=count, ef_construction=200, M=16)
        graph.add_items(vectors)
        graph.save_index(str(work / system))
    else:
        import faiss

        kind = "HNSW16" if system == "faiss-hnsw" else f"IVF{int(2 * count**0.5)},PQ{dim // 2}x4fs,RFlat"
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(vectors[: max(100_000, 100 * int(2 * count**0.5))]))
        index.add(np.ascontiguousarray(vectors))
        faiss.write_index(index, str(work / system))


def searches(system: str, work: Path, threads: int) -> Iterator[tuple[dict[str, int], Search]]:
    """Settings of a system, and the search with each."""
    if system in OURS:
        nearest = open_index(work / system, checksums=False).nearest
        assert isinstance(nearest, ScannNearest)
        for reordered in (30, 50, 100, 300):
            for width in WIDTHS[:9]:
                effort = Effort(10, width, reordered, 1.0)
                setting = {"leaves_to_search": width, "reordered": reordered}
                yield setting, lambda queries, k, effort=effort: nearest.search_with(queries, k, effort)[0]
        yield {"exact": 1}, lambda queries, k: nearest.search_with(queries, k, Effort(k, 0, 0, 1.0))[0]
        return
    if system == "hnswlib":
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=np.load(work / "vectors.npy", mmap_mode="r").shape[1])
        graph.load_index(str(work / system))
        graph.set_num_threads(threads)
        for ef in (10, 20, 50, 100, 200, 400):
            graph.set_ef(ef)
            yield {"ef": ef}, lambda queries, k, ef=ef: hnsw(graph, queries, k, ef)
        return
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.read_index(str(work / system))
    if system == "faiss-hnsw":
        for ef in (10, 20, 50, 100, 200, 400):
            index.hnsw.efSearch = ef
            yield {"ef": ef}, lambda queries, k: index.search(queries, k)[1]
        return
    for factor in (10, 40):
        for width in (1, 2, 5, 10, 20, 40, 80, 160, 320):
            index.k_factor = factor
            faiss.extract_index_ivf(index.base_index).nprobe = width
            yield {"nprobe": width, "reordered": 10 * factor}, lambda queries, k: index.search(queries, k)[1]


def hnsw(graph: Any, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
    graph.set_ef(max(ef, k))
    return graph.knn_query(queries, k)[0].astype(np.int64)


def measure(system: str, work: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Recall and speed at each of the system's settings, by the queries that it was not fitted to."""
    queries = np.load(work / "queries.npy")[QUERIES // 2 :]
    truth = {k: np.load(work / f"truth{k}.npy") for k in (10, 100)}
    used = 0.0
    for setting, search in searches(system, work, threads):
        if not used:
            search(queries, 100)
            used = megabytes()  # before the true vectors, by which recall is judged, are read
        true = StoredVectors("float32", np.load(work / "vectors.npy", mmap_mode="r"))
        recall = {f"recall@{k}": round(recall_of(search(queries, k), queries, true, truth[k]), 4) for k in truth}
        alone, together = clock(lambda some, search=search: search(some, 10), queries)
        speed = {"milliseconds": round(alone, 4), "queries_per_second": round(together, 1)}
        yield {"setting": setting, **recall, **speed, "megabytes": used}


def installed(system: str) -> bool:
    try:
        __import__(system.partition("-")[0])
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--noise", type=float, default=0.9, help="of drawn vectors; 1.6 is hard")
    parser.add_argument("--index", type=Path, help="a float32 index whose vectors and probes are used")
    parser.add_argument("--systems", nargs="+", choices=(*OURS, *PEERS), help="all that are installed by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--phase", choices=("build", "search"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase == "build":
        start = time.perf_counter()
        build(arguments.systems[0], arguments.work)
        took = round(time.perf_counter() - start, 1)
        print(json.dumps({"build_seconds": took, "build_megabytes": megabytes()}))
        return
    if arguments.phase == "search":
        for line in measure(arguments.systems[0], arguments.work, arguments.threads):
            print(json.dumps(line))
        return
    systems = arguments.systems or [*OURS, *(system for system in PEERS if installed(system))]
    with tempfile.TemporaryDirectory(prefix="maxsearch-index-") as folder:
        work = Path(folder)
        if arguments.index is not None:
            index = open_index(arguments.index)
            vectors, queries = index.vectors[:], np.resize(index.probes(), (QUERIES, index.manifest["dim"]))
        else:
            vectors, queries = drawn(arguments.count, arguments.dim, arguments.noise)
        np.save(work / "vectors.npy", vectors)
        np.save(work / "queries.npy", queries)
        for k in (10, 100):
            np.save(work / f"truth{k}.npy", ExactNearest(vectors).search(queries[QUERIES // 2 :], k)[1])
        common = {"count": len(vectors), "dim": vectors.shape[1], "threads": arguments.threads}
        del vectors
        for system in systems:
            again = [sys.executable, "-m", "benchmarks.index", "--systems", system, "--work", folder]
            again += ["--threads", str(arguments.threads)]
            environment = {
                **os.environ,
                **{f"{name}_NUM_THREADS": str(arguments.threads) for name in ("OMP", "OPENBLAS")},
            }
            built, found = (
                subprocess.run(
                    [*again, "--phase", phase], env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                for phase in ("build", "search")
            )
            for line in found.stdout.splitlines():
                print(
                    json.dumps({"system": system, **common, **json.loads(built.stdout), **json.loads(line)}), flush=True
                )


if __name__ == "__main__":
    main()
