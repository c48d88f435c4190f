"""The sub-command `doctor`: its flags, and the call that it is. The doc strings are the help texts."""

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Doctor:
    """Look at devices, packages, memory, disk and limits, and say what to mend; exits with 1 if something will fail."""

    data: Annotated[str | None, arg(metavar="PATH")] = None
    """Where prepared data are or will be."""
    run_folder: Annotated[str | None, arg(name="run", metavar="PATH")] = None
    """Where runs are or will be."""
    timeout: float = 60.0
    """Seconds that JAX may take to find its devices."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object in place of a table."""

    def run(self) -> None:
        import json

        from maxsearch.doctor.examine import examine, findings_json, print_findings

        if not 0 < self.timeout < 86_400:
            raise UsageError(f"--timeout must be a number of seconds above 0, not {self.timeout}")
        findings = examine(data=self.data, run=self.run_folder, timeout=self.timeout)
        told = findings_json(findings)
        if self.json:
            print(json.dumps(told, ensure_ascii=False))
        else:
            print_findings(findings)
        if told["problems"]:
            sys.exit(1)
