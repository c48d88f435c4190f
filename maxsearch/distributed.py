"""Several processes that train as one: how they find one another, agree, and end.

One process, as on a laptop, agrees with itself and needs none of it.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from maxsearch.errors import MaxsearchError, UsageError

# What `launch-local` tells the processes that it begins; by hand they serve any cluster that JAX does not know.
COORDINATOR, PROCESSES, PROCESS = "MAXSEARCH_COORDINATOR", "MAXSEARCH_PROCESSES", "MAXSEARCH_PROCESS"
HEARTBEAT_SECONDS = 30

Value = TypeVar("Value")


class ToldError(MaxsearchError):
    """The leader's error on another process, which has nothing to add."""


def announced(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process may be one of several.

    It knows our own variables and those of SLURM, TPU pods (GKE and JobSet set them), slices joined into one run, and
    Open MPI. A Compute Engine TPU VM has none: there JAX asks the metadata server, so that its chips are sign enough.
    """
    if COORDINATOR in environment:
        return environment.get(PROCESSES) != "1"
    hosts = environment.get("TPU_WORKER_HOSTNAMES") or environment.get("TPU_PROCESS_ADDRESSES") or ""
    tasks = environment.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in environment else "1"
    slices = environment.get("MEGASCALE_NUM_SLICES", "1")
    several = "," in hosts or tasks != "1" or slices != "1" or "OMPI_MCA_orte_hnp_uri" in environment
    return several or (environment.get("JAX_PLATFORMS") != "cpu" and not hosts and on_tpu_vm())


def on_tpu_vm() -> bool:
    """Whether this machine has TPU chips and what drives them."""
    chips = (*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and find_spec("libtpu") is not None


def join(mode: Literal["auto", "on", "off"] = "auto", environment: Mapping[str, str] = os.environ) -> bool:
    """Joins the other processes, if there are any; must come before anything asks JAX for devices.

    Args:
      mode: `auto` joins if the environment announces others, `on` in any case, with what JAX finds out by itself.
      environment: variables by name.

    Returns:
      Whether this process is one of several.

    Raises:
      MaxsearchError: the others do not come, or the environment contradicts itself.
    """
    if mode == "off" or (mode == "auto" and not announced(environment)):
        return False
    ours: dict[str, Any] = {}
    if COORDINATOR in environment:
        try:
            ours = {
                "coordinator_address": environment[COORDINATOR],
                "num_processes": int(environment[PROCESSES]),
                "process_id": int(environment[PROCESS]),
            }
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"{COORDINATOR} is set and {PROCESSES} and {PROCESS} are not two numbers ({error}): set all three"
            ) from None
    try:
        jax.distributed.initialize(**ours, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise MaxsearchError(
            f"the processes of this run did not find one another ({str(error).splitlines()[0]}): see that all of them "
            "are started, that they reach the coordinator's address and port, or give --distributed off"
        ) from None
    return jax.process_count() > 1


def leads() -> bool:
    """Whether this process writes what one process writes for all."""
    return jax.process_index() == 0


def from_leader(make: Callable[[], Value]) -> Value:
    """What `make` gives on the leader, a JSON value, on every process; it is called there alone.

    Raises:
      MaxsearchError: the leader's `make` raised it; the others raise ToldError.
    """
    if jax.process_count() == 1:
        return make()
    said: dict[str, Any] = {}
    if leads():
        try:
            said = {"value": make()}
        except MaxsearchError as error:
            said = {"error": str(error), "usage": isinstance(error, UsageError)}
    said = told(said)
    if "error" in said:
        raise (UsageError if said["usage"] else MaxsearchError)(said["error"]) if leads() else ToldError(said["error"])
    value: Value = said["value"]
    return value


def told(value: Any) -> Any:
    """The leader's JSON value, on every process."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    if leads():
        padded[:] = text
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


@contextmanager
def together() -> Iterator[None]:
    """Ends this process at once when the work inside fails, so that no process waits for one that will not come.

    A process that ends in the usual way would wait for the others, which wait for it.
    """
    try:
        yield
    except ToldError as error:
        os._exit(error.exit_code)
    except MaxsearchError as error:
        if jax.process_count() == 1:
            raise
        leave(str(error), error.exit_code)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        leave(
            f"process {jax.process_index()} of {jax.process_count()} lost the others ({lines[0][:200]}): one of them "
            "ended, and its own log says why; repeat the command to go on from the last checkpoint",
            1,
        )


def leave(message: str, code: int) -> None:
    """Says why, and ends the process without waiting for anything."""
    print(f"maxsearch: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def forward_interrupts() -> None:
    """Makes Ctrl-C a SIGTERM, which JAX tells to all processes so that they stop at the same step."""
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def stops(step: int) -> bool:
    """Whether some process was told to end, and this is the step at which all of them do."""
    return bool(multihost_utils.reached_preemption_sync_point(step))
