"""Where a run's numbers go: RUN/metrics.jsonl, TensorBoard files, and a bar or plain lines."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from maxsearch.files import write_bytes
from maxsearch.training.goodput import write_lines
from maxsearch.training.run_folder import METRICS, TENSORBOARD


def truncate_metrics(path: Path, step: int) -> None:
    """Drops a torn last line and the lines after `step`, which a killed run wrote and is about to write again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step:
            kept.append(line + "\n")
    write_bytes(path, "".join(kept).encode())


class MetricWriter:
    """Writes one object per logged step, in order."""

    def __init__(self, run: Path, step: int) -> None:
        """Opens the files for appending.

        Args:
          run: the run's folder.
          step: updates done so far; what was logged beyond it is dropped.
        """
        truncate_metrics(run / METRICS, step)
        self._run = run
        self._lines = (run / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1, flush_secs=30)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def goodput(self, lines: Sequence[dict[str, Any]]) -> None:
        """Writes where the time of all processes went."""
        write_lines(self._run, lines)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._lines.close()
        self._board.close()


class Display:
    """Shows training on stderr: a bar on a terminal, else a line per logged step; or nothing."""

    def __init__(self, step: int, *, silent: bool = False) -> None:
        self._silent = silent
        self._console = Console(stderr=True, quiet=silent)
        self._bar: Progress | None = None
        self._first: tuple[int, float] | None = None
        if self._console.is_terminal and not silent:
            self._bar = Progress(
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=None, completed=step)

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Tells what is going on."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int, horizon: float) -> None:
        """Moves the bar."""
        if self._first is None:
            self._first = (step, time.monotonic())  # the first step of the process compiles and tells nothing of pace
        if self._bar:
            self._bar.update(self._task, completed=step, total=max(int(horizon), step))

    def forget_pace(self) -> None:
        """Measures the pace anew: the next step compiles too."""
        self._first = None

    def show(self, step: int, horizon: float, values: dict[str, float], stage: str = "") -> None:
        """Tells the numbers of a logged step, and of which stage it is."""
        if self._silent:
            return
        terms = ", ".join(f"{name[5:]} {value:.3f}" for name, value in values.items() if name.startswith("loss/"))
        text = f"loss {values['loss']:.4f} ({terms}), {values['examples_per_second']:,.0f} examples/s"
        if self._bar:
            self._bar.update(self._task, description=f"{stage}: {text}" if stage else text)
            return
        waited = f", waited {100 * values['data_wait']:.1f} % for data" if values["data_wait"] > 0.02 else ""
        left = ""
        if self._first and step > self._first[0]:
            pace = (time.monotonic() - self._first[1]) / (step - self._first[0])
            left = f", {max(horizon - step, 0) * pace / 60:.1f} min left"
        print(f"step {step}/{int(horizon)}{stage and ' '}{stage}: {text}{waited}{left}", file=sys.stderr, flush=True)
