"""The sub-command `export`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from maxsearch.commands.flags import OptionalInt


@dataclass(frozen=True)
class Export:
    """Write a run's averaged parameters as safetensors, config and tokenizer, and check that they read back."""

    run_folder: Annotated[Path, arg(name="run")]
    """The run."""
    out: Path
    """The model folder to write; an older model there is replaced as a whole."""
    step: OptionalInt = None
    """Which checkpoint; the latest by default."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.serving.export import export

        encoder = Encoder.from_run(self.run_folder, self.step)
        manifest = export(encoder, self.out, reload=Encoder.from_model, step=encoder.step)
        size = sum(entry["bytes"] for entry in manifest["files"].values())
        print(f"{self.out}: model {manifest['fingerprint'][:12]} of step {encoder.step}, {size / 1e6:.1f} MB")
