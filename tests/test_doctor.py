"""Each check is given bad facts, and the command is run once as it stands."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maxsearch.doctor import devices
from maxsearch.doctor.devices import Probe, check_devices, chips_of_machine
from maxsearch.doctor.environment import check_environment
from maxsearch.doctor.finding import Finding, Level
from maxsearch.doctor.folders import Folder, check_clock, check_folder, look_at
from maxsearch.doctor.machine import GIB, Machine, check_machine
from maxsearch.doctor.packages import Packages, check_drivers, check_extras, check_packages
from tests import tiny

REQUIREMENTS = (
    "jax==0.10.2; python_version < '3.12'",
    "jax==0.12.0.1; python_version >= '3.12'",
    "numpy<3,>=2.0",
    "jax[tpu]==0.10.2; python_version < '3.12' and extra == 'tpu'",
    "jax[cuda12]==0.10.2; python_version < '3.12' and extra == 'cuda'",
    "fastapi<1,>=0.118; extra == 'serve'",
    "python-multipart>=0.0.20; extra == 'serve'",
    "pytest>=8.4; extra == 'dev'",
)
OF_JAX = (
    "jaxlib<=0.10.2,>=0.10.1",
    "jaxlib<=0.10.2,>=0.10.2; extra == 'tpu'",
    "libtpu==0.0.42.*; extra == 'tpu'",
    "jax-cuda12-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == 'cuda12'",
)
GOOD = {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "numpy": "2.4.6"}
PACKAGES = Packages("3.11.7", ">=3.11", GOOD, REQUIREMENTS, ("tpu", "cuda", "serve", "dev"), OF_JAX)
MACHINE = Machine("linux", 8, None, 32 * GIB, 16 * GIB, 8 * GIB, 20_000, 20_000, "UTF-8")
FOLDER = Folder("run", "runs/a", free=100 * GIB, names=10**6, writable=True, clock=0.0)


def installed(**changes: str | None) -> Packages:
    versions = {**GOOD, **{name.replace("_", "-"): version for name, version in changes.items()}}
    return replace(PACKAGES, installed={name: version for name, version in versions.items() if version is not None})


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda one: list(Level).index(one.level))


def test_good_facts_are_no_findings() -> None:
    found = [*check_packages(PACKAGES), *check_machine(MACHINE), check_folder(FOLDER), check_clock(1.9e9)]
    assert {one.level for one in found} == {Level.OK}
    assert all(not one.remedy for one in found)


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        (installed(numpy="1.26.4"), "numpy 1.26.4 is not <3,>=2.0"),
        (installed(numpy=None), "numpy is not installed"),
        (installed(jax="0.12.0.1"), "jax 0.12.0.1 is not ==0.10.2"),
        (installed(jaxlib="0.9.0"), "jaxlib 0.9.0 is not <=0.10.2,>=0.10.1, which jax 0.10.2 asks for"),
        (replace(PACKAGES, python="3.10.12"), "Python 3.10.12 is not >=3.11"),
        (replace(PACKAGES, python="3.12.1"), "jax 0.10.2 is not ==0.12.0.1"),
        (replace(PACKAGES, requirements=None), "not installed"),
    ],
    ids=str,
)
def test_packages_outside_of_the_tested_ranges_are_problems(packages: Packages, said: str) -> None:
    found = worst(check_packages(packages))
    assert found.level is Level.PROBLEM
    assert said in found.found and found.remedy


def test_drivers_are_held_against_the_pins_of_jax() -> None:
    assert check_drivers(PACKAGES, {"tpu": 0, "cuda": 0}) == []
    [found] = check_drivers(installed(libtpu="0.0.50"), {"tpu": 4, "cuda": 0})
    assert (found.level, found.found) == (
        Level.PROBLEM,
        "libtpu 0.0.50 is not ==0.0.42.*, which jax 0.10.2 was built with",
    )
    [found] = check_drivers(installed(libtpu="0.0.42.1"), {"tpu": 4, "cuda": 0})
    assert found.level is Level.OK
    [found] = check_drivers(installed(jax_cuda12_plugin="0.9.1"), {"tpu": 0, "cuda": 1})
    assert found.level is Level.PROBLEM and found.remedy == "pip install 'maxsearch[cuda]'"
    [found] = check_drivers(PACKAGES, {"tpu": 0, "cuda": 2})
    assert found.level is Level.ADVICE and found.remedy == "pip install 'maxsearch[cuda]'"


def test_extras_say_what_they_are_for() -> None:
    found = {one.check: one for one in check_extras(installed(fastapi="0.110.0", python_multipart="0.0.34"))}
    assert list(found) == ["extra tpu", "extra cuda", "extra serve"]
    assert (
        found["extra tpu"].found == "absent (libtpu), for training on a TPU, and `plan`: pip install 'maxsearch[tpu]'"
    )
    assert (
        found["extra serve"].level is Level.PROBLEM
        and "fastapi 0.110.0 is not <1,>=0.118" in found["extra serve"].found
    )
    whole = check_extras(installed(fastapi="0.120.0", python_multipart="0.0.34"))
    assert whole[-1] == Finding("extra serve", Level.OK, "present, for `serve`")


@pytest.mark.parametrize(
    ("probe", "chips", "environment", "level", "said"),
    [
        (Probe("cpu", (("cpu", "cpu"),), True), {}, {}, Level.OK, "1 x cpu (cpu)"),
        (Probe("tpu", (("tpu", "TPU v5 lite"),) * 4, True), {"tpu": 4}, {}, Level.OK, "4 x TPU v5 lite (tpu)"),
        (Probe(timed_out=True), {"tpu": 4}, {}, Level.PROBLEM, "on a pod of several hosts run this on all of them"),
        (Probe(error="RuntimeError: in use by pid 7"), {}, {}, Level.PROBLEM, "in use by pid 7"),
        (
            Probe("cpu", (("cpu", "cpu"),), True),
            {"tpu": 4},
            {"JAX_PLATFORMS": "cpu"},
            Level.ADVICE,
            "unset JAX_PLATFORMS",
        ),
        (Probe("cpu", (("cpu", "cpu"),), True), {"cuda": 1}, {}, Level.ADVICE, "pip install 'maxsearch[cuda]'"),
        (Probe("gpu", (("gpu", "H100"),), False), {"cuda": 1}, {}, Level.PROBLEM, "came out wrong"),
    ],
)
def test_devices(probe: Probe, chips: dict[str, int], environment: dict[str, str], level: Level, said: str) -> None:
    found = check_devices(probe, chips, environment, 60.0)
    assert found.level is level
    assert said in f"{found.found}: {found.remedy}"


def test_a_chip_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SCRIPT", "import time; time.sleep(60)")
    assert devices.probe(0.3) == Probe(timed_out=True)


def test_a_probe_that_fails_tells_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SCRIPT", "raise RuntimeError('no chip')")
    assert devices.probe(60.0).error == "RuntimeError: no chip"
    monkeypatch.setattr(devices, "SCRIPT", "import os; os.abort()")
    assert devices.probe(60.0).error == "signal 6"


def test_chips_are_counted_by_their_device_files(tmp_path: Path) -> None:
    (tmp_path / "vfio").mkdir()
    for name in ("accel0", "accel1", "vfio/0", "vfio/vfio", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert chips_of_machine(tmp_path) == {"tpu": 3, "cuda": 1}


@pytest.mark.parametrize(
    ("variables", "level", "said"),
    [
        ({}, Level.OK, "no variable is set"),
        ({"JAX_PLATFORMS": "cpu"}, Level.OK, "cpu"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, Level.ADVICE, "simulates devices"),
        ({"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}, Level.ADVICE, "another CUDA"),
        ({"JAX_DISABLE_JIT": "1"}, Level.ADVICE, "slower"),
        ({"JAX_ENABLE_X64": "true"}, Level.ADVICE, "64-bit"),
        ({"JAX_COMPILATION_CACHE_DIR": __file__}, Level.PROBLEM, "cannot be written to"),
        ({"MAXSEARCH_COORDINATOR": "a:1"}, Level.PROBLEM, "without MAXSEARCH_PROCESSES and MAXSEARCH_PROCESS"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, Level.PROBLEM, "without TPU_WORKER_ID"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, Level.OK, "localhost"),
    ],
)
def test_environment(variables: dict[str, str], level: Level, said: str) -> None:
    found = worst(check_environment(variables, cuda=True))
    assert found.level is level
    assert said in found.found


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"system": "darwin"}, "system", Level.ADVICE),
        ({"core_limit": 1.5}, "cpu", Level.ADVICE),
        ({"memory_free": GIB}, "memory", Level.PROBLEM),
        ({"memory_free": 3 * GIB}, "memory", Level.ADVICE),
        ({"shared_free": 64 * 2**20}, "shared memory", Level.ADVICE),
        ({"files": 128}, "open files", Level.PROBLEM),
        ({"files": 1024}, "open files", Level.ADVICE),
        ({"encoding": "ANSI_X3.4-1968"}, "text", Level.PROBLEM),
    ],
)
def test_machine(changes: dict[str, object], check: str, level: Level) -> None:
    bad = [one for one in check_machine(replace(MACHINE, **changes)) if one.level is not Level.OK]  # type: ignore[arg-type]
    assert [(one.check, one.level) for one in bad] == [(check, level)]
    assert bad[0].remedy


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    for folder in ("proc/self", "dev/shm", "sys/fs/cgroup/pod/job"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/job\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 33554432 kB\n")
    assert (Machine.read(tmp_path).memory, Machine.read(tmp_path).memory_free) == (64 * GIB, 32 * GIB)
    group = tmp_path / "sys/fs/cgroup/pod"
    (group / "job/memory.max").write_text("max\n")
    (group / "memory.max").write_text(f"{8 * GIB}\n")
    (group / "memory.current").write_text(f"{6 * GIB}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    (group / "job/cpu.max").write_text("150000 100000\n")
    found = Machine.read(tmp_path)
    assert (found.memory, found.memory_free, found.core_limit) == (8 * GIB, 3 * GIB, 1.5)


def test_limits_of_the_first_version_of_control_groups_count(tmp_path: Path) -> None:
    for folder in ("proc/self", "sys/fs/cgroup/memory", "sys/fs/cgroup/cpu,cpuacct"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu").symlink_to("cpu,cpuacct")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n")
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(f"{4 * GIB}\n")
    (tmp_path / "sys/fs/cgroup/memory/memory.usage_in_bytes").write_text(f"{GIB}\n")
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us").write_text("100000\n")
    found = Machine.read(tmp_path)
    assert (found.memory, found.memory_free, found.core_limit) == (4 * GIB, 3 * GIB, None)
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us").write_text("200000\n")
    assert Machine.read(tmp_path).core_limit == 2


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({"free": GIB // 2}, Level.PROBLEM, "0.5 GiB"),
        ({"free": 5 * GIB}, Level.ADVICE, "5.0 GiB"),
        ({"names": 12}, Level.PROBLEM, "12 files"),
        ({"writable": False}, Level.PROBLEM, "cannot be written to"),
        ({"is_folder": False}, Level.PROBLEM, "a file stands"),
        ({"clock": -300.0}, Level.ADVICE, "-300 s"),
        ({"remote": True}, Level.OK, "object store"),
    ],
)
def test_folders(changes: dict[str, object], level: Level, said: str) -> None:
    found = check_folder(replace(FOLDER, **changes))  # type: ignore[arg-type]
    assert (found.check, found.level) == ("run folder", level)
    assert said in found.found


def test_folders_that_are_not_there_yet_are_measured_where_they_will_be(tmp_path: Path) -> None:
    found = look_at("run", str(tmp_path / "a/b"))
    assert found.writable and found.free > 0 and found.clock is not None and abs(found.clock) < 60
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert not look_at("run", str(tmp_path / "file/run")).is_folder
    assert look_at("data", "gs://bucket/data") == Folder("data", "gs://bucket/data", remote=True)


def test_a_clock_of_the_past_is_a_problem() -> None:
    assert check_clock(0.0).level is Level.PROBLEM


def test_the_command_tells_all_of_it(tmp_path: Path) -> None:
    done = tiny.spawn(["doctor", "--run", tmp_path / "run", "--json"])
    told = json.loads(done.stdout)
    problems = [one for one in told["findings"] if one["level"] == "problem"]
    assert (told["kind"], told["problems"]) == ("maxsearch-doctor", len(problems))
    assert done.returncode == (1 if problems else 0)
    checks = {one["check"]: one for one in told["findings"]}
    assert checks.keys() >= {"python", "packages", "jax", "devices", "memory", "run folder", "clock", "extra serve"}
    assert checks["devices"] == {"check": "devices", "level": "ok", "found": "1 x cpu (cpu)", "remedy": ""}
    assert checks["python"]["found"] == f"Python {sys.version.split()[0]}"


def test_the_command_shows_a_table_and_fails_on_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("maxsearch.doctor.examine.probe", lambda timeout: Probe("cpu", (("cpu", "cpu"),), True))
    with pytest.raises(SystemExit) as stop:
        tiny.quiet("doctor", "--run", tmp_path / "file")
    assert stop.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "a file stands in its place: name another folder" in said
    assert "1 problems" in said


def test_a_timeout_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = tiny.fails(capsys, "doctor", "--timeout", "0")
    assert (code, said) == (2, "maxsearch: --timeout must be a number of seconds above 0, not 0.0")
