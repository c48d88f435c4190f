"""Our training step and PyTorch's (open_clip's model code, eager and compiled), in one run and on one batch.

python -m benchmarks.peers                                     # the fashion preset at batch 128
python -m benchmarks.peers base --layers 6 --batch-size 64 --steps 6 --turn 2 --alone
python -m benchmarks.peers fashion --memory 32 64 128 256      # and peak memory at these batch sizes

Needs the `peers` extra, and runs from the root of a checkout. Both models are first compared (parameters, vectors,
loss, gradients, some training steps). Then each contender trains in a process of its own, one turn after the other, so
that a change of the machine's speed hits all alike. A step goes from the batch in the host's memory to the next
parameters and their average. Prints one JSON line; a ratio above 1 says that ours is faster. Take figures from an idle
machine: `others_busy` is the share of all cores that other programs used, and above a few per cent PyTorch's threads,
which wait for one another after every operation, lose out of all proportion.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers.process import Worker, busy_seconds
from benchmarks.peers.settings import comparable
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.presets import load_preset

MODES = ("jax", "eager", "compile")
PACKAGES = ("jax", "jaxlib", "flax", "torch", "open_clip_torch", "numpy")
STATISTICS = {"min": min, "median": statistics.median, "max": max}
SETTINGS = ("layers", "batch_size", "threads", "remat", "block", "compile_mode", "keep_memory", "alone")
MEMORY_STEPS = 2


class Bench:
    """One folder of prepared inputs, and the workers that read it."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments = folder, arguments

    def worker(self, mode: str, *batch_sizes: int) -> Worker:
        """Starts a worker."""
        a = self._arguments
        words = [str(self._folder), mode, "--threads", str(a.threads), "--block", a.block]
        words += ["--compile-mode", a.compile_mode, *(["--keep-memory"] if a.keep_memory else [])]
        words += ["--batch-sizes", *map(str, batch_sizes)]
        return Worker(mode, words, a.threads)

    def prepare(self) -> dict[str, Any]:
        """Writes the inputs; how far the two models are apart."""
        worker = self.worker("prepare", *{self._arguments.batch_size, *self._arguments.memory})
        try:
            return worker.reply()
        finally:
            worker.stop()

    def race(self) -> dict[str, Any]:
        """Lets the contenders train in turns: their step times, first steps, last losses and peaks of memory."""
        a = self._arguments
        rounds: dict[str, list[list[float]]] = {mode: [] for mode in a.modes}
        losses: dict[str, float] = {}
        firsts: dict[str, float] = {}
        peaks: dict[str, dict[str, int]] = {}
        with ExitStack() as running:

            def begin(mode: str) -> Worker:
                worker = self.worker(mode, a.batch_size)
                running.callback(worker.stop)
                firsts[mode] = worker.reply()["first_step_seconds"]
                return worker

            workers = {} if a.alone else {mode: begin(mode) for mode in a.modes}
            shares = []
            for number in range(-(-a.steps // a.turn)):
                start = number % len(a.modes)  # who comes first changes
                for mode in [*a.modes[start:], *a.modes[:start]]:
                    worker = workers.get(mode) or begin(mode)
                    started, busy = time.perf_counter(), busy_seconds()
                    answer = worker.train(a.turn)
                    shares.append((busy_seconds() - busy - answer["cpu"]) / (time.perf_counter() - started))
                    rounds[mode].append(answer["seconds"])
                    losses[mode] = answer["loss"]
                    if a.alone:
                        peaks[mode] = worker.finish()
            peaks |= {mode: worker.finish() for mode, worker in workers.items()}
        share = statistics.mean(shares) / (os.cpu_count() or 1)
        seconds = {mode: [each for turn in turns for each in turn] for mode, turns in rounds.items()}
        result = {
            "step_ms": {
                mode: {name: round(1e3 * f(each), 1) for name, f in STATISTICS.items()}
                for mode, each in seconds.items()
            },
            "first_step_seconds": {mode: round(each, 1) for mode, each in firsts.items()},
            "loss_after": {mode: round(loss, 5) for mode, loss in losses.items()},
            "memory_mib": {str(a.batch_size): megabytes(peaks)},
            "others_busy": round(max(share, 0.0), 3),
        }
        return result | ratios(rounds)

    def memory(self, batch_size: int) -> dict[str, Any]:
        """The peaks of memory at a batch size, each contender alone on the machine."""
        peaks = {}
        for mode in self._arguments.modes:
            worker = self.worker(mode, batch_size)
            try:
                worker.reply()
                worker.train(MEMORY_STEPS)
                peaks[mode] = worker.finish()
            finally:
                worker.stop()
        return megabytes(peaks)


def megabytes(peaks: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Resident memory in MiB: after the imports, at most after the first step, and at most in the whole process."""
    return {mode: {name: round(size / 2**20) for name, size in each.items()} for mode, each in peaks.items()}


def ratios(rounds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """How many times our median step each peer's takes, over the run, and the least and most of any round."""
    if "jax" not in rounds:
        return {}
    medians = {mode: [statistics.median(turn) for turn in turns] for mode, turns in rounds.items()}
    whole = {mode: statistics.median([each for turn in turns for each in turn]) for mode, turns in rounds.items()}
    peers = [mode for mode in rounds if mode != "jax"]
    by_round = {
        mode: [theirs / ours for theirs, ours in zip(medians[mode], medians["jax"], strict=True)] for mode in peers
    }
    return {
        "ratio": {f"{mode}/jax": round(whole[mode] / whole["jax"], 3) for mode in peers},
        "ratio_of_rounds": {f"{mode}/jax": [round(min(x), 3), round(max(x), 3)] for mode, x in by_round.items()},
    }


def processor() -> str:
    """The CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def parsed() -> argparse.Namespace:
    available = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="fashion")
    parser.add_argument("--layers", type=int, help="cuts deeper towers to so many")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each contender, after its first")
    parser.add_argument("--turn", type=int, default=4, help="steps that a contender takes before the next one's turn")
    parser.add_argument("--threads", type=int, default=len(available), help="of each contender, on as many cores")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="batch sizes for peak memory")
    parser.add_argument("--remat", choices=("none", "full"), default="none", help="full: checkpointed blocks, of all")
    parser.add_argument("--block", choices=("default", "custom"), default="default", help="which of open_clip's blocks")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    parser.add_argument("--keep-memory", action="store_true", help="PyTorch too keeps freed memory, as ours does")
    parser.add_argument("--alone", action="store_true", help="a new process for every turn, one at a time: less memory")
    arguments = parser.parse_args()
    if find_spec("torch") is None or find_spec("open_clip") is None:
        raise UsageError(
            "torch and open_clip are not installed: pip install -e '.[peers]' in an environment of its own"
        )
    for name in ("steps", "turn"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name} is {getattr(arguments, name)}: choose at least 1")
    if not 1 <= arguments.threads <= len(available):
        raise UsageError(f"--threads is {arguments.threads}: choose from 1 to the {len(available)} cores at hand")
    os.sched_setaffinity(
        0, available[: arguments.threads]
    )  # the workers inherit it; XLA counts the cores that it may use
    return arguments


def main() -> None:
    arguments = parsed()
    config = comparable(
        load_preset(arguments.preset),
        layers=arguments.layers,
        batch_size=arguments.batch_size,
        remat=arguments.remat,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config.to_json()))
        bench = Bench(folder, arguments)
        parity = bench.prepare()
        raced = bench.race()
        raced["memory_mib"] |= {
            str(size): bench.memory(size) for size in arguments.memory if size != arguments.batch_size
        }
    result = {
        "benchmark": "peers",
        "preset": config.name,
        **{name: getattr(arguments, name) for name in SETTINGS},
        "dtype": config.model.dtype,
        "parameters": parity.pop("parameters"),
        **raced,
        "parity": parity,
        "cpu": processor(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except MaxsearchError as error:
        sys.exit(f"peers: {error}")
