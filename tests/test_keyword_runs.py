"""Runs whose model has keywords, several pictures and several text fields: begun, resumed, exported, searched."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.keywords import Lexicon
from maxsearch.data.records import Product
from maxsearch.encode import Encoder
from maxsearch.errors import MaxsearchError
from maxsearch.prepare.run import prepare
from maxsearch.training.run_folder import read_config
from tests import tiny
from tests.test_product_parts import jpeg, options

FLAGS = (
    *("--model.keywords", 64, "--model.align.visual-words", 2, "--model.images", 2, "--model.texts", 3),
    *("--loss.keywords", 0.1, "--loss.mlm-title", 0.1, "--loss.keyword-mask", "--log-every", 1),
)

pytestmark = pytest.mark.usefixtures("quick_compile")


def words(run: Path, *more: object) -> list[object]:
    """The train command."""
    return ["train", tiny.preset(), "--data", data(), "--run", run, *FLAGS, *more]


@cache
def data() -> Path:
    """A prepared catalogue of products with two pictures and three text fields."""
    folder = tiny.folder() / "parts"
    folder.mkdir()
    prepare(options(folder))
    return folder / "data"


@cache
def run() -> Path:
    """Two steps."""
    folder = tiny.folder() / "keyword run"
    tiny.quiet(*words(folder, "--steps", 2))
    return folder


@cache
def model() -> Path:
    """Their exported model."""
    folder = tiny.folder() / "keyword model"
    tiny.quiet("export", "--run", run(), "--out", folder)
    return folder


def test_a_run_has_the_keywords_of_its_data() -> None:
    assert (run() / "keywords.json").read_text() == (data() / "keywords.json").read_text()
    first, second = tiny.metrics(run())
    assert first.keys() >= {"loss/keywords", "loss/mlm_title"}
    assert all(np.isfinite(value) for line in (first, second) for value in line.values())


def test_a_resumed_run_uses_the_keywords_it_has(tmp_path: Path) -> None:
    folder = shutil.copytree(run(), tmp_path / "run")
    own = Lexicon(("soft", "shirt"))
    own.save(folder / "keywords.json")
    tiny.quiet(*words(folder, "--steps", 3))
    assert [line["step"] for line in tiny.metrics(folder)] == [1, 2, 3]
    assert Encoder.from_run(folder).lexicon == own


@pytest.mark.parametrize("content", [None, '{"words": ["soft", "soft"]}', "{"])
def test_a_run_with_damaged_keywords_is_refused(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(run(), tmp_path / "run")
    path = folder / "keywords.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(MaxsearchError, match=f"keywords file.* {path}.*: begin a new run"):
        Encoder.from_run(folder)
    code, said = tiny.fails(capsys, *words(folder, "--steps", 3))
    assert code == 1 and str(path) in said


def test_data_without_keywords_are_refused_before_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(tmp_path / "run")
    command[command.index(data())] = bare = tmp_path / "bare"
    tiny.quiet("prepare", *tiny.prepare_words(bare), "--keywords", 0)
    code, said = tiny.fails(capsys, *command)
    assert code == 2
    assert f"--model.keywords is 64 and {bare} was prepared without keywords: prepare it again" in said
    assert not (tmp_path / "run").exists()


def test_an_exported_model_holds_the_keywords_and_agrees_with_its_run() -> None:
    exported, encoder = Encoder.from_model(model()), Encoder.from_run(run())
    assert exported.lexicon == encoder.lexicon == Lexicon.load(data() / "keywords.json", remedy="")
    assert exported.fingerprint == encoder.fingerprint
    assert "keywords.json" in json.loads((model() / "manifest.json").read_text())["files"]
    products = [
        Product("two", "shirt", (jpeg(40), jpeg(200)), texts=("Acme", "soft")),
        Product("more", "shirt", (jpeg(40), jpeg(200), jpeg(9)), texts=("Acme", "soft", "never read")),
        Product("front", "shirt", (jpeg(40),), texts=("Acme", "soft")),
        Product("brand", "shirt", (jpeg(40), jpeg(200)), texts=("Other", "soft")),
        Product("none", "shirt"),
    ]
    (one,), (other,) = exported.encode_products(products), encoder.encode_products(products)
    np.testing.assert_array_equal(one.p, other.p)
    np.testing.assert_allclose(one.p[0], one.p[1], atol=2e-6)
    assert np.abs(one.v[0] - one.v[2]).max() > 1e-4 and np.abs(one.t[0] - one.t[3]).max() > 1e-4
    np.testing.assert_allclose(one.t[0], one.t[2], atol=2e-6)
    np.testing.assert_allclose(one.weights[4], [1, 0], atol=1e-6)


def test_other_keywords_make_another_model(tmp_path: Path) -> None:
    encoder = Encoder.from_run(run())
    other = Encoder(read_config(run()), encoder.params, encoder.tokenizer, lexicon=Lexicon(("soft", "shirt")))
    assert other.fingerprint != encoder.fingerprint
    folder = shutil.copytree(model(), tmp_path / "model")
    (folder / "keywords.json").write_text((folder / "keywords.json").read_text().replace("soft", "sofa"))
    with pytest.raises(MaxsearchError, match=r"keywords\.json was altered"):
        Encoder.from_model(folder)
    (folder / "keywords.json").unlink()
    with pytest.raises(MaxsearchError, match=r"keywords\.json is missing"):
        Encoder.from_model(folder)
