"""Runs that are killed or stopped go on as if nothing had happened, in processes of their own with one device."""

import os
import shlex
import signal
import subprocess
from functools import cache
from pathlib import Path

import jax
import pytest

from maxsearch.mesh import make_mesh
from maxsearch.training.checkpoint import Checkpoints
from maxsearch.training.optim import make_optimizer
from maxsearch.training.run_folder import read_config
from maxsearch.training.state import abstract_state
from tests import tiny
from tests.small import bits

STEPS = list(range(1, 11))

# Runs `act` once the metrics of a step are written, when the checkpoints named are complete.
AT_STEP = """
import os, signal, time
from pathlib import Path
from maxsearch.training.metrics import MetricWriter
write = MetricWriter.write
def hooked(self, step, values):
    write(self, step, values)
    if step == {step}:
        for name in {after!r}:
            while not (Path({run!r}) / "checkpoints" / name).exists():
                time.sleep(0.01)
        {act}
MetricWriter.write = hooked
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"

# Dies at the very moment in which the checkpoint of step 6 would get its name.
IN_SAVE = """
import os, signal
from pathlib import Path
def dying(original):
    def rename(source, target, *more, **flags):
        if str(target).rstrip("/").endswith("checkpoints/6"):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(source, target, *more, **flags)
    return rename
os.rename, os.replace = dying(os.rename), dying(os.replace)
Path.rename, Path.replace = dying(Path.rename), dying(Path.replace)
"""


@cache
def whole() -> Path:
    """A run that nothing interrupts."""
    run = tiny.folder() / "whole"
    done = tiny.spawn(tiny.train_words(run))
    assert done.returncode == 0, done.stderr
    return run


def final_bits(run: Path) -> list[bytes]:
    """Every bit of the state after the last step."""
    config = read_config(run)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    checkpoints = Checkpoints(run)
    with jax.set_mesh(mesh):
        state, _ = checkpoints.restore(10, abstract_state(config, make_optimizer(config.optim)), mesh)
    checkpoints.close()
    return bits(state)


def require_same(run: Path) -> None:
    """The run has the numbers of the uninterrupted one, each step once, and its final state."""
    expected, found = tiny.metrics(whole()), tiny.metrics(run)
    assert [line["step"] for line in found] == STEPS
    assert len(expected[0].keys() & {"loss", "loss/query_product", "loss/query_title", "loss/query_image"}) == 4
    assert found == expected
    assert final_bits(run) == final_bits(whole())


@pytest.mark.parametrize(
    ("script", "resumed", "flags"),
    [
        pytest.param(AT_STEP.format(step=2, after=(), act=KILL, run=""), None, (), id="before-the-first-checkpoint"),
        pytest.param(
            AT_STEP.format(step=5, after=("3",), act=KILL, run="{run}"),
            3,
            ("--data.workers", 2),
            id="after-a-checkpoint-and-on-with-other-workers",
        ),
        pytest.param(IN_SAVE, 3, (), id="in-the-middle-of-a-save"),
    ],
)
def test_killed_run_goes_on_bit_by_bit(
    tmp_path: Path, script: str, resumed: int | None, flags: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    killed = tiny.spawn(tiny.train_words(run), script=script.replace("{run}", str(run)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = tiny.spawn(tiny.train_words(run, *flags))
    assert again.returncode == 0, again.stderr
    assert (f"resuming at step {resumed}" in again.stderr) == (resumed is not None)
    assert again.stdout.startswith(f"{run}: 10 steps in ")
    require_same(run)


def test_sigterm_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    script = AT_STEP.format(step=5, after=(), act="os.kill(os.getpid(), signal.SIGTERM)", run=str(run))
    stopped = tiny.spawn(tiny.train_words(run), script=script)
    assert stopped.returncode == 0, stopped.stderr
    said, command = stopped.stdout.strip().split("; resume with: ")
    step = int(said.removeprefix("stopped at step ").removesuffix(", checkpoint saved"))
    assert step in (5, 6)  # the step that was on its way is finished
    assert (run / "checkpoints" / str(step)).is_dir()
    program, *words = shlex.split(command)
    assert program == "maxsearch"
    again = tiny.spawn(words)
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {step}" in again.stderr
    require_same(run)


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    act = "os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGTERM), time.sleep(60)"
    script = AT_STEP.format(step=5, after=(), act=act, run=str(tmp_path / "run"))
    assert tiny.spawn(tiny.train_words(tmp_path / "run"), script=script).returncode == -signal.SIGTERM


def test_uninterrupted_run_says_only_its_own_lines() -> None:
    run = tiny.folder() / "spoken"
    done: subprocess.CompletedProcess[str] = tiny.spawn(tiny.train_words(run, "--log-every", 5))
    first, *lines = done.stderr.splitlines()
    assert first.startswith("compiling the step: ") and first.endswith(" parameters on one device")
    assert [line.split(":")[0] for line in lines] == ["step 5/10", "step 10/10"]
    assert done.stdout.count(os.linesep) == 1
