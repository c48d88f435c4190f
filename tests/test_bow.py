"""The bag-of-words towers learn from clicks what no shared word says."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.baselines import bow
from maxsearch.evaluation.baselines.bow import BagOfWords
from maxsearch.evaluation.rankers import Task
from tests import tiny

THINGS = ("shoe", "hat", "belt", "watch", "scarf", "glove")
ASKED = ("sneaker", "cap", "strap", "clock", "shawl", "mitten")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bow")
    products = [
        f"{thing}{number},{thing} {colour}" for thing in THINGS for number, colour in enumerate(("red", "blue"))
    ]
    clicks = [f"{asked},{thing}{number}" for thing, asked in zip(THINGS, ASKED, strict=True) for number in (0, 1)]
    (folder / "products.csv").write_text("\n".join(["product_id,title", *products]))
    (folder / "clicks.csv").write_text("\n".join(["query,product_id", *clicks]))
    words = ["--products", folder / "products.csv", "--interactions", folder / "clicks.csv", "--keywords", 0]
    tiny.quiet("prepare", *words, "--out", folder / "data")
    return folder / "data"


def ranked(ranker: BagOfWords) -> tuple[np.ndarray, np.ndarray]:
    catalogue = [Product(thing, f"green {thing}") for thing in THINGS]
    ranker.start(Task([*ASKED, "unheard"], 3, {"hat": 0, "gone": 1}))
    ranker.add(catalogue[:4])
    ranker.add(catalogue[4:])
    return ranker.ranking().rows, ranker.scores(np.array([[1, 0], [0, 0], [1, 1]]))


def test_clicks_teach_what_words_mean(data: Path) -> None:
    rows, scores = ranked(BagOfWords(data))
    assert rows[: len(ASKED), 0].tolist() == list(range(len(THINGS)))
    assert rows[-1].tolist() == [0, 1, 2]  # a query without known words keeps the catalogue's order
    assert scores[0] > 0.5 > scores[1] and np.isnan(scores[2])


def test_equal_seeds_give_equal_towers(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bow, "FEWEST_STEPS", 5)
    scores = [ranked(BagOfWords(data, seed=seed))[1][0] for seed in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


def test_other_clicks_of_the_same_product_or_query_are_no_negatives() -> None:
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(4, bow.WIDTH)).astype(np.float32) for name in ("query", "title")}
    params["scale"] = np.float32(1.0)
    words = np.array([[0], [1], [0], [2]], np.int32)
    title = np.array([[0], [1], [3], [0]], np.int32)
    batch = {"query": np.array([0, 1, 0, 2]), "product": np.array([5, 6, 7, 5]), "words": words, "title": title}
    unit = {name: params[name] / np.linalg.norm(params[name], axis=1, keepdims=True) for name in ("query", "title")}
    scores = np.exp(unit["query"][words[:, 0]] @ unit["title"][title[:, 0]].T * np.e).astype(np.float64)
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if batch["query"][j] != batch["query"][i]]
        others = [j for j in others if batch["product"][j] != batch["product"][i]]
        total -= np.log(scores[i, i] / (scores[i, i] + scores[i, others].sum()))
        total -= np.log(scores[i, i] / (scores[i, i] + scores[others, i].sum()))
    on_device = ({name: jnp.asarray(value) for name, value in values.items()} for values in (params, batch))
    assert float(bow._loss(*on_device)) == pytest.approx(total / 8, rel=1e-5)


def test_data_without_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product_id,title\n1,x\n")
    (tmp_path / "clicks.csv").write_text("query,product_id\ny,1\n")
    words = ["--products", tmp_path / "products.csv", "--interactions", tmp_path / "clicks.csv", "--keywords", 0]
    tiny.quiet("prepare", *words, "--out", tmp_path / "data")
    with pytest.raises(MaxsearchError, match="have no words: name data with text after bow:"):
        BagOfWords(tmp_path / "data").start(Task(["a"], 3, {}))
