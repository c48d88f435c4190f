"""Progress on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

T = TypeVar("T")

PLAIN_SECONDS = 10.0


class Progress:
    """Reports how far a long step has come, on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields the items while reporting.

        Args:
          items: what to go through.
          description: the step in words.
          total: number of items, when it is known.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        if self._console.is_terminal:
            yield from self._track_bar(items, description, total)
        else:
            yield from self._track_lines(items, description, total)

    def _track_bar(self, items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console) as bars:
            yield from bars.track(items, total=total, description=description)

    def _track_lines(self, items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        start = last = time.monotonic()
        done = 0
        of = f" of {total:,}" if total is not None else ""
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - last >= PLAIN_SECONDS:
                last = now
                print(f"{description}: {done:,}{of} in {now - start:.0f} s", file=sys.stderr, flush=True)
        print(f"{description}: {done:,}{of} in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
