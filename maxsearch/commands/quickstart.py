"""The sub-command `quickstart`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path

from maxsearch.commands.flags import OptionalInt
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Quickstart:
    """Draw a catalogue of a few thousand products and take it through every step, to search results."""

    out: Path = Path("quickstart")
    """Folder for data/, run/, model/, index/ and results.json."""
    products: int = 3000
    """Products to draw."""
    steps: OptionalInt = None
    """Updates to make; by default those of the preset."""
    seed: int = 0
    """Of the catalogue and the training."""

    def run(self) -> None:
        from maxsearch.quickstart import quickstart

        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        quickstart(self.out, products=self.products, steps=self.steps, seed=self.seed)
