"""Cores, memory, open files, text encoding and kernel of this machine, as a container's limits leave them."""

import locale
import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from maxsearch.doctor.finding import Finding, advice, ok, problem

GIB = 2**30
MEMORY_NEEDED, MEMORY_WISHED = 5 * GIB // 2, 6 * GIB  # the quickstart takes 2.1
SHARED_WISHED = GIB
FILES_NEEDED, FILES_WISHED = 256, 4096


@dataclass(frozen=True)
class Machine:
    """What this process may use.

    Attributes:
      system: the operating system's name, as sys.platform has it.
      cores: that it may run on.
      core_limit: cores' worth of time that its control group may take; None without a limit.
      memory: bytes of the machine, or of the control group where that is less.
      memory_free: bytes that can still be had of them.
      shared_free: free bytes of /dev/shm; None where there is none.
      files, files_most: soft and hard limit of open files.
      encoding: of names and of text that programs exchange.
    """

    system: str
    cores: int
    core_limit: float | None
    memory: int
    memory_free: int
    shared_free: int | None
    files: int
    files_most: int
    encoding: str

    @classmethod
    def read(cls, root: Path = Path("/")) -> "Machine":
        """Of this process.

        Args:
          root: where proc/, sys/ and dev/ are looked for.
        """
        total, free = _memory(root)
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        shared = root / "dev/shm"
        return cls(
            system=sys.platform,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            core_limit=_core_limit(root),
            memory=total,
            memory_free=free,
            shared_free=shutil.disk_usage(shared).free if shared.is_dir() else None,
            files=sys.maxsize if files == unlimited else files,
            files_most=sys.maxsize if most == unlimited else most,
            encoding=locale.getpreferredencoding(False),
        )


def check_machine(machine: Machine) -> list[Finding]:
    """A line for each of the machine's properties."""
    return [
        _system(machine.system),
        _cores(machine.cores, machine.core_limit),
        _memory_left(machine.memory, machine.memory_free),
        *([] if machine.shared_free is None else [_shared(machine.shared_free)]),
        _files(machine.files, machine.files_most),
        _text(machine.encoding),
    ]


def _system(name: str) -> Finding:
    if name != "linux":
        return advice("system", f"{name}: maxsearch is tested on Linux", "use Linux, where ScaNN's wheels are too")
    return ok("system", "Linux")


def _cores(cores: int, limit: float | None) -> Finding:
    if limit is not None and limit < cores - 0.5:
        return advice(
            "cpu",
            f"{cores} cores are seen, and the control group allows {limit:g}: a thread per core waits for its turn",
            f"pin the process, as in taskset -c 0-{max(int(limit), 1) - 1}, or raise the container's limit",
        )
    return ok("cpu", f"{cores} cores")


def _memory_left(total: int, free: int) -> Finding:
    told = f"{size(free)} of {size(total)} free"
    if free < MEMORY_NEEDED:
        return problem(
            "memory", told, f"even the quickstart needs {size(MEMORY_NEEDED)}: end other programs, or raise the limit"
        )
    if free < MEMORY_WISHED:
        return advice("memory", told, "lower --data.batch-size or --train.microbatches if training is killed")
    return ok("memory", told)


def _shared(free: int) -> Finding:
    told = f"{size(free)} free in /dev/shm"
    if free < SHARED_WISHED:
        use = "workers of the stream hand arrays over there, and NCCL between GPUs"
        return advice(
            "shared memory", f"{told}: {use}", "start the container with --shm-size=2g, or use --data.workers 0"
        )
    return ok("shared memory", told)


def _files(soft: int, hard: int) -> Finding:
    told = "no limit of open files" if soft == sys.maxsize else f"{soft:,} open files allowed"
    raised = f"ulimit -n {min(hard, 65536)}" if hard > soft else "raise the hard limit in limits.conf or the unit"
    if soft < FILES_NEEDED:
        return problem("open files", told, raised)
    if soft < FILES_WISHED:
        return advice("open files", f"{told}: few for many shards and connections", raised)
    return ok("open files", told)


def _text(encoding: str) -> Finding:
    if encoding.lower().replace("-", "") != "utf8":
        return problem("text", f"the locale's encoding is {encoding}", "export LC_ALL=C.UTF-8, or PYTHONUTF8=1")
    return ok("text", encoding)


def size(count: int) -> str:
    """A count of bytes for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


def _groups(root: Path, controller: str) -> list[Path]:
    """The folders of this process's control groups that may hold a limit, of both versions, innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / path.lstrip("/")
        # In a container the path may be the host's, and the mount is the group itself: so its top counts as well.
        found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _core_limit(root: Path) -> float | None:
    limits = []
    for group in _groups(root, "cpu"):
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            quota, period = (
                str(_number(group / "cpu.cfs_quota_us") or -1),
                str(_number(group / "cpu.cfs_period_us") or 0),
            )
        if quota.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _memory(root: Path) -> tuple[int, int]:
    """Bytes in all and bytes that can be had, of the machine or of its control groups where they leave less."""
    told = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
    total, free = (int(told[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    for group in _groups(root, "memory"):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(group / limit_file), _number(group / used_file)
            if limit is not None and limit < total:
                total = limit
            if limit is not None and used is not None:
                # What the group's files take of the cache can be had again, so it is no use.
                free = min(free, max(limit - used + _reclaimable(group), 0))
    return total, free


def _reclaimable(group: Path) -> int:
    try:
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(told.get("inactive_file", told.get("total_inactive_file", 0)))
