"""The sub-command `train`: its flags, and the call that it is. The doc strings are the help texts."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from maxsearch.commands.flags import ConfigFlags, OptionalInt, OptionalPath, Stopped
from maxsearch.config import Config
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Train:
    """Train a preset on a prepared dataset; the same command resumes a run that was stopped."""

    preset: Annotated[Positional[str], arg(metavar="PRESET")]
    """A preset's name, or a Python file with get_config(). Its values are the defaults of the flags below."""
    data: Annotated[tuple[str, ...], arg(metavar="[NAME=]DATA ...")]
    """A folder that `maxsearch prepare` wrote, or tfds:NAME[:SPLIT]; several are mixed as --data.mixture says."""
    run_folder: Annotated[Path, arg(name="run")]
    """The run's folder: config, tokenizer, checkpoints and metrics."""
    steps: OptionalInt = None
    """Updates to make in all; by default the preset's."""
    minutes: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Minutes to train in all; the schedule of the learning rate is fitted to the measured pace."""
    init_from: OptionalPath = None
    """A run or an exported model to begin with: its tokenizer, and its averaged parameters where names and shapes fit.
    """
    checkpoint_every: OptionalInt = None
    """Updates between two checkpoints."""
    log_every: OptionalInt = None
    """Updates between two lines of metrics."""
    profile_steps: Annotated[str | None, arg(metavar="FIRST:LAST")] = None
    """Steps that the profiler watches, such as 10:15; the trace goes to RUN/profile."""
    compile_cache: Annotated[str | None, arg(metavar="FOLDER")] = None
    """A folder or bucket that keeps compiled steps: a run that is resumed, or the same run elsewhere, starts sooner."""
    distributed: Literal["auto", "on", "off"] = "auto"
    """Whether this is one of several processes: auto asks the environment (SLURM, TPU pods, launch-local)."""
    stopped_exit_code: Annotated[int, arg(metavar="INT")] = 0
    """What a run leaves with that a signal ended before its budget, all being saved. Schedulers that start a failed job
    again, and take 0 for the end of the run, want another, such as 75."""
    dry_run: bool = False
    """Check config, data, mesh and run folder, tell what would be trained, and train nothing."""
    config: ConfigFlags = field(default_factory=Config)

    def run(self) -> None:
        from maxsearch.cpu import settle_memory
        from maxsearch.distributed import join, together

        settle_memory()
        if self.compile_cache is not None:
            keep_compiled(self.compile_cache)
        with together():
            join(self.distributed)
            self.train()

    def train(self) -> None:
        """Trains as this process's part of the run."""
        from maxsearch.distributed import leads
        from maxsearch.training.goodput import goodput, read_lines, told
        from maxsearch.training.loop import train
        from maxsearch.training.opening import rehearse

        if self.run_folder.parts and self.run_folder.parts[0].endswith(":"):  # pathlib takes gs://b/run for gs:/b/run
            raise UsageError(
                f"--run {self.run_folder} is a URL, and a run is a folder: mount the bucket and name the folder there"
            )
        if not 0 <= self.stopped_exit_code < 256:
            raise UsageError(f"--stopped-exit-code {self.stopped_exit_code} is no exit code: give 0 to 255")
        if self.steps is not None and self.minutes is not None:
            raise UsageError("--steps and --minutes exclude each other: give one")
        if self.minutes is not None and not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise UsageError(f"--minutes must be a number above 0, not {self.minutes}")
        given = {"steps": self.steps, "checkpoint_every": self.checkpoint_every, "log_every": self.log_every}
        changes = {name: value for name, value in given.items() if value is not None}
        config = replace(self.config, train=replace(self.config.train, **changes))
        if self.dry_run:
            told_plan = rehearse(config, self.data, self.run_folder, minutes=self.minutes, init_from=self.init_from)
            if leads():
                print(told_plan)
            return
        result = train(
            config,
            self.data,
            self.run_folder,
            minutes=self.minutes,
            init_from=self.init_from,
            profile=self.profile_steps,
        )
        if result.stopped:
            told_step = f"stopped at step {result.step}, checkpoint saved" if leads() else ""
            raise Stopped(told_step, self.stopped_exit_code)
        if not leads():
            return
        if result.step == result.resumed_from:
            print(f"{self.run_folder} is complete at step {result.step}; for more, raise --steps or --minutes")
        else:
            shares = told(goodput(read_lines(self.run_folder)))
            print(f"{self.run_folder}: {result.step} steps in {result.seconds / 60:.1f} min, {shares}")


def keep_compiled(folder: str) -> None:
    """Makes JAX look into a folder before it compiles, and leave there what took it more than a second."""
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
