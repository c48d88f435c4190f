"""Real processes on this machine train as one: the same numbers, one failure ends all, and resumes elsewhere."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maxsearch import distributed
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.local_launch import ending, environment_of, first_failed
from tests import tiny


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"MAXSEARCH_COORDINATOR": "a:1", "MAXSEARCH_PROCESSES": "2"}, True),
        ({"MAXSEARCH_COORDINATOR": "a:1", "MAXSEARCH_PROCESSES": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, False),  # inside sbatch, but not in a step of several tasks
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://a:1"}, True),
    ],
)
def test_the_environment_announces_others(environment, several):
    assert distributed.announced(environment) == several


def test_chips_of_a_tpu_vm_are_sign_enough(monkeypatch):
    monkeypatch.setattr(distributed, "on_tpu_vm", lambda: True)
    assert distributed.announced({})
    assert not distributed.announced({"JAX_PLATFORMS": "cpu"})
    assert not distributed.announced({"TPU_WORKER_HOSTNAMES": "localhost"})  # GKE says that the host is alone


def test_half_an_environment_is_refused():
    with pytest.raises(UsageError, match="set all three"):
        distributed.join(environment={"MAXSEARCH_COORDINATOR": "a:1", "MAXSEARCH_PROCESSES": "2"})
    with pytest.raises(UsageError, match="set all three"):
        distributed.join(environment={"MAXSEARCH_COORDINATOR": "a:1", "MAXSEARCH_PROCESSES": "x"})
    assert not distributed.join("off", {"MAXSEARCH_COORDINATOR": "a:1", "MAXSEARCH_PROCESSES": "2"})


def test_one_process_agrees_with_itself():
    assert distributed.from_leader(lambda: {"a": 1}) == {"a": 1}
    with pytest.raises(MaxsearchError, match="broken"):
        distributed.from_leader(lambda: (_ for _ in ()).throw(MaxsearchError("broken")))


def test_endings_are_told_in_words():
    assert ending(-signal.SIGKILL) == "was ended by SIGKILL"
    assert ending(1) == "failed with exit code 1"


def test_the_one_that_a_signal_ended_is_named_before_those_that_left_because_of_it():
    workers = [subprocess.Popen(["sh", "-c", words]) for words in ("exit 1", "exit 0", "kill -9 $$")]
    for worker in workers:
        worker.wait(timeout=60)
    assert first_failed(workers) == 2
    assert first_failed(workers[:2]) == 0
    assert first_failed(workers[1:2]) is None


def test_simulated_devices_get_threads_for_several_collectives_each(monkeypatch):
    monkeypatch.delenv("NPROC")
    assert int(environment_of(0, processes=2, devices=8, port=1)["NPROC"]) >= 32
    monkeypatch.setenv("NPROC", "5")
    assert environment_of(0, processes=2, devices=8, port=1)["NPROC"] == "5"


def begin(processes: int, devices: int, words: list[object]) -> "subprocess.Popen[str]":
    environment = {name.upper(): str(value) for name, value in tiny.compile_cache(tiny.folder()).items()}
    launch = ["launch-local", "--processes", processes, "--devices", devices, "--", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "maxsearch", *map(str, launch)],
        env={**os.environ, **environment, "XLA_FLAGS": "", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(launched: "subprocess.Popen[str]") -> str:
    said, _ = launched.communicate(timeout=600)
    assert "Traceback" not in said, said
    return said


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in tiny.metrics(run)]


def trained(processes: int, devices: int, run: Path, *more: object) -> Path:
    launched = begin(processes, devices, tiny.train_words(run, *more))
    said = finish(launched)
    assert launched.returncode == 0, said
    assert said.count(f"{run}: 10 steps") == 1, said  # one process speaks for all
    return run


@pytest.mark.parametrize(
    ("several", "later"), [((2, 2), (1, 4)), pytest.param((4, 1), (2, 2), marks=pytest.mark.slow)], ids=str
)
def test_several_processes_are_one_run_that_survives_one_of_them(tmp_path, several, later):
    """`several` and `later` are processes and devices of each, before one is killed and afterwards."""
    expected = trained(1, 4, tmp_path / "one")
    together = trained(*several, tmp_path / "several")
    assert losses(together) == pytest.approx(losses(expected), rel=1e-4)
    assert [line["epoch"] for line in tiny.metrics(together)] == [line["epoch"] for line in tiny.metrics(expected)]

    run = tmp_path / "broken"
    launched = begin(*several, tiny.train_words(run, "--steps", 100000, "--checkpoint-every", 4))
    while not (run / "checkpoints" / "4").is_dir():
        assert launched.poll() is None, launched.communicate()[0]
        time.sleep(0.1)
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    said = finish(launched)
    assert launched.returncode == 1
    assert "was ended by SIGKILL, and the others were ended" in said.splitlines()[-1]
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())

    # The same schedule as the runs above is not asked for: another number of processes goes on from what was saved.
    again = begin(*later, tiny.train_words(run, "--steps", saved + 2))
    said = finish(again)
    assert again.returncode == 0, said
    assert f"resuming at step {saved}" in said


def test_an_error_of_the_leader_is_told_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other.txt").write_text("not a run")
    launched = begin(2, 1, tiny.train_words(tmp_path / "run"))
    said = finish(launched)
    assert launched.returncode == 1
    assert said.count("exists and is no run folder") == 1


def test_a_signal_stops_all_at_one_step_with_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    launched = begin(2, 2, tiny.train_words(run, "--steps", 100000, "--checkpoint-every", 100000))
    while not (run / "metrics.jsonl").is_file() or not (run / "metrics.jsonl").read_text():
        assert launched.poll() is None, launched.communicate()[0]
        time.sleep(0.1)
    launched.send_signal(signal.SIGTERM)
    said = finish(launched)
    assert launched.returncode == 0, said
    assert "checkpoint saved" in said
    assert any(path.name.isdigit() for path in (run / "checkpoints").iterdir())


def test_only_train_is_launched(capsys):
    code, said = tiny.fails(capsys, "launch-local", "--processes", "2", "--", "evaluate")
    assert code == 2
    assert "put it behind --" in said
