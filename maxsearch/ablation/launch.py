"""Starts a worker, waits for it, and says in a sentence how it failed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from maxsearch.ablation.jobs import LOG

POLL_SECONDS = 0.5
PREFIX = "maxsearch: "
TAIL_BYTES = 4096


def launch(folder: Path, stop: list[int], cache: Path, title: str) -> str | None:
    """Runs a job in a process of its own.

    Args:
      folder: the job's.
      stop: as soon as it holds anything, the worker is told to save and end.
      cache: folder of the compiled programs that all workers share, unless the environment names one.
      title: the run in words, for the terminal.

    Returns:
      None on success, else what went wrong.
    """
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(cache.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    console = Console(stderr=True)
    with (folder / LOG).open("ab") as log:
        begun = log.tell()
        worker = subprocess.Popen(
            [sys.executable, "-m", "maxsearch.ablation.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**defaults, **os.environ},
            start_new_session=True,  # Ctrl-C reaches this process alone, which tells the worker in its own way
        )
        assert worker.stdin is not None
        try:
            with console.status(title) as status:
                while worker.poll() is None:
                    if stop:
                        worker.stdin.close()
                    try:
                        worker.wait(POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        if console.is_terminal:
                            status.update(f"{title}: {last_line(folder / LOG, begun)}")
        finally:
            worker.stdin.close()
    if worker.returncode == 0:
        return None
    return reason(worker.returncode, last_line(folder / LOG, begun))


def last_line(log: Path, begun: int) -> str:
    """The last line that a worker wrote, which began at a byte of the log."""
    with log.open("rb") as stream:
        stream.seek(max(begun, log.stat().st_size - TAIL_BYTES))
        lines = stream.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def reason(code: int, said: str) -> str:
    """Why a worker ended, from its exit code and its last line."""
    if said.startswith(PREFIX):
        return said.removeprefix(PREFIX)
    if code < 0:
        more = ", as happens when memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{more}"
    return f"its process ended with code {code}: {said}"
