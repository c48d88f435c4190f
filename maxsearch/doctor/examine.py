"""The whole examination, and how it is told."""

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maxsearch.doctor.devices import check_devices, chips_of_machine, probe
from maxsearch.doctor.environment import CACHE, check_environment
from maxsearch.doctor.finding import Finding, Level
from maxsearch.doctor.folders import check_clock, check_folder, look_at
from maxsearch.doctor.machine import Machine, check_machine
from maxsearch.doctor.packages import Packages, check_drivers, check_extras, check_packages
from maxsearch.manifest import created_by

STYLES = {Level.OK: "green", Level.ADVICE: "yellow", Level.PROBLEM: "bold red"}


def examine(
    *, data: str | None, run: str | None, timeout: float, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Looks at everything.

    Args:
      data, run: folders or URLs of prepared data and of a run, where they are known; else the current folder is looked
        at.
      timeout: seconds that JAX may take to find its devices.
      environment: variables by name.
    """
    packages, chips = Packages.read(), chips_of_machine()
    return [
        *check_packages(packages),
        *check_drivers(packages, chips),
        check_devices(probe(timeout), chips, environment, timeout),
        *check_environment(environment, cuda=any(name.startswith("jax-cuda") for name in packages.installed)),
        *check_machine(Machine.read()),
        *(check_folder(look_at(role, path)) for role, path in folders(data, run, environment).items()),
        check_clock(time.time()),
        *check_extras(packages),
    ]


def folders(data: str | None, run: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The folders that are written to, by what they are for."""
    given = {"data": data, "run": run}
    named = {role: path for role, path in given.items() if path is not None} or {"current": str(Path.cwd())}
    hub = environment.get("HF_HOME") or str(Path(environment.get("XDG_CACHE_HOME", "~/.cache")).expanduser())
    cache = {"compile cache": environment[CACHE]} if environment.get(CACHE) else {}
    return {**named, "temporary": tempfile.gettempdir(), "cache": hub, **cache}


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Prints a line per finding, and how many problems there are."""
    console = console or Console()
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for column in ("", "check", "found, and what to do"):
        table.add_column(column)
    for one in findings:
        said = Text(one.found)
        if one.remedy:
            said.append(f": {one.remedy}", style=STYLES[one.level])
        table.add_row(Text(one.level.value, style=STYLES[one.level]), Text(one.check), said)
    console.print(table)
    counted = {level: sum(one.level is level for one in findings) for level in Level}
    console.print(
        f"{counted[Level.PROBLEM]} problems, {counted[Level.ADVICE]} pieces of advice, {counted[Level.OK]} ok",
        highlight=False,
    )


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as plain JSON values."""
    return {
        "schema_version": 1,
        "kind": "maxsearch-doctor",
        "created_by": created_by(),
        "python": sys.version.split()[0],
        "problems": sum(one.level is Level.PROBLEM for one in findings),
        "findings": [
            {"check": one.check, "level": one.level.value, "found": one.found, "remedy": one.remedy} for one in findings
        ],
    }
