"""Decoded, augmented and tokenised examples per second: our stream, PyTorch's DataLoader and open_clip's pipeline.

python -m benchmarks.stream                                   # drawn pictures of 800 x 1000 pixels, prepared at 256
python -m benchmarks.stream --image-edge 1000                 # the same as they are
python -m benchmarks.stream --data DATA --size 64 48          # prepared data of your own
python -m benchmarks.stream --contenders maxsearch --workers 0 1 2

Runs from the root of a checkout; contenders other than ours need the `peers` extra. Each setting runs in a process of
its own, all on the same cores, in turns, so that a change of the machine's speed hits all alike; the others stand still
meanwhile. Prints a JSON line for each setting, and one with our rate for each CPU second against the best of theirs.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.streams.catalogue import make_data
from benchmarks.streams.contenders import CONTENDERS, write_tars
from benchmarks.streams.work import Work
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.tokenize import save_tokenizer, train_tokenizer
from maxsearch.errors import MaxsearchError

OURS = "maxsearch"  # what our contenders' names begin with


class Contender:
    """A worker's process group, which stands still between its turns."""

    def __init__(self, name: str, work: Work, cores: list[int]) -> None:
        self.name, self.work = name, work
        self.turns: list[dict[str, float]] = []
        worker = [sys.executable, "-m", "benchmarks.streams.worker"]
        self._process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *worker, name, *work.words()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self.batch = self._reply()["batch"]
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> None:
        """Draws batches for a while."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(f"{seconds}\n")
        self.turns.append(self._reply())
        self._signal(signal.SIGSTOP)

    def result(self) -> dict[str, Any]:
        """Medians over the turns."""
        return {
            "benchmark": "stream",
            "contender": self.name,
            "workers": self.work.workers,
            "examples_per_second": round(statistics.median(x["examples"] / x["seconds"] for x in self.turns), 1),
            "examples_per_cpu_second": round(statistics.median(x["examples"] / x["cpu"] for x in self.turns), 1),
            "turns": [round(x["examples"] / x["cpu"], 1) for x in self.turns],
            "batch": self.batch,
        }

    def stop(self) -> None:
        """Ends it and its workers."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MaxsearchError(f"the contender {self.name} ended before its answer: read its own message above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def race(contenders: list[Contender], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Lets all draw batches in turns, and who comes first change."""
    for number in range(rounds):
        start = number % len(contenders)
        for contender in [*contenders[start:], *contenders[:start]]:
            contender.turn(seconds)
    return [contender.result() for contender in contenders]


def comparison(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Our best rate for each CPU second, and for each second, against the best of the others."""
    found: dict[str, Any] = {"benchmark": "stream", "compared": True}
    for name in ("examples_per_cpu_second", "examples_per_second"):
        ours = max((x for x in results if x["contender"].startswith(OURS)), key=lambda x: x[name])
        best = max((x for x in results if not x["contender"].startswith(OURS)), key=lambda x: x[name])
        pair = [f"{each['contender']}/{each['workers']}" for each in (ours, best)]
        found[name] = {"ratio": round(ours[name] / best[name], 2), "of": pair}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder that `maxsearch prepare` wrote; by default one is made")
    parser.add_argument("--products", type=int, default=400, help="products of the catalogue that is made")
    parser.add_argument("--edge", type=int, nargs=2, default=(1000, 800), help="height and width of its pictures")
    parser.add_argument("--image-edge", type=int, default=256, help="what its pictures are prepared at")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), help="height and width of the arrays")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        data = a.data or make_data(folder, a.products, tuple(a.edge), a.image_edge)
        source = CatalogueSource(PreparedDataset.open(data))
        save_tokenizer(train_tokenizer(source.texts(), 8192), folder / "tokenizer")
        contenders = []
        for workers in a.workers:
            work = Work(data, folder / "tokenizer", folder / "tars", tuple(a.size), a.batch_size, workers)
            if not work.tars.exists() and any(each.startswith("open_clip") for each in a.contenders):
                write_tars(work)
            for each in a.contenders:
                contenders.append(Contender(each, work, a.cores))
                running.callback(contenders[-1].stop)
        results = race(contenders, a.rounds, a.seconds)
    pictures = str(a.data) if a.data else f"drawn {a.edge[0]} x {a.edge[1]}, prepared at {a.image_edge}"
    for result in results:
        print(json.dumps(result | {"data": pictures}), flush=True)
    if 0 < sum(result["contender"].startswith(OURS) for result in results) < len(results):
        print(json.dumps(comparison(results) | {"data": pictures}))


if __name__ == "__main__":
    main()
