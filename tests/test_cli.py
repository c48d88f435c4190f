"""The command line: every command, and one sentence for everything that can be wrong."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from maxsearch import __version__, cli
from maxsearch.cli import COMMANDS, main
from maxsearch.encode import Encoder
from tests import tiny

DRESS = "red dress"


def test_from_a_catalogue_to_search_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run, model, index = (tmp_path / name for name in ("data", "run", "model", "index"))
    tiny.quiet("prepare", *tiny.prepare_words(data))
    said = capsys.readouterr()
    assert said.out == f"{data}: 150 products, 2,511 interactions of 2,150 queries, 0 rows rejected\n"
    assert said.err.count("\n") == 3

    tiny.quiet("train", tiny.preset(), "--data", data, "--run", run, "--steps", 3)
    assert capsys.readouterr().out.startswith(f"{run}: 3 steps in ")

    ranking, figures = tmp_path / "ours.run", tmp_path / "figures.json"
    tiny.quiet(*tiny.evaluate_words("--run", run, "--save-run", ranking, "--out", figures))
    said = capsys.readouterr()
    assert all(name in said.out for name in ("nDCG@10", "recall@100", "MRR", "BM25", "random", "33 queries over 50"))
    steps = ["reading training products", "reading training interactions", "embedding products"]
    assert [line.partition(":")[0] for line in said.err.splitlines()] == steps
    written = json.loads(figures.read_text())
    lines = [line.split() for line in ranking.read_text().splitlines()]
    assert len({line[0] for line in lines}) == len(list(csv.reader((tiny.catalogue() / "queries.test.csv").open()))) - 1
    assert all(line[1] == "Q0" and len(line) == 6 for line in lines)

    tiny.quiet("export", "--run", run, "--out", model)
    fingerprint = Encoder.from_run(run).fingerprint
    assert capsys.readouterr().out.startswith(f"{model}: model {fingerprint[:12]} of step 3, ")
    assert json.dumps(written).count(fingerprint) == 1

    # The saved ranking, the exported model and the figures tell the same.
    tiny.quiet(*tiny.evaluate_words("--model", model, "--compare", ranking, "--out", tmp_path / "again.json"))
    again = {row["name"]: row for row in json.loads((tmp_path / "again.json").read_text())["systems"]}
    assert again["ours"]["metrics"] | {"auc": None} == again["ours.run"]["metrics"]
    capsys.readouterr()

    products = tiny.catalogue() / "products.test.parquet"
    tiny.quiet("index", "build", "--model", model, "--products", products, "--out", index)
    assert capsys.readouterr().out == f"{index}: 50 products, exact index, 16 dimensions\n"

    tiny.quiet("search", DRESS, "--index", index, "--model", model, "-k", 4, "--json")
    said = capsys.readouterr()
    hits = [json.loads(line) for line in said.out.splitlines()]
    assert said.err == ""
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    titles = {row["product_id"]: row["title"] for row in pq.read_table(products).to_pylist()}
    assert all(hit["title"] == titles[hit["product_id"]] for hit in hits)

    tiny.quiet("search", DRESS, "--index", index, "--model", model, "-k", 4)
    table = capsys.readouterr().out
    assert all(hit["product_id"] in table and f"{hit['score']:.3f}" in table for hit in hits)
    assert f"colour {hits[0]['attributes']['colour']}" in " ".join(table.split())


def test_an_index_of_a_prepared_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.quiet("index", "build", "--model", tiny.model(), "--data", tiny.data(), "--out", tmp_path / "index")
    assert "150 products, exact index" in capsys.readouterr().out


def test_products_that_an_index_leaves_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products = tmp_path / "products.csv"
    products.write_text("product_id,title\n" + "".join(f"p{n},thing {n}\n" for n in range(9)) + ",nothing\n")
    words = ("index", "build", "--model", tiny.model(), "--products", products, "--out", tmp_path / "index")
    code, said = tiny.fails(capsys, *words)
    assert code == 1
    assert said.startswith(f"maxsearch: 1 of 10 rows of the products file {products} cannot be used (the first: row 10")
    assert not (tmp_path / "index").exists()
    tiny.quiet(*words, "--max-bad-fraction", 0.1)
    said = capsys.readouterr().err
    assert f"left out 1 of 10 rows of {products} that cannot be used (the first: row 10" in said


def truncated_model(folder: Path) -> Path:
    model = shutil.copytree(tiny.model(), folder / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return model


def other_model(folder: Path) -> Path:
    tiny.quiet("export", "--run", tiny.run(), "--step", 6, "--out", folder / "model")
    return folder / "model"


def run_without(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        run = shutil.copytree(tiny.run(), folder / "run")
        shutil.rmtree(run / name)
        return run

    return make


def bad_images(folder: Path) -> Path:
    table = pq.read_table(tiny.catalogue() / "products.train.parquet")
    rows = table.to_pylist()
    for row in rows[:3]:
        row["image"] = b"no picture"
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), folder / "products.parquet")
    return folder / "products.parquet"


def text_file(content: str, name: str = "file.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


Word = str | Callable[[Path], object]


def raw(name: str) -> Callable[[Path], Path]:
    return lambda _: tiny.catalogue() / name


PRODUCTS, CLICKS = raw("products.train.parquet"), raw("interactions.train.csv")
TEST, QUERIES, QRELS = raw("products.test.parquet"), raw("queries.test.csv"), raw("qrels.test.tsv")


def out(folder: Path) -> Path:
    return folder / "out"


def always(make: Callable[[], Path]) -> Callable[[Path], Path]:
    return lambda _: make()


PREPARE: tuple[Word, ...] = ("prepare", "--interactions", CLICKS, "--out", out, "--products")
EVALUATE: tuple[Word, ...] = ("evaluate", "--products", TEST, "--queries", QUERIES, "--qrels", QRELS)
BUILD: tuple[Word, ...] = ("index", "build", "--out", out, "--products", TEST, "--model")
SEARCH: tuple[Word, ...] = ("search", DRESS, "--index", always(tiny.index), "--model")
TRAIN: tuple[Word, ...] = ("train", always(tiny.preset), "--run", out, "--data", always(tiny.data))

BAD: dict[str, tuple[tuple[Word, ...], int, str]] = {
    "prepare: no file": ((*PREPARE, "absent.csv"), 2, "the products file absent.csv does not exist: check the path"),
    "prepare: wrong column": ((*PREPARE, PRODUCTS, "--map", "title=titel"), 2, "no column 'titel' for the field title"),
    "prepare: unknown field": ((*PREPARE, PRODUCTS, "--map", "titel=title"), 2, "did you mean 'title'?"),
    "prepare: unknown format": ((*PREPARE, text_file("", "x.xlsx")), 2, "is of an unknown format"),
    "prepare: no products": ((*PREPARE, text_file("product_id,title\n")), 1, "has no rows: give a file with rows"),
    "prepare: bad pictures": ((*PREPARE, bad_images), 1, "most often undecodable_image (3 rows; row 1 "),
    "prepare: onto other files": (
        ("prepare", *PREPARE[1:3], "--out", always(tiny.catalogue), "--products", PRODUCTS),
        2,
        "--out",
    ),
    "train: no preset": (("train", "--data", "x", "--run", "y"), 2, "choose one of base, fashion, "),
    "train: misspelt preset": (("train", "fashon", "--data", "x", "--run", "y"), 2, "did you mean 'fashion'?"),
    "train: broken preset": (("train", text_file("x = (", "p.py"), "--data", "x", "--run", "y"), 2, "cannot be loaded"),
    "train: no data": ((*TRAIN[:-1], "absent"), 1, "no data manifest at absent/manifest.json: prepare the folder"),
    "train: raw data": ((*TRAIN[:-1], always(tiny.catalogue)), 1, "prepare the folder with `maxsearch prepare --out`"),
    "train: bad window": ((*TRAIN, "--profile-steps", "9"), 2, "--profile-steps 9 is no window: give two steps"),
    "plan: no such chip": (("plan", "base", "--topology", "v9z:2x2"), 2, "no such chip, choose from v5e, v5p"),
    "plan: no topology": (("plan", "base", "--topology", "v5e"), 2, "give the chip and its grid, such as v5e:4x8"),
    "plan: no such stage": (("plan", "base", "--topology", "v5e:2x4", "--stage", "2"), 2, "has 1, choose from 1 to 1"),
    "train: steps and minutes": ((*TRAIN, "--steps", "5", "--minutes", "1"), 2, "exclude each other: give one"),
    "train: no minutes": ((*TRAIN, "--minutes", "0"), 2, "--minutes must be a number above 0, not 0.0"),
    "train: endless minutes": ((*TRAIN, "--minutes", "inf"), 2, "--minutes must be a number above 0, not inf"),
    "train: minutes not a number": ((*TRAIN, "--minutes", "nan"), 2, "--minutes must be a number above 0, not nan"),
    "train: no steps": ((*TRAIN, "--steps", "0"), 2, "train.steps must be at least 1, not 0"),
    "train: foreign run": (
        (*TRAIN, "--run", always(tiny.catalogue)),
        2,
        "exists and is no run folder: name a new folder",
    ),
    "train: model as run": ((*TRAIN, "--run", always(tiny.model)), 2, "exists and is no run folder"),
    "train: no tokenizer": ((*TRAIN, "--data.tokenizer", always(tiny.catalogue)), 2, "holds no tokenizer"),
    "train: no TFDS": (("train", always(tiny.preset), "--run", out, "--data", "tfds:nope"), 1, "no TFDS dataset nope"),
    "evaluate: no model": (EVALUATE, 2, "name the model with either --run or --model"),
    "evaluate: two models": ((*EVALUATE, "--run", "a", "--model", "b"), 2, "with either --run or --model"),
    "evaluate: step of a model": ((*EVALUATE, "--model", "b", "--step", "3"), 2, "--step names a checkpoint of a run"),
    "evaluate: no run": ((*EVALUATE, "--run", "absent"), 1, "no run config at absent/config.json: name a run folder"),
    "evaluate: no step": ((*EVALUATE, "--run", always(tiny.run), "--step", "7"), 1, "choose from 6, 9, 10"),
    "evaluate: few ranks": ((*EVALUATE, "--run", always(tiny.run), "-k", "10"), 2, "too few ranks for recall@100"),
    "evaluate: out a folder": (
        (*EVALUATE, "--run", always(tiny.run), "--out", always(tiny.catalogue)),
        2,
        "is a folder: give",
    ),
    "evaluate: no queries": ((*EVALUATE, "--run", always(tiny.run), "--queries", "absent.csv"), 2, "does not exist"),
    "evaluate: bad grades": (
        (*EVALUATE, "--run", always(tiny.run), "--qrels", text_file("query_id,product_id,grade\nq0000,p1,good\n")),
        1,
        "'good'",
    ),
    "evaluate: wrong column": ((*EVALUATE, "--run", always(tiny.run), "--map", "title=titel"), 2, "no column 'titel'"),
    "export: no run": (
        ("export", "--run", always(tiny.catalogue), "--out", out),
        1,
        "name a run folder that `maxsearch train`",
    ),
    "export: no checkpoint": (
        ("export", "--run", run_without("checkpoints"), "--out", out),
        1,
        "holds no checkpoints: name a run folder",
    ),
    "export: no tokenizer": (("export", "--run", run_without("tokenizer"), "--out", out), 2, "holds no tokenizer"),
    "export: nothing to do": (("export",), 2, "give the run with --run and the folder to write with --out, or a model"),
    "export: verify and write": (
        ("export", "--verify", "a", "--out", "b"),
        2,
        "leave --run, --out and the test files out",
    ),
    "export: half a test": (("export", "--verify", "a", "--queries", "b"), 2, "give all three, or none"),
    "export: verify nothing": (("export", "--verify", "absent"), 1, "no model folder at absent: write it with"),
    "export: onto other files": (
        ("export", "--run", always(tiny.run), "--out", always(tiny.catalogue)),
        2,
        "pass another folder",
    ),
    "index: no products": ((*BUILD[:4], "--model", always(tiny.model)), 2, "with either --products or --data"),
    "index: no model": ((*BUILD, "absent"), 1, "no model folder at absent: write it with `maxsearch export`"),
    "index: run as model": ((*BUILD, always(tiny.run)), 1, "is not a maxsearch model folder"),
    "index: truncated model": ((*BUILD, truncated_model), 1, "so it was cut short or altered"),
    "index: bad share": ((*BUILD, always(tiny.model), "--max-bad-fraction", "2"), 2, "give a number from 0 to 1"),
    "index: few for ScaNN": ((*BUILD, always(tiny.model), "--kind", "scann"), 2, "at least 1,000 products"),
    "search: another model": ((*SEARCH, other_model), 1, "was built with model"),
    "search: truncated model": ((*SEARCH, truncated_model), 1, "so it was cut short or altered"),
    "search: no query": (("search", " ", *SEARCH[2:], always(tiny.model)), 2, "the query is empty"),
    "search: no ranks": ((*SEARCH, always(tiny.model), "-k", "0"), 2, "-k must be at least 1, not 0"),
    "search: no index": (("search", DRESS, "--index", "absent"), 1, "no index folder at absent: build it with"),
    "no such command": (("trane",), 2, "no sub-command 'trane': did you mean 'train'?"),
    "nothing like a command": (("zzz",), 2, "no sub-command 'zzz': choose one of quickstart, prepare, data, "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words, code, sentence = BAD[case]
    found, said = tiny.fails(capsys, *(word(tmp_path) if callable(word) else word for word in words))
    assert said.startswith("maxsearch: ")
    assert sentence in said
    assert found == code
    left = {path.name for path in tmp_path.glob("out/*")}
    assert not left & {"manifest.json", "checkpoints"}  # nothing that looks finished


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "fashion", "--data", "x", "--run", "y", "--stesp", "5"), "--steps"),
        (("train", "fashion", "--data", "x", "--run", "y", "--optim.learning-rat", "5"), "--optim.learning-rate"),
        (("prepare", "--product", "x", "--interactions", "y", "--out", "z"), "--products"),
        (("search", "red", "--idnex", "x"), "--index"),
    ],
)
def test_a_misspelt_flag_is_told_with_the_right_one(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f" {told} " in said
    assert f"maxsearch {words[0]} --help" in said


@pytest.mark.parametrize(
    "words", [(), ("train", "fashion"), ("index", "bild"), ("search",), ("export", "--run"), ("train", "fashion", "-x")]
)
def test_bad_usage_leaves_with_2(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "help" in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str | None) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"] if name is None else [name, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"usage: maxsearch {name}" if name else "usage: maxsearch")
    assert said.err == ""
    assert name is not None or all(command in said.out for command in COMMANDS)


def test_flags_of_train_have_the_values_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", str(tiny.preset()), "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--train.checkpoint-every INT (default: 3)" in said
    assert "--data.batch-size INT (default: 16)" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"maxsearch {__version__}\n"


def test_help_loads_no_heavy_library() -> None:
    script = (
        "import sys\nfrom maxsearch.cli import main\n"
        "try:\n    main(['train', 'quickstart', '--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'jax', 'transformers', 'orbax', 'scann', 'pyarrow', 'grain', 'numpy'}\n"
        "    print(heavy & sys.modules.keys(), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == "set()\n"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), 1, "Permission denied on /x/y: look at the path"),
        (OSError(28, "No space left on device"), 1, "No space left on device: look at the path"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_of_the_machine_are_sentences(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    sentence: str,
) -> None:
    def fail(arguments: object) -> None:
        raise error

    monkeypatch.setattr(cli, "parse", fail)
    found, said = tiny.fails(capsys, "search", "red")
    assert (found, said.startswith(f"maxsearch: {sentence}")) == (code, True)


def test_a_reader_that_leaves_is_no_error_to_tell() -> None:
    words = ("search", DRESS, "--index", tiny.index(), "--model", tiny.model(), "--json")
    script = "import os\nread, write = os.pipe()\nos.dup2(write, 1)\nos.close(read)\n"
    done = tiny.spawn(words, script=script)
    assert done.stderr == ""
    assert done.returncode == 1
