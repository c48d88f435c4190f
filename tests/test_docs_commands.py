"""The commands that README and documentation print: parsed by the command line itself, and those of the way run."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from maxsearch.cli import parse
from maxsearch.commands.launch_local import LaunchLocal

ROOT = Path(__file__).parent.parent
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# What a comment before a block may say: why it is not run here, or what is smaller when it is.
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*?) -->")
SMALLER = re.compile(r"<!-- run as: (?P<changes>.*?) -->")
CHANGE = re.compile(r'"(?P<old>[^"]+)" => (?:"(?P<new>[^"]+)"|(?P<port>a free port))')
BLOCK = re.compile(r"(?:^(?P<comment><!-- .*? -->)\n+)?^```(?:bash|sh)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"""^((?:[^'"#\n]|'[^'\n]*'|"[^"\n]*"|(?<=\S)#)*)#.*$""", re.MULTILINE)
KEYWORDS = {"do", "done", "until", "while", "if", "then"}


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands, and the comment before it."""

    page: Path
    line: int
    code: str
    comment: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether the block is run, and not only parsed."""
        return NOT_RUN.fullmatch(self.comment) is None

    def small(self, port: int) -> str:
        """The block as it is run: with the changes that its comment names."""
        code = self.code
        found = SMALLER.fullmatch(self.comment)
        for change in found["changes"].split("; ") if found else ():
            parts = CHANGE.fullmatch(change)
            assert parts, f"{self}: {change!r} is no change"
            assert parts["old"] in code, f"{self}: {parts['old']!r} does not stand in the block"
            code = code.replace(parts["old"], parts["new"] or str(port))
        return code


def blocks(page: Path) -> Iterator[Block]:
    """The shell blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, found.start("code")), found["code"], found["comment"] or "")


def commands(code: str) -> Iterator[list[str]]:
    """The words behind every `maxsearch` of a block."""
    code = COMMENT.sub(r"\1", HEREDOC.sub("", code)).replace("\\\n", " ")
    lexer = shlex.shlex(code, posix=True, punctuation_chars="&|;<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] | None = None
    for word in [*lexer, ";"]:
        if not word.strip("&|;<>\n") or word in KEYWORDS:
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif word.rpartition("/")[2] == "maxsearch":
            words = []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_the_command_line_takes(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # presets of a checkout are named by their paths
    for block in blocks(page):
        for words in commands(block.code):
            try:
                command = parse(words)
                if isinstance(command, LaunchLocal):
                    parse(command.words)
            except (SystemExit, Exception) as error:
                raise AssertionError(f"{block}: {shlex.join(words)}\n{error}\n{capsys.readouterr().err}") from error


def test_a_flag_that_is_gone_is_found() -> None:
    """The test above can fail."""
    (words,) = commands("FOO=1 .venv/bin/maxsearch search 'red; dress' \\\n  --gone 3 > out.txt  # it's")
    assert words == ["search", "red; dress", "--gone", "3"]
    with pytest.raises(SystemExit):
        parse(words)


def test_comments_of_blocks_are_understood() -> None:
    """A misspelt comment would be passed over in silence."""
    for page in PAGES:
        for block in blocks(page):
            known = NOT_RUN.fullmatch(block.comment) or SMALLER.fullmatch(block.comment)
            assert not block.comment or known, f"{block}: {block.comment} is no comment of a block"


def test_the_two_set_up_commands_are_those_that_the_pipeline_runs() -> None:
    set_up = [block.code.strip() for block in blocks(README) if "-m venv" in block.code]
    assert len(set_up) == 2
    assert set_up[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_links_of_the_readme_lead_somewhere() -> None:
    """Sphinx checks the links of all other pages."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [README, TUTORIAL], ids=["README", "tutorial"])
def test_following_a_page_literally_works(page: Path, tmp_path: Path) -> None:
    """Runs the blocks of a page in one shell, each as it stands or as small as its comment says."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    run = [block for block in blocks(page) if block.runs]
    assert run
    folder = tmp_path / "checkout"
    copied(folder)
    # An exit from any block, and with it from the shell, ends what the block left running.
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
    script += "\n".join(f"echo '== {block}' >&2\n{block.small(port)}" for block in run)
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),  # the same step is compiled three times otherwise
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def copied(folder: Path) -> None:
    """A checkout to run in: what an installation from source reads."""
    folder.mkdir()
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("maxsearch", "configs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
