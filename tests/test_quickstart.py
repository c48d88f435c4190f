import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maxsearch.data.catalogue import read_products
from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.data.synthetic import write_catalogue
from maxsearch.encode import Encoder
from maxsearch.progress import Progress
from tests import tiny

COMMANDS = ["prepare", "train", "evaluate", "evaluate", "export", "index"] + 5 * ["search"]
PARTS = {"catalogue", "data", "run", "model", "index", "results.json"}


def test_quickstart_leaves_every_part_and_prints_its_commands(tmp_path: Path) -> None:
    out = tmp_path / "quick start"
    done = tiny.spawn(["quickstart", "--out", out, "--products", 150, "--steps", 3, "--seed", 2])
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == PARTS
    assert all((out / part / "manifest.json").is_file() for part in ("data", "model", "index"))

    results = json.loads((out / "results.json").read_text())
    assert (results["products"], results["seed"]) == (150, 2)
    commands = [shlex.split(command) for command in results["commands"]]
    assert [words[:1] for words in commands] == [["maxsearch"]] * len(COMMANDS)
    assert [words[1] for words in commands] == COMMANDS
    for name in ("all", "silent"):
        systems = {row["name"]: row["metrics"] for row in results[name]["systems"]}
        assert systems.keys() >= {"ours", "BM25", "random"}
        for metrics in systems.values():
            assert all(0 <= value["low"] <= value["mean"] <= value["high"] <= 1 for value in metrics.values())

    # Every command stands in the output twice: where it ran, and in the list at the end.
    assert all(done.stdout.count(command) >= 2 for command in results["commands"])
    assert done.stdout.rstrip().splitlines()[-1].strip() == results["commands"][-1]
    assert done.stdout.count("title and attributes") == 5
    assert done.stdout.count("nDCG@10") == 2
    own = (
        "Preparing",
        "Adding up",
        "compiling the step",
        "step ",
        "embedding",
        "reading training",
        "drawing",
        "Drawing",
    )
    assert [line for line in done.stderr.splitlines() if not line.startswith(own)] == []

    # The commands can be repeated as they stand.
    again = tiny.spawn(commands[-1][1:])
    assert again.returncode == 0, again.stderr
    assert "title and attributes" in again.stdout


def test_quickstart_that_is_stopped_goes_no_further_and_resumes(tmp_path: Path) -> None:
    words = ["quickstart", "--out", tmp_path / "out", "--products", 150, "--steps", 3, "--seed", 2]
    script = (
        "import os, signal\nfrom maxsearch.training.metrics import Display\nadvance = Display.advance\n"
        "def stop(self, step, horizon):\n    advance(self, step, horizon)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "Display.advance = stop\n"
    )
    stopped = tiny.spawn(words, script=script)
    assert stopped.returncode == 0, stopped.stderr
    said = "stopped at step 1, checkpoint saved; resume with: "
    assert stopped.stdout.splitlines()[-1] == said + shlex.join(["maxsearch", *map(str, words)])
    assert not (tmp_path / "out/model").exists()
    assert not (tmp_path / "out/results.json").exists()
    again = tiny.spawn(words)
    assert again.returncode == 0, again.stderr
    assert "resuming at step 1" in again.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == PARTS


@pytest.mark.parametrize(("flags", "code"), [(("--products", 10), 2), (("--steps", 0), 2)])
def test_quickstart_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], code: int
) -> None:
    found, said = tiny.fails(capsys, "quickstart", "--out", tmp_path / "out", *flags)
    assert (found, said.startswith("maxsearch: ")) == (code, True)


@pytest.mark.slow
def test_quickstart_beats_bm25_where_the_title_is_silent(tmp_path: Path) -> None:
    done = tiny.spawn(["quickstart", "--out", tmp_path / "out"], timeout=1800)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    ours, bm25 = (
        next(row["metrics"]["ndcg@10"] for row in results["silent"]["systems"] if row["name"] == name)
        for name in ("ours", "BM25")
    )
    assert ours["low"] > bm25["high"] + 0.2
    check_modality_weights(tmp_path / "out")


@pytest.mark.slow
def test_a_model_that_saw_plain_pictures_leans_on_them_less(tmp_path: Path) -> None:
    raw, data, run, model = (tmp_path / name for name in ("catalogue", "data", "run", "model"))
    write_catalogue(raw, products=3000, seed=0, progress=Progress())
    products = raw / "products.train.parquet"
    put_plain_pictures(products, share=0.15)
    inputs = ("--products", products, "--interactions", raw / "interactions.train.csv", "--map", "weight=clicks")
    for words in (
        ("prepare", *inputs, "--out", data),
        ("train", "quickstart", "--data", data, "--run", run),
        ("export", "--run", run, "--out", model),
    ):
        done = tiny.spawn(words, timeout=1800)
        assert done.returncode == 0, done.stderr
    encoder, whole = Encoder.from_model(model), products_of(raw)
    changed = image_weight(encoder, whole, images=(plain_picture("white"),)) - image_weight(encoder, whole)
    assert (changed < 0).mean() > 0.9
    assert changed.mean() < -0.1


def check_modality_weights(out: Path) -> None:
    """The weights follow what a title says, not only its being there.

    Every picture of this catalogue shows its product, so that training has nothing to learn plain pictures from.
    """
    encoder, products = Encoder.from_model(out / "model"), products_of(out / "catalogue")
    whole = image_weight(encoder, products)
    assert 0.1 < whole.mean() < 0.9
    assert (image_weight(encoder, products, title="") == 1).all()
    assert (image_weight(encoder, products, images=()) == 0).all()
    assert (image_weight(encoder, products, title="item") > whole).mean() > 0.9


def products_of(catalogue: Path) -> list[Product]:
    """The products that training never saw."""
    rows = read_products(catalogue / "products.test.parquet", columns={}, image_dir=None, edge=64)
    return [product for _, product in rows if isinstance(product, Product)]


def image_weight(encoder: Encoder, products: list[Product], **changes: Any) -> np.ndarray:
    """How much the picture weighs in each product once it is changed so."""
    changed = [replace(product, **changes) for product in products]
    return np.concatenate([block.weights for block in encoder.encode_products(changed)])[:, 1]


def plain_picture(colour: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "PNG")
    return fit_image(stream.getvalue(), 64)


def put_plain_pictures(path: Path, share: float) -> None:
    """Puts a picture of one colour in place of a share of a table's pictures."""
    table, draws = pq.read_table(path), np.random.default_rng(0)
    column = table.schema.get_field_index("image")
    cells = [
        plain_picture(tuple(draws.integers(0, 256, 3).tolist())) if draws.random() < share else cell
        for cell in table.column("image").to_pylist()
    ]
    field = table.schema.field(column)
    pq.write_table(table.set_column(column, field, pa.array(cells, field.type)), path)
