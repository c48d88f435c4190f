"""On what a run ran: versions and devices, one entry for each time that it began or went on.

Nothing of it names the machine, its user or a folder of theirs.
"""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from maxsearch.files import read_json, write_json
from maxsearch.manifest import created_by
from maxsearch.training.run_folder import ENVIRONMENT

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers", "scann")


def environment() -> dict[str, Any]:
    """What this process runs on, as plain JSON values.

    Returns:
      created_by, python, platform, cpu_count (that it may use), packages ({name: version}), devices ({"kind", "count",
      "processes"}) and git ({"commit", "changed"}, None outside of a checkout).
    """
    devices = jax.devices()
    return {
        "created_by": created_by(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "devices": {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()},
        "git": git_commit(Path(__file__).resolve().parents[2]),
    }


def note_process(run: Path, step: int, fingerprint: str) -> None:
    """Adds this process to RUN/environment.json, in place of those whose steps are done again.

    Args:
      run: the run's folder.
      step: updates done before this process.
      fingerprint: of the source of its examples.
    """
    path, earlier = run / ENVIRONMENT, []
    if step and path.is_file():
        found = read_json(path, what="environment of the run", remedy="remove it, and repeat the command")
        processes = found.get("processes") if isinstance(found, dict) else None
        earlier = [one for one in processes or () if isinstance(one, dict) and one.get("from_step", 0) < step]
    entry = {"from_step": step, "data_fingerprint": fingerprint, **environment()}
    write_json(path, {"schema_version": 1, "kind": "maxsearch-environment", "processes": [*earlier, entry]})


def git_commit(folder: Path) -> dict[str, Any] | None:
    """The commit of a checkout, and whether tracked files differ from it; None when the folder is no root of one."""
    if not (folder / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(changes.strip())}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
