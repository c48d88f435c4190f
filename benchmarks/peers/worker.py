"""One contender in a process of its own: it trains when it is told to, and says how long each step took.

Started by `python -m benchmarks.peers`. Replies are JSON lines on standard output: the first step's seconds, then per
line of standard input (a number of steps) their seconds, and at the end the peak of its resident memory.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.settings import Options
from maxsearch.allocator import keep_freed_memory
from maxsearch.config import Config
from maxsearch.errors import MaxsearchError

PEERS = ("eager", "compile")
Step = Callable[[Mapping[str, np.ndarray]], float]


def arrays(path: Path) -> dict[str, np.ndarray]:
    """What `prepare` wrote, in memory."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def contender(mode: str, folder: Path, config: Config, threads: int, options: Options) -> tuple[Step, int]:
    """The step that takes a batch and gives its loss, and the bytes resident before it was made.

    Only the contender's own framework is imported.
    """
    if mode == "jax":
        from benchmarks.peers.jax_step import JaxStep

        imported = resident("VmRSS")
        return JaxStep(config), imported
    if options.keep_memory:
        keep_freed_memory()
    import torch

    from benchmarks.peers.torch_step import TorchStep

    imported = resident("VmRSS")
    torch.set_num_threads(threads)
    groups = {name: tuple(each) for name, each in json.loads((folder / "groups.json").read_text()).items()}
    start = arrays(folder / "start.npz")
    return TorchStep(config, start, groups, compiled=mode == "compile", options=options), imported


def resident(field: str) -> int:
    """Resident memory in bytes (proc(5)): VmRSS now, or VmHWM at most since the start or the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Starts VmHWM anew (proc(5): clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def serve(step: Step, batch: Mapping[str, np.ndarray], imported: int, say: Callable[[dict[str, Any]], None]) -> None:
    """Trains as told until standard input ends."""
    started = time.perf_counter()
    loss = step(batch)
    say({"first_step_seconds": time.perf_counter() - started, "loss": loss})
    starting = resident("VmHWM")
    forget_peak()
    for line in sys.stdin:
        seconds, used = [], time.process_time()
        for _ in range(int(line)):
            started = time.perf_counter()
            loss = step(batch)
            seconds.append(time.perf_counter() - started)
        say({"seconds": seconds, "loss": loss, "cpu": time.process_time() - used})
    training = resident("VmHWM")
    say({"imported": imported, "training_peak": training, "peak": max(starting, training)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds config.json, and the start and the batches of `prepare`")
    parser.add_argument("mode", choices=("prepare", "jax", *PEERS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", required=True, help="one but for `prepare`")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--block", required=True)
    parser.add_argument("--compile-mode", required=True)
    parser.add_argument("--keep-memory", action="store_true")
    arguments = parser.parse_args()
    # Libraries may print; only replies go to standard output.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")

    folder = arguments.folder
    config = Config.from_json(json.loads((folder / "config.json").read_text()), where=str(folder / "config.json"))
    options = Options(arguments.block, arguments.compile_mode, arguments.keep_memory)
    if arguments.mode == "prepare":
        from benchmarks.peers.prepare import prepare

        say(prepare(folder, config, arguments.batch_sizes, options))
        return
    side = "jax" if arguments.mode == "jax" else "torch"
    batch = arrays(folder / f"{side}-{arguments.batch_sizes[0]}.npz")
    step, imported = contender(arguments.mode, folder, config, arguments.threads, options)
    serve(step, batch, imported, say)


if __name__ == "__main__":
    try:
        main()
    except MaxsearchError as error:
        sys.exit(f"peers: {error}")
