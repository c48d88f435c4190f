"""A window of steps that the profiler watches: a trace of device and host in RUN/profile/."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from maxsearch.errors import UsageError


@dataclass
class Profile:
    """Watches the steps after `first` up to `last`, as counted over the whole run.

    Attributes:
      folder: where the trace goes; TensorBoard, XProf and jax.profiler.ProfileData read it.
      first, last: the window's ends.
    """

    folder: Path
    first: int
    last: int
    _running: bool = False

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Profile":
        """From the flag's text, such as 10:15.

        Raises:
          UsageError: it is no window.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--profile-steps {text} is no window: give two steps, such as 10:15")
        return cls(folder, int(match[1]), int(match[2]))

    def before(self, step: int) -> None:
        """Begins to watch when `step` steps are done and the next one is in the window."""
        if not self._running and step == self.first:
            jax.profiler.start_trace(self.folder)
            self._running = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends when the window's last step is done, on the device too."""
        if self._running and step >= self.last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes the trace of a window that the run's end cut short."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
