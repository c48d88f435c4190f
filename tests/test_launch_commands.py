"""What the recipes run: every command goes through the real parser, every script and image through its linter."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest

from maxsearch.cli import main, parse
from maxsearch.commands.serve import Serve
from maxsearch.training import loop
from tests import tiny

yaml = pytest.importorskip("yaml")

from tests.launch_files import LAUNCH, SERVING, TRAINING, pods, render, variables  # noqa: E402

SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))
JOBS = ("train", "serve", "serve-ray", "prepare", "dataflow")
BESIDE = str(Path(sys.executable).parent)

# What writes down the words that it is called with, and the variables that matter.
RECORDER = f"""#!{sys.executable}
import json, os, sys
program, *words = sys.argv
cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
print(json.dumps(dict(program=os.path.basename(program), words=words, cache=cache)))
"""


@pytest.fixture
def recorded(tmp_path):
    """Runs a script where maxsearch, ray and gcloud only write down what they are asked."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("maxsearch", "ray", "gcloud"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)

    def run(script: Path, *words: str, code: int = 0, **environment: str) -> list[dict]:
        done = subprocess.run(
            [script, *words],
            env={"PATH": f"{programs}:/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()] if code == 0 else [{"said": done.stderr}]

    return run


def understood(words: list[str]) -> object:
    """The command that the real parser makes of them; refused words raise."""
    if "--engine" in words and "engine" not in Serve.__dataclass_fields__:
        pytest.skip("serve has no --engine")
    return parse(words)


@pytest.mark.parametrize("job", JOBS)
def test_the_variables_become_a_command_that_maxsearch_understands(recorded, job):
    said = recorded(LAUNCH / "entry.sh", job)[-1]
    assert said["program"] == "maxsearch"
    assert said["cache"] == "gs://my-bucket/compiled"
    command = understood(said["words"])
    found = variables()
    if job == "train":
        assert (command.data, command.run_folder) == ((found["DATA"],), Path(found["RUN"]))
        assert (command.steps, command.minutes, command.stopped_exit_code) == (None, None, 75)
    if job == "dataflow":
        assert command.runner == "beam" and "sdk_location=container" in command.beam_options


def test_what_the_environment_sets_goes_first(recorded):
    given = {"DATA": "a=/one b=/two", "STEPS": "7", "TRAIN_FLAGS": "--mesh.fsdp 4 --log-every 1", "BUCKET": ""}
    (said,) = recorded(LAUNCH / "entry.sh", "train", **given)
    command = understood(said["words"])
    assert (command.data, command.steps, command.log_every) == (("a=/one", "b=/two"), 7, 1)
    assert command.config.mesh.fsdp == 4
    assert said["cache"] is None
    (said,) = recorded(LAUNCH / "entry.sh", "train", JAX_COMPILATION_CACHE_DIR="/shared/compiled")
    assert said["cache"] == "/shared/compiled"


def test_what_is_missing_is_told(recorded):
    (told,) = recorded(LAUNCH / "entry.sh", "train", code=2, RUN="")
    assert told["said"] == "entry.sh: RUN is not set: set it in the environment or in variables/run.env\n"
    (told,) = recorded(LAUNCH / "entry.sh", "trian", code=2)
    assert "no job 'trian'" in told["said"]
    (told,) = recorded(LAUNCH / "tpu_vm" / "queued.sh", "create", "--spto", code=2)
    assert "--spot or nothing" in told["said"]


@pytest.mark.parametrize(
    ("job", "right", "wrong"),
    [
        ("train", "--stopped-exit-code", "--stoped-exit-code"),
        ("serve", "--drain-seconds", "--drain-second"),
        ("prepare", "--interactions", "--interaction"),
    ],
)
def test_a_misspelt_flag_fails(recorded, tmp_path, job, right, wrong):
    script = tmp_path / "entry.sh"
    script.write_text((LAUNCH / "entry.sh").read_text().replace(right, wrong))
    script.chmod(0o755)
    (said,) = recorded(script, job, VARIABLES=str(LAUNCH / "variables" / "run.env"))
    with pytest.raises(SystemExit):
        understood(said["words"])


@pytest.mark.parametrize("folder", (*TRAINING, *SERVING), ids=lambda folder: folder.name)
def test_containers_run_a_command_that_maxsearch_understands(recorded, folder):
    docs = render(folder)
    (data,) = [doc["data"] for doc in docs if doc["kind"] == "ConfigMap"]
    commands = [
        (container["args"], {entry["name"]: entry.get("value", "0") for entry in container.get("env", ())})
        for doc in docs
        if doc["kind"] in ("JobSet", "Deployment")
        for pod in pods(doc)
        for container in pod["spec"]["containers"]
    ]
    assert commands
    for words, environment in commands:
        said = recorded(LAUNCH / "entry.sh", *words, VARIABLES="/nonexistent", **{**data, **environment})
        if "RAY_HEAD" in environment:
            assert said[0]["program"] == "ray" and environment["RAY_HEAD"] in said[0]["words"]
        understood(said[-1]["words"])


def test_the_containers_command_trains_the_true_data_in_dry_run_mode(tmp_path):
    """entry.sh as it is, with the real maxsearch: config, data, mesh and run folder are checked, nothing is written."""
    program = tmp_path / "maxsearch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m maxsearch "$@"\n')
    program.chmod(0o755)
    run = tmp_path / "run"
    given = {"PRESET": str(tiny.preset()), "DATA": str(tiny.data()), "RUN": str(run), "TRAIN_FLAGS": "--dry-run"}
    done = subprocess.run(
        [LAUNCH / "entry.sh", "train"],
        env={**os.environ, **given, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BUCKET": "", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"would train tiny: 35,845 parameters on 1 device \(replica 1, fsdp 1, tensor 1\), 10 steps of 16 of "
        rf"[\d,]+ examples; {run} is new\n",
        done.stdout,
    )
    assert not run.exists()


def test_a_dry_run_refuses_what_training_would(capsys, tmp_path):
    words = tiny.train_words(tmp_path / "run", "--dry-run")
    assert tiny.fails(capsys, *words, "--mesh.fsdp", 16)[0] == 2
    assert "--run gs:/b/run is a URL" in tiny.fails(capsys, *tiny.train_words(Path("gs://b/run")))[1]
    code, said = tiny.fails(capsys, "train", tiny.preset(), "--data", "gs://b/data", "--run", tmp_path / "run")
    assert code == 2 and "--data gs://b/data is a URL" in said
    code, said = tiny.fails(capsys, *tiny.train_words(tmp_path / "run", "--stopped-exit-code", 256))
    assert code == 2 and "is no exit code" in said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    assert "is no run folder" in tiny.fails(capsys, *tiny.train_words(tmp_path / "mine", "--dry-run"))[1]


def test_a_run_that_a_signal_ends_leaves_with_the_code_that_was_asked_for(laptop, monkeypatch, tmp_path, capsys):
    @contextmanager
    def stopping():
        yield lambda step: step >= 2

    monkeypatch.setattr(loop, "stopping", stopping)
    words = [str(word) for word in tiny.train_words(tmp_path / "run", "--stopped-exit-code", 75)]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 75
    assert capsys.readouterr().out.startswith("stopped at step 2, checkpoint saved; resume with: maxsearch train ")
    main([*words, "--dry-run"])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'run'} is continued\n")


def test_beam_knows_the_options_of_dataflow(recorded):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install 'maxsearch[beam]'")
    from maxsearch.prepare.beam.flags import settings_of

    (said,) = recorded(LAUNCH / "entry.sh", "dataflow")
    flags = [flag for flag in understood(said["words"]).beam_options if not flag.startswith("runner=")]
    settings_of(flags)  # of the local runner, which refuses unknown options


# From the references of these commands.
GCLOUD = {
    "compute tpus queued-resources create": "node-id accelerator-type runtime-version scopes spot project zone",
    "compute tpus queued-resources describe": "format project zone",
    "compute tpus queued-resources delete": "force quiet project zone",
    "compute tpus tpu-vm ssh": "worker command project zone",
    "compute tpus tpu-vm scp": "worker project zone",
}


@pytest.mark.parametrize("words", ["create", "create --spot", "status", "run", "logs", "stop", "delete"])
def test_gcloud_is_asked_for_what_it_knows(recorded, words):
    asked = recorded(LAUNCH / "tpu_vm" / "queued.sh", *words.split())
    for said in asked:
        known = GCLOUD[" ".join(said["words"][:4])].split()
        assert [word for word in said["words"] if word.startswith("--") and word[2:] not in known] == []
        assert {"my-project", "us-east5-b"} <= set(said["words"])
        if "--command" in said["words"]:
            remote = said["words"][said["words"].index("--command") + 1]
            subprocess.run(["bash", "-n"], input=remote, text=True, check=True)
    if words == "run":
        assert f"{variables()['IMAGE']} train" in asked[-1]["words"][asked[-1]["words"].index("--command") + 1]
    assert ("--spot" in asked[0]["words"]) == words.endswith("--spot")


YAML_RULES = """
extends: default
rules:
  line-length: {max: 120}
  document-start: disable
  comments: {min-spaces-from-content: 1}
"""


def program(name: str) -> str:
    """A linter that came as a Python package, or any on the path."""
    found = shutil.which(name, path=f"{BESIDE}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")


def lint(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=LAUNCH, timeout=60)


def test_shellcheck_passes_the_scripts_and_catches_a_fault(tmp_path):
    shellcheck = program("shellcheck")
    assert len(SCRIPTS) == 4
    assert lint(shellcheck, *SCRIPTS).stdout == ""
    wrong = tmp_path / "entry.sh"
    wrong.write_text((LAUNCH / "entry.sh").read_text().replace("case $job in", "case $jbo in"))
    assert "jbo is referenced but not assigned" in lint(shellcheck, wrong).stdout


def test_hadolint_passes_the_dockerfile_and_catches_a_fault(tmp_path):
    hadolint = program("hadolint")
    assert lint(hadolint, LAUNCH / "Dockerfile").stdout == ""
    wrong = tmp_path / "Dockerfile"
    text = (LAUNCH / "Dockerfile").read_text()
    wrong.write_text(text.replace("ENTRYPOINT", "ENTRYPIONT"))
    assert lint(hadolint, wrong).returncode != 0
    wrong.write_text(text.replace(":${PYTHON}-bookworm", ""))
    assert "Always tag the version" in lint(hadolint, wrong).stdout


def test_yamllint_passes_the_manifests_and_catches_a_fault(tmp_path):
    yamllint = program("yamllint")
    assert lint(yamllint, "--strict", "-d", YAML_RULES, LAUNCH).stdout == ""
    wrong = tmp_path / "service.yaml"
    wrong.write_text((LAUNCH / "gke/serve/base/service.yaml").read_text() + "kind: Service\n")
    assert 'duplication of key "kind"' in lint(yamllint, "--strict", "-d", YAML_RULES, wrong).stdout


def test_the_image_is_pinned_and_small_and_runs_as_nobody():
    text = (LAUNCH / "Dockerfile").read_text()
    stages = {stage: base for base, stage in re.findall(r"^FROM (\S+) AS (\w+)$", text, re.M)}
    assert stages.keys() == {"build", "runtime", "serve", "dataflow", "train"}
    assert re.search(r"^ARG PYTHON=3\.11\.\d+$", text, re.M)
    runtime = text.partition(" AS runtime")[2]
    assert "-slim-" in stages["runtime"]
    assert not re.search(r"gcc|build-essential|\bg\+\+|-dev\b", runtime)
    assert text.rindex("\nUSER 10001") > text.rindex("useradd")
    entry = (LAUNCH / "entry.sh").read_text()
    (port,) = set(re.findall(r"--port (\d+)", entry))
    assert f"127.0.0.1:{port}/readyz" in text.partition("HEALTHCHECK")[2]
    for job in re.findall(r'^CMD \["(\w+)"\]$', text, re.M):
        assert job in JOBS


def test_the_extras_that_images_and_setups_install_exist():
    extras = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"EXTRAS=([\w,]+)", (LAUNCH / "Dockerfile").read_text())
    named += re.findall(r'"\.\[([\w,]+)\]"', (LAUNCH / "sky" / "train.yaml").read_text())
    assert len(named) >= 5
    assert {extra for group in named for extra in group.split(",")} <= extras.keys()


def test_what_the_wheel_is_made_of_reaches_the_build():
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?:--chmod=\d+ )?(?!--from)(.+) \S+$", (LAUNCH / "Dockerfile").read_text(), re.M)
    for path in " ".join(copied).split():
        assert (LAUNCH.parent / path).exists() and f"!{path}" in ignored


def test_the_readme_names_every_variable_and_every_recipe():
    text = (LAUNCH / "README.md").read_text()
    for name in variables():
        assert f"`{name}`" in text, name
    for path in (*(folder.relative_to(LAUNCH) for folder in (*TRAINING, *SERVING)), *(s.name for s in SCRIPTS)):
        assert str(path) in text, path
