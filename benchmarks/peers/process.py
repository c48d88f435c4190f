"""The benchmark's hold on a worker process."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError

ROOT = Path(__file__).parents[2]


def busy_seconds() -> float:
    """What all processes together have used of the machine's cores since it started (proc(5): stat)."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A worker process of its own, spoken to line by line; see worker.py."""

    def __init__(self, name: str, words: list[str], threads: int) -> None:
        """Starts `python -m benchmarks.peers.worker` with these words, on the CPU alone."""
        self.name = name
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(threads),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
            bufsize=1,
        )

    def reply(self) -> dict[str, Any]:
        """The next line that it says.

        Raises:
          MaxsearchError: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise MaxsearchError(
                f"the worker {self.name} ended with exit code {code} before its answer: read its own message above, "
                "and choose a smaller --batch-size if it was killed for memory"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def train(self, steps: int) -> dict[str, Any]:
        """Lets it train some steps: `seconds` of each, the last `loss`, and the `cpu` seconds of all."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # reply() says why
            self._process.stdin.write(f"{steps}\n")
        return self.reply()

    def finish(self) -> dict[str, Any]:
        """Lets it end: its peak of memory, in bytes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        answer = self.reply()
        self._process.wait()
        return answer

    def stop(self) -> None:
        """Ends it at once if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
