"""The batch scripts on a real SLURM controller, and a run that it stops, requeues and resumes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import slurm_cluster, tiny
from tests.slurm_cluster import cluster, said, wait_for

SCRIPTS = Path(__file__).parents[1] / "launch" / "slurm"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.MISSING),
        reason="needs SLURM: apt-get install --no-install-recommends slurmctld slurmd slurm-client",
    ),
]


def test_the_controller_accepts_the_scripts_and_refuses_a_misspelt_option(tmp_path):
    (tmp_path / "slurm").mkdir()
    with cluster(tmp_path / "slurm") as config:
        for script in (SCRIPTS / "train.sbatch", SCRIPTS / "train-pyxis.sbatch"):
            assert "to start at" in said("sbatch", "--test-only", script, SLURM_CONF=config)
            wrong = tmp_path / script.name
            wrong.write_text(script.read_text().replace("--gpus-per-node", "--gpus-per-mode"))
            with pytest.raises(AssertionError, match="unrecognized option '--gpus-per-mode=8'"):
                said("sbatch", "--test-only", wrong, SLURM_CONF=config)


def test_a_run_that_is_told_to_stop_is_requeued_and_resumed_to_its_end(tmp_path):
    (tmp_path / "slurm").mkdir()
    run, log = tmp_path / "run", tmp_path / "log"
    shape = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1")
    job = {"PRESET": str(tiny.preset()), "DATA": str(tiny.data()), "RUN": str(run), "STEPS": "60", "BUCKET": ""}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with cluster(tmp_path / "slurm") as config:
        environment = {**job, "PATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "SLURM_CONF": config}
        environment |= {"LAUNCH": str(SCRIPTS.parent), "COLUMNS": "200", "TRAIN_FLAGS": "--checkpoint-every 100000"}
        said("sbatch", *shape, f"--output={log}", SCRIPTS / "train.sbatch", **environment)
        wait_for(lambda: (run / "metrics.jsonl").is_file() and len(tiny.metrics(run)) > 3, 300)
        said("scancel", "--signal=TERM", "1", SLURM_CONF=config)  # what the time limit does, and a preemption
        wait_for(lambda: not said("squeue", "-h", SLURM_CONF=config), 300)
        state = said("scontrol", "show", "job", "-o", "1", SLURM_CONF=config)
    text = log.read_text()
    assert "JobState=COMPLETED" in state and "Restarts=1 " in state, text
    assert "attempt 0 of job 1 ended with 75" in text and "attempt 1 of job 1 ended with 0" in text
    assert text.count("on 2 devices") == 2  # the tasks found one another
    assert text.count("checkpoint saved; resume with: ") == 1  # one of them speaks for both
    assert [line["step"] for line in tiny.metrics(run)] == list(range(1, 61))  # none lost, none done twice


def test_a_run_that_fails_is_not_requeued(tmp_path):
    (tmp_path / "slurm").mkdir()
    log = tmp_path / "log"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with cluster(tmp_path / "slurm") as config:
        environment = {"PATH": path, "SLURM_CONF": config, "LAUNCH": str(SCRIPTS.parent), "PRESET": "nonesuch"}
        environment |= {"JAX_PLATFORMS": "cpu", "BUCKET": ""}
        shape = ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1", "--wait")
        with pytest.raises(subprocess.CalledProcessError) as failed:
            subprocess.run(
                ["sbatch", *shape, f"--output={log}", SCRIPTS / "train.sbatch"],
                env={**os.environ, **environment},
                check=True,
                timeout=300,
            )
    assert failed.value.returncode == 2
    assert "attempt 0 of job 1 ended with 2" in log.read_text()
