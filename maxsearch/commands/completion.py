"""The sub-command `completion`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Completion:
    """Print a script that completes sub-commands, flags and presets: source <(maxsearch completion bash)."""

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """The shell that will read it."""

    def run(self) -> None:
        from maxsearch.completion import script

        print(script(self.shell), end="")
