import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maxsearch.data.catalogue import read_products
from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.encode import Encoder
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


def check_modality_weights(out: Path) -> None:
    """A product leans on what tells more: the weights follow what its title and its picture say, not only their being
    there."""
    encoder = Encoder.from_model(out / "model")
    rows = read_products(out / "catalogue/products.test.parquet", columns={}, image_dir=None, edge=64)
    products = [product for _, product in rows if isinstance(product, Product)]

    def image_weight(**changes: Any) -> np.ndarray:
        changed = [replace(product, **changes) for product in products]
        return np.concatenate([block.weights for block in encoder.encode_products(changed)])[:, 1]

    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(stream, "PNG")
    white = fit_image(stream.getvalue(), 64)
    whole = image_weight()
    assert 0.1 < whole.mean() < 0.9
    assert (image_weight(title="") == 1).all()
    assert (image_weight(images=()) == 0).all()
    assert (image_weight(title="item") > whole).mean() > 0.9
    assert (image_weight(images=(white,)) < whole).mean() > 0.9
