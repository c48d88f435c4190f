"""How long the device waits between two steps, from a profile of a run on CPU, as one JSON line.

maxsearch train fashion --data DATA --run RUN --steps 40 --profile-steps 20:38
python benchmarks/overhead.py RUN

`between` is the time from the end of one execution of the step to the beginning of the next; the next one has been
handed over long before, so that all of it is the runtime's own. `handed_over_early` says how long before the end of one
step Python had dispatched the next. Both are medians in milliseconds.
"""

import argparse
import json
import statistics
from itertools import pairwise
from pathlib import Path

from jax.profiler import ProfileData

EXECUTION = "ThunkExecutor::Execute"
DISPATCH = "PjitFunction(step)"
MILLION = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    traces = sorted((run / "profile").rglob("*.xplane.pb"))
    if not traces:
        raise SystemExit(f"{run}/profile holds no trace: train with --profile-steps")
    executions: list[tuple[float, float]] = []
    dispatches: set[float] = set()
    for plane in ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                begin, end = event.start_ns / MILLION, (event.start_ns + event.duration_ns) / MILLION
                if event.name == DISPATCH:
                    dispatches.add(begin)
                elif "PjRtCpuClient" in line.name and event.name.startswith(EXECUTION):
                    executions.append((begin, end))
    longest = max(end - begin for begin, end in executions)
    steps = sorted((begin, end) for begin, end in executions if end - begin > longest / 2)
    waits = [max(later[0] - earlier[1], 0.0) for earlier, later in pairwise(steps)]
    early = [end - max(begin for begin in dispatches if begin < end) for _, end in steps if min(dispatches) < end]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = {
        "benchmark": "overhead",
        "steps": len(steps),
        "step_ms": round(statistics.median(end - begin for begin, end in steps), 2),
        "between_ms": round(statistics.median(waits), 2),
        "between_share": round(sum(waits) / (steps[-1][1] - steps[0][0]), 4),
        "handed_over_early_ms": round(statistics.median(early), 2),
        "data_wait": round(statistics.median(line["data_wait"] for line in lines[1:] or lines), 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
