"""Where the time of a run goes: goodput is the share of wall time that was spent on steps which counted.

RUN/goodput.jsonl has a line for each process that worked on the run, as of its last checkpoint. Steps that a later
process had to do again do not count.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxsearch.files import write_bytes

GOODPUT = "goodput.jsonl"
STEPS = "steps"


@dataclass
class Clock:
    """Sorts the seconds of one process by what they were spent on.

    Attributes:
      began: the wall clock's time when it was made.
      seconds: by reason; what no reason covers was spent on steps.
    """

    began: float = field(default_factory=time.time)
    seconds: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)
    _inner: float = 0.0

    @contextmanager
    def spent_on(self, reason: str) -> Iterator[None]:
        """Books the time of a block; a block within a block counts for itself alone."""
        outer, self._inner, entered = self._inner, 0.0, time.monotonic()
        try:
            yield
        finally:
            whole = time.monotonic() - entered
            self.add(reason, whole - self._inner)
            self._inner = outer + whole

    def add(self, reason: str, seconds: float) -> None:
        """Books seconds that were measured elsewhere."""
        self.seconds[reason] = self.seconds.get(reason, 0.0) + seconds

    @property
    def wall(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._start

    def line(self, first: int, last: int, data_wait: float) -> dict[str, Any]:
        """A line of goodput.jsonl: steps `first` + 1 to `last` were done, and waited so long for data."""
        wall, booked = self.wall, {**self.seconds, "data": data_wait}
        seconds = {**booked, STEPS: max(wall - sum(booked.values()), 0.0)}
        return {"began": self.began, "wall": wall, "first": first, "last": last, "seconds": seconds}


def write_lines(run: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Writes the lines of all processes."""
    write_bytes(run / GOODPUT, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of every process that came to a checkpoint."""
    path = run / GOODPUT
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def goodput(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Shares of wall time by reason, of all processes together.

    `steps` is the goodput; steps that a later process did again are `repeated`, and the time from a process's last
    checkpoint to the next one's beginning is `down`.

    Args:
      lines: of goodput.jsonl, in order.
    """
    if not lines:
        return {}
    seconds: dict[str, float] = {}
    for number, line in enumerate(lines):
        for reason, value in line["seconds"].items():
            seconds[reason] = seconds.get(reason, 0.0) + value
        done = line["last"] - line["first"]
        resumed = min((later["first"] for later in lines[number + 1 :]), default=line["last"])
        again = min(max(line["last"] - max(resumed, line["first"]), 0), done)
        if again:
            lost = line["seconds"].get(STEPS, 0.0) * again / done
            seconds[STEPS] -= lost
            seconds["repeated"] = seconds.get("repeated", 0.0) + lost
        if number + 1 < len(lines):
            idle = max(lines[number + 1]["began"] - line["began"] - line["wall"], 0.0)
            seconds["down"] = seconds.get("down", 0.0) + idle
    total = sum(seconds.values())
    return {reason: value / total for reason, value in seconds.items()} if total else {}


def told(shares: dict[str, float]) -> str:
    """The shares in a line, the goodput first and the largest losses after it."""
    losses = sorted(((value, reason) for reason, value in shares.items() if reason != STEPS), reverse=True)
    named = ", ".join(f"{reason} {100 * value:.1f} %" for value, reason in losses if value >= 0.001)
    return f"goodput {100 * shares.get(STEPS, 0.0):.1f} %" + (f" ({named})" if named else "")
