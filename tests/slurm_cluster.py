"""A SLURM cluster on this machine: the real controller, and real nodes that claim more processors and GPUs than it has.

Debian has them: apt-get install --no-install-recommends slurmctld slurmd slurm-client
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "sinfo", "scontrol", "squeue")
MISSING = [name for name in PROGRAMS if not shutil.which(name)]
HOST = socket.gethostname().partition(".")[0]
NODES = (HOST, f"{HOST}-b")  # JAX looks up the address of the first only
GPUS = 8

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def said(*words: object, **environment: str) -> str:
    """What a client prints, its errors too; it must succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Runs one, and gives the path of its configuration, which clients take from SLURM_CONF."""
    port, *ports = free_ports(1 + len(NODES))
    lines = [
        f"NodeName={name} NodeAddr=127.0.0.1 Port={own} CPUs=96 RealMemory=1000 Gres=gpu:{GPUS}"
        for name, own in zip(NODES, ports, strict=True)
    ]
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    for number in range(GPUS):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    config = folder / "slurm.conf"
    user = Path("/proc/self").owner()
    config.write_text(CONFIG.format(host=HOST, port=port, folder=folder, user=user) + "\n".join(lines) + "\n")
    daemons = [["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    running = [
        subprocess.Popen(
            [*words, "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for words in daemons
    ]
    try:
        wait_for(lambda: said("sinfo", "-h", "-o", "%D %t", SLURM_CONF=str(config)) == f"{len(NODES)} idle\n", 60)
        yield str(config)
    finally:
        for daemon in reversed(running):
            daemon.send_signal(signal.SIGTERM)
        for daemon in running:
            daemon.wait(timeout=60)


def wait_for(condition, seconds: float) -> None:  # type: ignore[no-untyped-def]
    """Returns when it holds; a client that the controller does not answer yet counts as no."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (AssertionError, subprocess.TimeoutExpired):
            pass
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(1)
