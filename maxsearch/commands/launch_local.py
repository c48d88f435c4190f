"""The sub-command `launch-local`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Suppress

from maxsearch.errors import UsageError


@dataclass(frozen=True)
class LaunchLocal:
    """Run a command as several processes on this machine, as a pod would: maxsearch launch-local -- train PRESET ..."""

    processes: int = 2
    """Processes that train as one."""
    devices: int = 2
    """Simulated devices of each process."""
    words: Annotated[tuple[str, ...], Suppress] = ()

    def run(self) -> None:
        from maxsearch.local_launch import launch

        if self.words[:1] != ("train",):
            raise UsageError(
                "launch-local runs `train` as several processes: put it behind --, as in maxsearch launch-local "
                "--processes 4 -- train PRESET --data DATA --run RUN"
            )
        for name in ("processes", "devices"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 1, not {getattr(self, name)}")
        launch(self.words, self.processes, self.devices)
