"""Environment variables that change what JAX and its libraries do."""

import os
from collections.abc import Mapping
from pathlib import Path

from maxsearch.data.tables.remote import is_url
from maxsearch.doctor.finding import Finding, advice, ok, problem

CACHE = "JAX_COMPILATION_CACHE_DIR"
SIMULATED = "xla_force_host_platform_device_count"
SLOW = ("JAX_DISABLE_JIT", "JAX_DEBUG_NANS", "JAX_DEBUG_INFS", "JAX_CHECK_TRACER_LEAKS")
NEEDED = {
    "MAXSEARCH_COORDINATOR": ("MAXSEARCH_PROCESSES", "MAXSEARCH_PROCESS"),
    "TPU_WORKER_HOSTNAMES": ("TPU_WORKER_ID",),
}
TOLD = ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS", CACHE, "LD_LIBRARY_PATH")


def check_environment(environment: Mapping[str, str], *, cuda: bool) -> list[Finding]:
    """A line for each variable that is set and matters.

    Args:
      environment: variables by name.
      cuda: whether a CUDA plugin of JAX is installed.
    """
    found = []
    for name in [*TOLD, *sorted(name for name in environment if name.startswith("TPU_"))]:
        value = environment.get(name)
        if value:
            found.append(_told(name, value, cuda))
    for name in SLOW:
        if environment.get(name, "").lower() in {"1", "true", "on", "yes"}:
            found.append(
                advice(name, "is on: steps are many times slower", f"unset {name} unless you look for a fault")
            )
    if environment.get("JAX_ENABLE_X64", "").lower() in {"1", "true", "on", "yes"}:
        found.append(
            advice("JAX_ENABLE_X64", "is on: maxsearch is not tested with 64-bit types", "unset JAX_ENABLE_X64")
        )
    for name, others in NEEDED.items():
        missing = [other for other in others if not environment.get(other)]
        several = name in environment and (name != "TPU_WORKER_HOSTNAMES" or "," in environment[name])
        if several and missing:
            found.append(problem(name, f"is set without {' and '.join(missing)}", "set all of them, or none"))
    return found or [ok("environment", "no variable is set that changes what JAX does")]


def _told(name: str, value: str, cuda: bool) -> Finding:
    shown = value if len(value) <= 120 else value[:117] + "..."
    if name == "XLA_FLAGS" and SIMULATED in value:
        return advice(name, f"{shown}: simulates devices on the CPU", "unset it to measure, and outside of tests")
    if name == "LD_LIBRARY_PATH" and cuda:
        return advice(
            name, f"{shown}: may put another CUDA before the one that JAX's plugin brings", "unset LD_LIBRARY_PATH"
        )
    if name == CACHE and not is_url(value):
        place = Path(value)
        if place.exists() and not (place.is_dir() and os.access(place, os.W_OK)):
            return problem(name, f"{value} cannot be written to, so that nothing is kept", "name a folder of your own")
    return ok(name, shown)
