"""Several processes on this machine that run a command as one: the rehearsal of a pod, with real collectives."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from maxsearch.distributed import COORDINATOR, PROCESS, PROCESSES
from maxsearch.errors import MaxsearchError

GRACE_SECONDS = 20.0  # in which processes that lost another leave by themselves
POLL_SECONDS = 0.1
THREADS_PER_DEVICE = 4
"""XLA has one thread per simulated device or core, and NPROC of them if that is set. A collective holds a thread until
the other devices come, and a device may be in several at once: with one thread each all of them can end up waiting."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment_of(process: int, processes: int, devices: int, port: int) -> dict[str, str]:
    """What tells one of the processes its place, and gives it some simulated devices."""
    return {
        **os.environ,
        COORDINATOR: f"127.0.0.1:{port}",
        PROCESSES: str(processes),
        PROCESS: str(process),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "NPROC": os.environ.get("NPROC", str(max(os.cpu_count() or 1, THREADS_PER_DEVICE * devices))),
    }


def launch(words: Sequence[str], processes: int, devices: int) -> None:
    """Runs `maxsearch WORDS` as several processes and waits for all.

    Their lines come out as they are, those of all but the first behind the number of their process. SIGTERM and Ctrl-C
    go to all of them. When one fails, the others are ended.

    Args:
      words: the command.
      processes: how many.
      devices: simulated devices of each.

    Raises:
      MaxsearchError: one of them failed; the message says which, and how.
    """
    port = free_port()
    command = [sys.executable, "-m", "maxsearch", *words]
    workers = [
        subprocess.Popen(
            command,
            env=environment_of(number, processes, devices, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which tells the others
        )
        for number in range(processes)
    ]
    pumps = [threading.Thread(target=pump, args=(worker.stdout, number)) for number, worker in enumerate(workers)]
    for thread in pumps:
        thread.start()
    told: list[int] = []
    old = {number: signal.signal(number, lambda n, _: told.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        failed = wait(workers, told)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        for thread in pumps:
            thread.join()
    if failed is not None:
        raise MaxsearchError(
            f"process {failed} of {processes} {ending(workers[failed].returncode)}, and the others were ended; its "
            "lines above say why, and the same command goes on from the last checkpoint"
        )


def wait(workers: Sequence["subprocess.Popen[bytes]"], told: list[int]) -> int | None:
    """Waits until all have ended, or one has failed and the others had time to leave; the first that failed."""
    failed, deadline, passed_on = None, 0.0, False
    while any(worker.poll() is None for worker in workers):
        if told and not passed_on:
            passed_on = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        if failed is None:
            failed = first_failed(workers)
            deadline = time.monotonic() + GRACE_SECONDS
        elif time.monotonic() > deadline:
            return failed
        time.sleep(POLL_SECONDS)
    return failed if failed is not None else first_failed(workers)


def first_failed(workers: Sequence["subprocess.Popen[bytes]"]) -> int | None:
    """A worker that failed; of several the one that a signal ended, since the others leave when they lose it."""
    failed = [number for number, worker in enumerate(workers) if worker.poll()]
    return min(failed, key=lambda number: workers[number].returncode, default=None)


def pump(stream: IO[bytes] | None, number: int) -> None:
    """Passes a process's lines on, to stderr."""
    assert stream is not None
    mark = b"" if number == 0 else f"[{number}] ".encode()
    for line in stream:
        sys.stderr.buffer.write(mark + line)
        sys.stderr.buffer.flush()


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
