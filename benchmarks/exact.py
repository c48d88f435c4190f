"""Exact top-k on a CPU against faiss-cpu's flat search: seconds, ratio and peak memory, one JSON line for each.

pip install 'maxsearch[peers]'
python -m benchmarks.exact                                        # 1,000,000 products x 10,000 queries, top 100
python -m benchmarks.exact --products 100000 --sets random --turns 3 --memory 64

Both rank the same file in turns, each time in a process of its own, on as many cores. Ours reads the file block by
block while it ranks, and its seconds have all of that; those of `faiss` are the search alone, after its index holds the
products (`load_seconds`). `peak_mb` is what the largest resident size grew by once libraries were loaded. The last line
of a set says how far the two agree: products at the same rank, and the largest difference of scores there.

Sets: `random` unit vectors; `clustered` ones, around a thousand centres; `sorted`, the same cluster by cluster, where
the catalogue's order keeps bringing products that are better than any before.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("random", "clustered", "sorted")
SYSTEMS = ("ours", "faiss")
CENTRES, NOISE = 1000, 1.0
READ = 1 << 12


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def write_vectors(path: Path, kind: str, count: int, dim: int, seed: int) -> None:
    """Writes float32 vectors without a header, a block at a time."""
    rng = np.random.default_rng(seed)
    centres = unit(np.random.default_rng(0).standard_normal((CENTRES, dim), dtype=np.float32))
    owner = rng.integers(CENTRES, size=count)
    if kind == "sorted":
        owner.sort()
    with path.open("wb") as stream:
        for start in range(0, count, READ):
            of = owner[start : start + READ]
            vectors = rng.standard_normal((len(of), dim), dtype=np.float32)
            if kind != "random":
                vectors = centres[of] + vectors * np.float32(NOISE / dim**0.5)
            stream.write(unit(vectors).tobytes())


def resident() -> float:
    """The largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def ours(products: Path, queries: np.ndarray, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, Any]:
    from maxsearch.topk import TopK

    memory = arguments.memory * 10**6 if arguments.memory else None
    before, start = resident(), time.perf_counter()
    best = TopK(queries, arguments.k, memory=memory)
    with products.open("rb") as stream:
        while len(block := np.fromfile(stream, np.float32, READ * arguments.dim)):
            best.add(block.reshape(-1, arguments.dim))
    ranking = best.ranking()
    figures = {"seconds": time.perf_counter() - start, "load_seconds": 0.0, "peak_mb": resident() - before}
    return ranking.rows, ranking.scores, figures


def faiss(products: Path, queries: np.ndarray, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, Any]:
    import faiss

    faiss.omp_set_num_threads(arguments.threads)
    before, start = resident(), time.perf_counter()
    index = faiss.IndexFlatIP(arguments.dim)
    with products.open("rb") as stream:
        while len(block := np.fromfile(stream, np.float32, READ * arguments.dim)):
            index.add(block.reshape(-1, arguments.dim))
    loaded = time.perf_counter()
    scores, rows = index.search(queries, arguments.k)
    figures = {
        "seconds": time.perf_counter() - loaded,
        "load_seconds": loaded - start,
        "peak_mb": resident() - before,
    }
    return rows, scores, figures


def work(arguments: argparse.Namespace) -> None:
    """One turn of one system, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    folder: Path = arguments.folder
    queries = np.fromfile(folder / "queries", np.float32).reshape(-1, arguments.dim)
    system = {"ours": ours, "faiss": faiss}[arguments.system]
    if arguments.system == "ours":
        import jax

        import maxsearch.topk  # noqa: F401

        jax.devices()
    else:
        import faiss as _  # noqa: F401
    rows, scores, figures = system(folder / "products", queries, arguments)
    np.savez(folder / f"{arguments.system}.npz", rows=rows, scores=scores)
    print(json.dumps(figures))


def turn(system: str, folder: Path, words: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.exact", *words, "--system", system, "--folder", str(folder)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(kind: str, words: list[str], arguments: argparse.Namespace) -> None:
    size = {"products": arguments.products, "queries": arguments.queries, "dim": arguments.dim, "k": arguments.k}
    name = {"benchmark": "exact", "set": kind, **size, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_vectors(folder / "products", kind, arguments.products, arguments.dim, seed=1)
        write_vectors(folder / "queries", kind, arguments.queries, arguments.dim, seed=2)
        turns: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
        for number in range(arguments.turns):
            for system in SYSTEMS if number % 2 == 0 else SYSTEMS[::-1]:
                turns[system].append(turn(system, folder, words))
        found = {system: np.load(folder / f"{system}.npz") for system in SYSTEMS}
        same = found["ours"]["rows"] == found["faiss"]["rows"]
        apart = float(np.abs(found["ours"]["scores"] - found["faiss"]["scores"]).max())
    middle = {s: {f: statistics.median(t[f] for t in turns[s]) for f in turns[s][0]} for s in SYSTEMS}
    for system, figures in middle.items():
        print(json.dumps({**name, "system": system, **{f: round(x, 2) for f, x in figures.items()}}))
    mine, other = middle["ours"], middle["faiss"]
    ratios = {f"{f}_ratio": round(mine[f] / other[f], 3) for f in ("seconds", "peak_mb")}
    print(json.dumps({**name, "ours_to_faiss": ratios, "same_rank": float(same.mean()), "scores_apart": apart}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--memory", type=int, default=0, help="MB that ours may take; 0 leaves it free")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.system:
        work(arguments)
    else:
        for kind in arguments.sets:
            compare(kind, sys.argv[1:], arguments)


if __name__ == "__main__":
    main()
