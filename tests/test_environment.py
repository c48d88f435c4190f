"""What a run notes of what it ran on."""

import json
import subprocess
from pathlib import Path

import pytest

from maxsearch.errors import MaxsearchError
from maxsearch.training.environment import environment, git_commit, note_process
from maxsearch.training.run_folder import ENVIRONMENT


def processes(run: Path) -> list[int]:
    return [one["from_step"] for one in json.loads((run / ENVIRONMENT).read_text())["processes"]]


def test_each_process_adds_itself_in_place_of_those_done_again(tmp_path: Path) -> None:
    for step, expected in ((0, [0]), (10, [0, 10]), (20, [0, 10, 20]), (10, [0, 10]), (0, [0])):
        note_process(tmp_path, step, "abc")
        assert processes(tmp_path) == expected
    (tmp_path / ENVIRONMENT).write_text("{")
    note_process(tmp_path, 0, "abc")
    assert processes(tmp_path) == [0]
    (tmp_path / ENVIRONMENT).write_text("{")
    with pytest.raises(MaxsearchError, match=r"environment\.json is not valid JSON .* remove it"):
        note_process(tmp_path, 5, "abc")


def test_it_names_versions_and_devices_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "someone-secret")
    found = environment()
    assert found["devices"]["count"] == 8 and found["packages"]["jax"]
    said = json.dumps(found)
    assert "someone-secret" not in said and "/home" not in said and str(Path.cwd()) not in said


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert git_commit(tmp_path) is None, "no repository after all"
    (tmp_path / ".git").rmdir()

    def git(*words: str) -> None:
        names = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run(["git", "-C", str(tmp_path), *names, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    found = git_commit(tmp_path)
    assert found is not None and len(found["commit"]) == 40 and not found["changed"]
    (tmp_path / "a").write_text("2")
    changed = git_commit(tmp_path)
    assert changed is not None and changed == found | {"changed": True}
