"""Recall against speed of the index, beside other libraries that are installed.

python -m benchmarks.serve --count 1000000                           # drawn vectors in 300 clusters
python -m benchmarks.serve --count 1000000 --noise 1.6               # the same, hard
python -m benchmarks.serve --index INDEX                             # the vectors and probe queries of a float32 index

One JSON line for each setting, and a last one that says for each recall which speed each system reaches there. With
--work, what is built is kept, and --phase build and --phase search can be run one after the other.

Every system is built in a process of its own on all cores, and searched in another with --threads threads.
`build_cpu_seconds` is user and system time of the first process, `build_megabytes` its peak resident memory, vectors
included; `megabytes` is the peak of the second, after opening and one batch. Recall is judged by the true scores of
what was found, with queries that no system was fitted to. `milliseconds` is of one query at a time (median),
`queries_per_second` of all in one call; each is taken at the setting that is best for it. With one thread both are of
CPU time, which other work on the machine changes little; settings that find less than FOUND are not timed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nearest import OURS, PEERS, build, family, installed, sweeps
from maxsearch.serving.index import open_index
from maxsearch.serving.nearest import ExactNearest
from maxsearch.serving.recall import recall_of
from maxsearch.serving.tuning import GROWTH
from maxsearch.serving.vectors import StoredVectors

PROBES, QUERIES = 256, 1000
DEPTHS = (10, 100)
TARGETS = (0.95, 0.99)
FOUND = 0.9
SECONDS = 0.15


def drawn(count: int, dim: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around 300 centres, and queries drawn alike."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, dim)).astype(np.float32)

    def some(n: int) -> np.ndarray:
        vectors = np.empty((n, dim), np.float32)
        for start in range(0, n, 100_000):
            part = vectors[start : start + 100_000]
            part[:] = rng.standard_normal(part.shape, np.float32)
            part *= np.float32(noise)
            part += centres[rng.integers(300, size=len(part))]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return vectors

    return some(count), some(PROBES + QUERIES)


def prepare(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Vectors, queries and the true results in the folder, unless they are there."""
    described = work / "data.json"
    wanted = {"index": str(arguments.index)} if arguments.index else {"noise": arguments.noise}
    if not described.is_file():
        work.mkdir(parents=True, exist_ok=True)
        if arguments.index:
            index = open_index(arguments.index)
            vectors, queries = index.vectors[:], index.probes()
            half = len(queries) // 2
            probes, queries = queries[:half], queries[half:]
        else:
            vectors, queries = drawn(arguments.count, arguments.dim, arguments.noise)
            probes, queries = queries[:PROBES], queries[PROBES:]
        np.save(work / "vectors.npy", vectors)
        np.save(work / "probes.npy", probes)
        np.save(work / "queries.npy", queries)
        np.save(work / "truth.npy", ExactNearest(vectors).search(queries, DEPTHS[-1])[1])
        described.write_text(json.dumps({**wanted, "count": len(vectors), "dim": vectors.shape[1]}))
    found = json.loads(described.read_text())
    if arguments.index is None:
        wanted |= {"count": arguments.count, "dim": arguments.dim}
    if not wanted.items() <= found.items():
        sys.exit(f"{work} holds {found}: give another --work")
    return found


def megabytes() -> float:
    """Peak resident memory of this process; getrusage would count what its parent had before it."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1e3, 1)


def build_one(system: str, work: Path, place: Path) -> None:
    """Builds and prints what it took."""
    if place.exists():  # of a build that was killed
        shutil.rmtree(place)
    place.mkdir(parents=True)
    start = time.perf_counter()
    build(system, work, place, os.cpu_count() or 1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": used.ru_utime + used.ru_stime}
    print(
        json.dumps({**{f"build_{n}": round(t, 1) for n, t in took.items()}, "build_megabytes": megabytes()}), flush=True
    )


def clock(search: Callable[[np.ndarray], Any], queries: np.ndarray, threads: int) -> dict[str, float]:
    """Milliseconds of a query on its own (median), and queries per second when all are asked in one call."""
    now = time.process_time if threads == 1 else time.perf_counter
    times = [now()]
    while len(times) < 20 or times[-1] - times[0] < SECONDS:
        row = len(times) % len(queries)
        search(queries[row : row + 1])
        times.append(now())
    rounds = [now()]
    while len(rounds) < 4 or rounds[-1] - rounds[0] < SECONDS:
        search(queries)
        rounds.append(now())
    speed = len(queries) / min(np.diff(rounds))  # other work on the machine only ever slows
    return {"milliseconds": round(1e3 * float(np.median(np.diff(times))), 4), "queries_per_second": round(speed, 1)}


def search_one(system: str, work: Path, place: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Recall and speed at each of the system's settings."""
    queries, truth = np.load(work / "queries.npy"), np.load(work / "truth.npy")
    true = StoredVectors("float32", np.load(work / "vectors.npy", mmap_mode="r"))
    used = 0.0
    for sweep in sweeps(system, place, queries.shape[1], threads):
        last = dict.fromkeys(DEPTHS, 0.0)
        for setting, search in sweep:
            if not used:
                search(queries, DEPTHS[-1])
                used = megabytes()  # before the true vectors, by which recall is judged, are read
            line: dict[str, Any] = {"setting": setting, "megabytes": used}
            grown = False
            for k in DEPTHS:
                recall = recall_of(search(queries, k), queries, true, truth[:, :k])
                grown, last[k] = grown or recall >= last[k] + GROWTH, max(recall, last[k])
                line[f"@{k}"] = {"recall": round(recall, 4)}
                if recall >= FOUND:
                    line[f"@{k}"] |= clock(lambda some, search=search, k=k: search(some, k), queries, threads)
            yield line
            if not grown:
                break


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Per depth and target, each family's best speeds, and ours beside the best of the others."""
    found: dict[str, Any] = {}
    for k in DEPTHS:
        for target in TARGETS:
            reaching = [line for line in lines if line[f"@{k}"]["recall"] >= target]
            table: dict[str, Any] = {}
            for name in dict.fromkeys(family(line["system"]) for line in lines):
                own = [line for line in reaching if family(line["system"]) == name]
                if own:
                    one = min(own, key=lambda line: line[f"@{k}"]["milliseconds"])
                    many = max(own, key=lambda line: line[f"@{k}"]["queries_per_second"])
                    table[name] = {
                        "single": round(1e3 / one[f"@{k}"]["milliseconds"]),
                        "single_at": [one["system"], one["setting"]],
                        "batched": round(many[f"@{k}"]["queries_per_second"]),
                        "batched_at": [many["system"], many["setting"]],
                    }
            ratios = {}
            for how in ("single", "batched"):
                ours = [speeds[how] for name, speeds in table.items() if name in OURS]
                theirs = [speeds[how] for name, speeds in table.items() if name not in OURS]
                if ours and theirs:
                    ratios[f"{how}_ours_to_best_peer"] = round(max(ours) / max(theirs), 2)
            found[f"recall@{k} >= {target}"] = {**ratios, **table}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--noise", type=float, default=0.9, help="of drawn vectors; 1.6 is hard")
    parser.add_argument("--index", type=Path, help="a float32 index whose vectors and probes are used")
    parser.add_argument("--systems", nargs="+", choices=(*OURS, *PEERS), help="all that are installed by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where what is built is kept; nowhere by default")
    parser.add_argument("--phase", choices=("build", "search", "summary"), help="all by default")
    parser.add_argument("--one", choices=("build", "search"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    systems = arguments.systems or [system for system in (*OURS, *PEERS) if installed(system)]
    if arguments.one:
        place = arguments.work / "built" / systems[0]
        if arguments.one == "build":
            build_one(systems[0], arguments.work, place)
        else:
            for line in search_one(systems[0], arguments.work, place, arguments.threads):
                print(json.dumps(line), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="maxsearch-serve-") as folder:
        run(systems, arguments.work or Path(folder), arguments)


def run(systems: list[str], work: Path, arguments: argparse.Namespace) -> None:
    data = prepare(work, arguments)
    lines = []
    for system in systems:
        built = work / f"{system.replace('/', '-')}.build.json"
        found = work / f"{system.replace('/', '-')}.search-{arguments.threads}.jsonl"
        if arguments.phase in (None, "build") and not built.is_file():
            write(built, "build", system, work, os.cpu_count() or 1)
        if arguments.phase in (None, "search"):
            write(found, "search", system, work, arguments.threads)
        common = {"system": system, **data, "threads": arguments.threads}
        if arguments.phase == "build":
            print(json.dumps({**common, **json.loads(built.read_text())}), flush=True)
        elif found.is_file():
            for line in found.read_text().splitlines():
                lines.append({**common, **json.loads(built.read_text()), **json.loads(line)})
                print(json.dumps(lines[-1]), flush=True)
    if arguments.phase != "build":
        print(json.dumps({"summary": {**data, "threads": arguments.threads}, **summary(lines)}), flush=True)


def write(output: Path, phase: str, system: str, work: Path, threads: int) -> None:
    """Runs a phase of one system in a process of its own; its lines become a file once all are there."""
    again = [sys.executable, "-m", "benchmarks.serve", "--one", phase, "--systems", system, "--work", str(work)]
    again += ["--threads", str(threads)]
    environment = {**os.environ, **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS")}}
    done = subprocess.run(again, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    draft = output.with_suffix(".draft")
    draft.write_text(done.stdout)
    draft.replace(output)


if __name__ == "__main__":
    main()
