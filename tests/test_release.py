"""What a release is: one version, notices of what it needs, and a wheel that works without its checkout."""

import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from maxsearch import __version__
from maxsearch.doctor.packages import INTERNAL, PURPOSES
from maxsearch.manifest import created_by

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    source = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.+)"$', source.read_text(), re.M) == [__version__]
    assert created_by() == f"maxsearch {__version__}"


def test_the_changelog_opens_with_what_is_to_come_and_has_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased" and __version__ in headings
    assert len(headings) == len(set(headings))


@pytest.fixture(scope="module")
def notices() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notices", ROOT / ".ci/notices.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_doctor_knows_what_every_extra_is_for(notices: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) <= PURPOSES.keys() | INTERNAL
    assert notices.INTERNAL == INTERNAL


def test_every_package_that_is_needed_has_a_notice(notices: ModuleType) -> None:
    written = notices.NOTICES.read_text()
    table = [line.strip("| ").split(" | ") for line in written.splitlines() if line.startswith("| ")][1:]
    stated = {(row[0], row[3] if len(row) > 3 else ""): row[1] for row in table}
    wanted = {place: notices.told(versions) for place, versions in notices.requirements().items()}
    assert stated == wanted, "python .ci/notices.py writes the page again"


def test_every_licence_may_stand_beside_ours(notices: ModuleType) -> None:
    table = [
        line.strip("| ").split(" | ") for line in notices.NOTICES.read_text().splitlines() if line.startswith("| ")
    ]
    for name, _, licence, *_ in table[1:]:
        for choice in [licence] if " OR " not in licence else licence.split(" OR "):
            assert notices.identifiers(choice) <= notices.COMPATIBLE, name
        assert licence == notices.licence_of(name.partition("[")[0])


def test_a_package_of_no_known_licence_stops_the_notices(notices: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no-such-package is not installed: install it, or name its licence"):
        notices.licence_of("no-such-package")


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_a_wheel_built_from_the_sdist_works_without_the_checkout(tmp_path: Path) -> None:
    """Needs a package index; takes the packages of this environment's caches where pip has them."""
    dist, again, home = tmp_path / "dist", tmp_path / "again", tmp_path / "home"
    home.mkdir()
    run(sys.executable, "-m", "venv", tmp_path / "build", cwd=tmp_path)
    builder = tmp_path / "build/bin/python"
    run(builder, "-m", "pip", "install", "-q", "build", cwd=tmp_path)
    run(builder, "-m", "build", "--outdir", dist, ROOT, cwd=tmp_path)  # the wheel comes from the sdist
    run(builder, "-m", "build", "--wheel", "--outdir", again, ROOT, cwd=tmp_path)
    [wheel], [sdist], [direct] = dist.glob("*.whl"), dist.glob("*.tar.gz"), again.glob("*.whl")
    assert wheel.name == f"maxsearch-{__version__}-py3-none-any.whl"
    content = names(wheel)
    assert content == names(direct)

    tops = {name.split("/")[0] for name in content}
    assert tops == {"maxsearch", f"maxsearch-{__version__}.dist-info"}
    source = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("maxsearch/**/*") if path.is_file()}
    source = {name for name in source if "__pycache__" not in name}
    configs = {f"maxsearch/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("configs/**/*.py")}
    assert {name for name in content if name.startswith("maxsearch/")} == source | configs
    assert "maxsearch/py.typed" in content
    licences = {name.rpartition("/")[2] for name in content if "/licenses/" in name}
    assert licences == {"LICENSE", "THIRD_PARTY_NOTICES.md"}
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "configs/fashion.py", "tests/tiny.py"} <= packed
    assert not {name for name in packed if name.startswith(("shared", "dist/", ".venv"))}

    run(sys.executable, "-m", "venv", tmp_path / "clean", cwd=tmp_path)
    python, maxsearch = tmp_path / "clean/bin/python", tmp_path / "clean/bin/maxsearch"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=home)
    assert run(maxsearch, "--version", cwd=home) == f"maxsearch {__version__}\n"
    run(python, "-m", "pip", "check", cwd=home)
    run(maxsearch, "doctor", cwd=home)
    said = run(maxsearch, "quickstart", "--products", 150, "--steps", 3, cwd=home)
    assert "Done" in said
    assert "--model.image.depth" in run(maxsearch, "train", "methods/make", "--help", cwd=home)
    assert "complete -o default -F _maxsearch" in run(maxsearch, "completion", "bash", cwd=home)
