"""The devices that JAX finds, asked in a process of its own: a chip that does not answer must not stop the doctor."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maxsearch.doctor.finding import Finding, advice, ok, problem

CHECK = "devices"

SCRIPT = """
import json, jax
kinds = [(device.platform, device.device_kind) for device in jax.local_devices()]
total = float(jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).sum())
print(json.dumps({"backend": jax.default_backend(), "kinds": kinds, "works": total == 512.0}))
"""


@dataclass(frozen=True)
class Probe:
    """What became of asking JAX for its devices.

    Attributes:
      backend: the platform that JAX computes on; empty where it found none.
      kinds: platform and kind of each local device.
      works: whether a product of matrices came out right.
      timed_out: it did not answer in time.
      error: the last line of what it said when it failed.
    """

    backend: str = ""
    kinds: tuple[tuple[str, str], ...] = ()
    works: bool = False
    timed_out: bool = False
    error: str = ""


def probe(timeout: float) -> Probe:
    """Asks JAX for its devices and has the first one compute, in a process that ends after `timeout` seconds."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return Probe(timed_out=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return Probe(error=said[-1][:300] if said else how)
    told = json.loads(lines[-1])
    return Probe(told["backend"], tuple((platform, kind) for platform, kind in told["kinds"]), told["works"])


def chips_of_machine(dev: Path = Path("/dev")) -> dict[str, int]:
    """How many device files of TPUs and of NVIDIA GPUs the machine has."""
    tpus = [*dev.glob("accel[0-9]*"), *(dev / "vfio").glob("[0-9]*")]
    return {"tpu": len(tpus), "cuda": len(list(dev.glob("nvidia[0-9]*")))}


def check_devices(found: Probe, chips: Mapping[str, int], environment: Mapping[str, str], timeout: float) -> Finding:
    """What the answer means.

    Args:
      found: JAX's answer.
      chips: device files of each kind that the machine has.
      environment: variables by name.
      timeout: how long the answer was waited for, in seconds.
    """
    if found.timed_out:
        several = "on a pod of several hosts run this on all of them at once; else " if chips.get("tpu") else ""
        return problem(
            CHECK,
            f"JAX has not found its devices in {timeout:g} s",
            f"{several}end other processes that hold the chips, look at TPU_* and JAX_PLATFORMS, or give --timeout",
        )
    if found.error:
        return problem(
            CHECK,
            f"JAX found no devices: {found.error}",
            "JAX_PLATFORMS=cpu takes the CPU; for a chip end other processes that hold it, and look at its driver",
        )
    counted = {kind: found.kinds.count(kind) for kind in dict.fromkeys(found.kinds)}
    told = ", ".join(f"{count} x {kind} ({platform})" for (platform, kind), count in counted.items())
    if not found.works:
        return problem(CHECK, f"a product of matrices on {told} came out wrong", "do not use this chip, or its driver")
    unused = [kind for kind, count in chips.items() if count and found.backend == "cpu"]
    if unused:
        asked = environment.get("JAX_PLATFORMS")
        remedy = f"unset JAX_PLATFORMS, which is {asked!r}" if asked else f"pip install 'maxsearch[{unused[0]}]'"
        return advice(CHECK, f"JAX takes the CPU ({told}) though the machine has {unused[0]} chips", remedy)
    return ok(CHECK, told)
