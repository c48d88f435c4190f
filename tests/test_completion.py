"""The scripts, run by the shells that they are for."""

import shutil
import subprocess
from pathlib import Path

import pytest

from maxsearch.cli import COMMANDS
from maxsearch.completion import script
from maxsearch.presets import preset_names


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "_maxsearch.bash").write_text(script("bash"))
    return folder


def bash(scripts: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    program = (
        'source "$1"; shift; COMP_WORDS=(maxsearch "$@"); COMP_CWORD=$#; compopt() { :; }\n'
        '_maxsearch; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", program, "bash", scripts / "_maxsearch.bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scripts)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_sub_commands(scripts: Path) -> None:
    assert bash(scripts, "") >= set(COMMANDS)
    assert bash(scripts, "ex") == {"explain", "export"}
    assert {"build", "upsert", "rollback"} <= bash(scripts, "index", "")


def test_bash_completes_presets_and_ladders_as_first_words(scripts: Path) -> None:
    assert bash(scripts, "train", "") == bash(scripts, "plan", "") == set(preset_names())
    assert bash(scripts, "train", "methods/m") == {"methods/m3el", "methods/make"}
    assert bash(scripts, "ablate", "fa") == {"fashion"}
    assert bash(scripts, "completion", "z") == {"zsh"}


def test_bash_completes_flags_and_their_choices(scripts: Path) -> None:
    assert {"--products", "--interactions", "--out"} <= bash(scripts, "prepare", "--")
    assert bash(scripts, "train", "fashion", "--model.image.dep") == {"--model.image.depth"}
    assert bash(scripts, "train", "fashion", "--loss.kind", "am") == {"am_softmax"}
    assert bash(scripts, "index", "build", "--vec") == {"--vectors"}
    assert bash(scripts, "index", "build", "--kind", "") == {"auto", "exact", "scann"}


def test_bash_completes_paths_after_flags_that_take_one(scripts: Path) -> None:
    assert bash(scripts, "evaluate", "--run", "_max") == {"_maxsearch.bash"}
    # Nothing of ours: readline then offers files by itself.
    assert bash(scripts, "data", "stats", "_max") == set()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(tmp_path: Path) -> None:
    (tmp_path / "maxsearch.fish").write_text(script("fish"))

    def fish(line: str) -> set[str]:
        program = f"source {tmp_path / 'maxsearch.fish'}; complete -C '{line}'"
        done = subprocess.run(["fish", "--no-config", "-c", program], capture_output=True, text=True, check=True)
        return {found.split("\t")[0] for found in done.stdout.splitlines()}

    assert fish("maxsearch ") >= set(COMMANDS)
    assert fish("maxsearch train ") >= set(preset_names())
    assert fish("maxsearch index build --vec") == {"--vectors"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(tmp_path: Path) -> None:
    (tmp_path / "_maxsearch").write_text(script("zsh"))
    # Its completion widgets need a terminal; what they are given is caught in place of being shown.
    program = (
        "compadd() { shift; print -rl -- $@ }; _files() { : }; _describe() { print -rl -- ${(P)2} }\n"
        'run() { local -a words=(maxsearch "$@"); local CURRENT=$#words PREFIX=$words[-1]; '
        f'eval "$(<{tmp_path / "_maxsearch"})" }}\n'
    )

    def zsh(*words: str) -> set[str]:
        call = "run " + " ".join(f"'{word}'" for word in words)
        done = subprocess.run(["zsh", "-fc", program + call], capture_output=True, text=True, check=True)
        return {found.split(":")[0] for found in done.stdout.splitlines()}

    assert zsh("") >= set(COMMANDS)
    assert zsh("train", "") >= set(preset_names())
    assert "--vectors" in zsh("index", "build", "--")
