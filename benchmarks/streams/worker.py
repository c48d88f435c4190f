"""One contender in a process of its own: draws batches for as many seconds as each line of its input says.

python -m benchmarks.streams.worker NAME FLAGS
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.streams.contenders import CONTENDERS
from benchmarks.streams.work import BUFFERED, Work


def cpu_seconds() -> float:
    """What this process group, workers included, has used of the cores (proc(5): stat)."""
    ticks, group = 0, os.getpgrp()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended in the meantime
        if int(fields[2]) == group:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def shapes(batch: Any) -> list[str]:
    return [f"{str(part.dtype).rpartition('.')[2]}{list(part.shape)}" for part in batch if hasattr(part, "shape")]


def main() -> None:
    name, *words = sys.argv[1:]
    work = Work.parse(words)
    if work.workers == 0 and name != "maxsearch":
        import torch

        torch.set_num_threads(1)
    batches = CONTENDERS[name](work)
    first = next(batches)
    print(json.dumps({"batch": shapes(first)}), flush=True)
    for line in sys.stdin:
        # What was prepared ahead while nobody asked does not count.
        for _ in range(BUFFERED * max(work.workers, 1) + 1):
            next(batches)
        started, used, count = time.perf_counter(), cpu_seconds(), 0
        while time.perf_counter() - started < float(line):
            next(batches)
            count += 1
        seconds, used = time.perf_counter() - started, cpu_seconds() - used
        print(json.dumps({"examples": count * work.batch_size, "seconds": seconds, "cpu": used}), flush=True)


if __name__ == "__main__":
    main()
