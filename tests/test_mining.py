"""`maxsearch mine`: each filter where the likely positives are known, and a run that trains on what is found."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import Config, DataConfig
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.negatives import NEGATIVES, Negatives
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.losses.masks import contained_pairs
from maxsearch.manifest import read_manifest
from maxsearch.mining.filters import MiningOptions, has_all_words, same_variant, too_close
from maxsearch.mining.mine import mine
from maxsearch.prepare.run import PrepareOptions, prepare
from maxsearch.training.opening import open_source
from tests import tiny
from tests.serving_fakes import folder_bytes

QUERY = "red shirt"
CLICKED = ("best", "worst")
# name: (score for the query, title, variant group)
CATALOGUE = {
    "best": (1.0, "crimson garment", "garments"),
    "unclicked": (0.99, "nobody wants this", ""),
    "close": (0.97, "green hat", ""),
    "hard": (0.9, "red trousers", ""),
    "worst": (0.8, "scarlet top", ""),
    "variant": (0.7, "crimson garment in large", "garments"),
    "contained": (0.6, "Shirts, cotton, red", ""),
    "plain": (0.5, "blue shirt", "shirts"),
    "far": (-0.2, "oak table", ""),
}
NAMES = list(CATALOGUE)


class Compass:
    """Stands in for a model: every product has the score of the table for the query, and 0 or less for all others."""

    fingerprint = "0123456789abcdef"
    dim = 3

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.seen: list[str] = []

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        vectors = [[1, 0, 0] if query.lower().split() == QUERY.split() else [0, 0, -1] for query in queries]
        return np.array(vectors, np.float32) * (np.nan if self.broken else 1)

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[SimpleNamespace]:
        batch = list(products)
        self.seen += [product.product_id for product in batch]
        scores = np.array([CATALOGUE[product.product_id][0] for product in batch])
        yield SimpleNamespace(
            products=batch, p=np.stack([scores, np.sqrt(1 - scores**2), 0 * scores], 1, dtype=np.float32)
        )


def shop(folder: Path, keywords: int = 64) -> PreparedDataset:
    """The prepared catalogue. Every product but one has a click; the query comes in two spellings."""
    with (folder / "products.csv").open("w") as stream:
        csv.writer(stream).writerows([("product_id", "title", "variant", "image")])
        csv.writer(stream).writerows((name, title, group, "") for name, (_, title, group) in CATALOGUE.items())
    with (folder / "clicks.csv").open("w") as stream:
        rows = [(QUERY, "best"), ("RED  Shirt", "worst")]
        rows += [(f"thing {name}", name) for name in NAMES if name not in (*CLICKED, "unclicked")]
        csv.writer(stream).writerows([("query", "product_id"), *rows])
    prepare(PrepareOptions(folder / "products.csv", folder / "clicks.csv", folder / "data", keywords=keywords))
    return PreparedDataset.open(folder / "data")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return shop(tmp_path_factory.mktemp("shop"))


def mined(dataset: PreparedDataset, out: Path, query: str = QUERY, **options: Any) -> list[str]:
    """The names of a query's negatives."""
    mine(Compass(), dataset, out, MiningOptions(**options))
    return [NAMES[row] for row in Negatives.open(out, dataset).of(query)]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, ["hard", "plain", "far"]),
        ({"keywords": False}, ["hard", "contained", "plain", "far"]),
        ({"max_ratio": 1.0}, ["close", "hard", "plain", "far"]),
        ({"max_ratio": 0.89}, ["plain", "far"]),
        ({"margin": 0.09}, ["hard", "plain", "far"]),
        ({"margin": 0.11}, ["plain", "far"]),
        ({"against": "worst", "max_ratio": 1.0}, ["plain", "far"]),
        ({"against": "worst", "max_ratio": 0.7, "keywords": False}, ["plain", "far"]),
        ({"from_rank": 4}, ["plain", "far"]),
        ({"to_rank": 3}, ["hard"]),
        ({"from_rank": 3, "to_rank": 7}, ["hard", "plain"]),
        ({"per_query": 2}, ["hard", "plain"]),
    ],
)
def test_likely_positives_are_left_out(
    dataset: PreparedDataset, tmp_path: Path, options: dict[str, Any], left: list[str]
) -> None:
    assert mined(dataset, tmp_path / "negatives", **options) == left


def test_spellings_of_a_query_are_one(dataset: PreparedDataset, tmp_path: Path) -> None:
    expected = mined(dataset, tmp_path / "negatives")
    negatives = Negatives.open(tmp_path / "negatives", dataset)
    assert [NAMES[row] for row in negatives.of("Red SHIRT ")] == expected
    assert len(negatives.keys) == 7


def test_only_products_with_clicks_are_embedded(dataset: PreparedDataset, tmp_path: Path) -> None:
    model = Compass()
    mine(model, dataset, tmp_path / "negatives")
    assert model.seen == [name for name in NAMES if name != "unclicked"]


def test_the_manifest_tells_what_was_done(dataset: PreparedDataset, tmp_path: Path) -> None:
    out = tmp_path / "new" / "negatives"
    manifest = mine(Compass(), dataset, out)
    assert manifest == read_manifest(out, NEGATIVES)
    assert manifest["model_fingerprint"] == Compass.fingerprint
    assert manifest["data_fingerprint"] == dataset.fingerprint
    assert manifest["options"] == {
        **{"per_query": 16, "from_rank": 1, "to_rank": 200},
        **{"max_ratio": 0.95, "margin": 0.0, "against": "best", "keywords": True},
    }
    # For the six other queries what was clicked scores as high as all others; one of them was answered by a variant.
    assert (manifest["queries"], manifest["products"], manifest["index"]) == (7, 8, "exact")
    assert (manifest["searched"], manifest["negatives"], manifest["without"]) == (7 * 8, 3, 6)
    assert manifest["left_out"] == {"clicked": 2 + 6, "variant": 1 + 1, "keywords": 1, "score": 1 + 6 * 7 - 1}
    assert [path.name for path in out.parent.iterdir()] == ["negatives"]  # the index is gone


def test_equal_input_gives_equal_bytes(dataset: PreparedDataset, tmp_path: Path) -> None:
    for name in ("one", "two"):
        mine(Compass(), dataset, tmp_path / name)
    mine(Compass(), dataset, tmp_path / "one")  # in place of the older one
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")


def test_variant_groups_are_those_of_what_was_clicked() -> None:
    groups = np.array([3, -1, 3, -1, 4, 4, 5])
    results, clicked = np.arange(7), np.array([0, 1, 5])
    assert same_variant(results, clicked, groups).tolist() == [True, False, True, False, True, True, False]
    assert not same_variant(results, np.array([1]), groups).any()


KEYWORD_ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=5, max_size=5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), KEYWORD_ROWS)
def test_words_are_contained_as_the_losses_have_it(query: list[int], rows: list[list[int]]) -> None:
    products = np.full((len(rows), 48), -1, np.int16)
    for row, ids in zip(products, rows, strict=True):
        row[: len(ids)] = ids
    words = np.full((1, 16), -1, np.int32)
    words[0, : len(set(query))] = list(set(query))
    expected = contained_pairs(jnp.asarray(words), jnp.ones(1, bool), jnp.asarray(products, jnp.int32), 10)
    np.testing.assert_array_equal(has_all_words(query, products), expected[0])


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=4),
    st.floats(0.125, 1.0, width=32),
    st.floats(0.0, 0.5, width=32),
    st.sampled_from(["best", "worst"]),
)
def test_no_result_is_kept_that_scores_like_its_positive(
    positives: list[float], ratio: float, margin: float, against: Any
) -> None:
    """Below 0 too, where a share of the positive's score would lie above it."""
    options = MiningOptions(max_ratio=ratio, margin=margin, against=against)
    scores = np.linspace(-1.5, 1, 101, dtype=np.float32)
    left = scores[~too_close(scores, np.array(positives, np.float32), options)]
    assert (left <= (max if against == "best" else min)(positives) - margin + 1e-6).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"per_query": 0}, "--per-query 0 is out of range: give 1 or more"),
        ({"from_rank": 0}, "--from-rank 0 --to-rank 200 is no window of ranks: give two rising numbers from 1"),
        ({"from_rank": 9, "to_rank": 8}, "--from-rank 9 --to-rank 8 is no window of ranks"),
        ({"max_ratio": 0.0}, "--max-ratio 0.0 is out of range: give a number above 0 and at most 1"),
        ({"max_ratio": 1.5}, "--max-ratio 1.5 is out of range"),
        ({"max_ratio": float("nan")}, "--max-ratio nan is out of range"),
        ({"margin": -0.1}, "--margin -0.1 is out of range: give 0 or more"),
    ],
)
def test_impossible_options_are_refused(
    dataset: PreparedDataset, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        mine(Compass(), dataset, tmp_path / "negatives", MiningOptions(**options))
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_mined_is_told(dataset: PreparedDataset, tmp_path: Path) -> None:
    wordless = shop(tmp_path, keywords=0)
    with pytest.raises(UsageError, match=r"data was prepared without keywords, .* or mine with --no-keywords"):
        mine(Compass(), wordless, tmp_path / "negatives")
    assert mined(wordless, tmp_path / "negatives", keywords=False) == ["hard", "contained", "plain", "far"]
    with pytest.raises(MaxsearchError, match=r"'red shirt' a vector that is not finite"):
        mine(Compass(broken=True), dataset, tmp_path / "other")
    said = (
        r"any query of .*data .of 14 results, left out 2 by clicked, 1 by variant, 0 by keywords, 11 by score.: raise "
    )
    with pytest.raises(MaxsearchError, match=said):
        mine(Compass(), dataset, tmp_path / "other", MiningOptions(to_rank=2))
    with pytest.raises(UsageError, match="data exists and is not a maxsearch negatives folder"):
        mine(Compass(), dataset, tmp_path / "data")
    assert not (tmp_path / "other").exists()


@cache
def negatives() -> Path:
    """Mined of the drawn catalogue by its run."""
    words = ("--max-ratio", 1.0, "--no-keywords")
    tiny.quiet("mine", "--data", tiny.data(), "--run", tiny.run(), "--out", tiny.folder() / "negatives", *words)
    return tiny.folder() / "negatives"


def test_a_run_and_its_exported_model_mine_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_run, model = folder_bytes(negatives()), tiny.model()
    capsys.readouterr()
    words = ("--max-ratio", 1.0, "--no-keywords")
    tiny.quiet("mine", "--data", tiny.data(), "--model", model, "--out", tmp_path / "negatives", *words)
    assert folder_bytes(tmp_path / "negatives") == by_run
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'negatives'}: ") and " negatives of 2,150 queries, " in first
    assert second.startswith("  of ") and "by clicked, 0 by variant, 0 by keywords, " in second


def test_a_run_on_mined_negatives_trains_and_resumes(tmp_path: Path, laptop: None) -> None:
    """From its middle it goes on with the same numbers."""
    words = tiny.train_words(tmp_path / "run", "--data.negatives", negatives(), "--data.negatives-share", 0.5)
    tiny.quiet(*words, "--steps", 6)
    whole = tiny.metrics(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    tiny.quiet(*words, "--steps", 6)
    assert tiny.metrics(tmp_path / "run") == whole
    assert [line["loss"] for line in whole] != [line["loss"] for line in tiny.metrics(tiny.run())[:6]]


def test_what_does_not_fit_training_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(negatives(), tmp_path / "negatives")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"data_fingerprint": "f" * 64}))
    words = tiny.train_words(tmp_path / "run", "--data.negatives", out)
    fingerprint = PreparedDataset.open(tiny.data()).fingerprint
    assert tiny.fails(capsys, *words) == (
        1,
        f"maxsearch: the negatives {out} were mined from other data than these (fingerprint ffffffffffff, here "
        f"{fingerprint[:12]}): mine them again with `maxsearch mine`",
    )
    assert tiny.fails(capsys, *words, "--data.negatives-share", 1.0) == (
        2,
        "maxsearch: data.negatives_share must lie above 0 and below 1, not 1.0",
    )
    config = Config(data=DataConfig(negatives=str(out)))
    with pytest.raises(
        UsageError, match=r"--data\.negatives are mined of prepared data only: leave it out with --data tfds:x"
    ):
        open_source("tfds:x", config)


def test_flags_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("mine", "--data", tiny.data(), "--out", tmp_path / "negatives")
    one = "maxsearch: name the model with either --run or --model"
    assert tiny.fails(capsys, *words) == (2, one)
    assert tiny.fails(capsys, *words, "--run", tmp_path, "--model", tmp_path) == (2, one)
    assert tiny.fails(capsys, *words, "--model", tmp_path, "--step", 3) == (
        2,
        "maxsearch: --step names a checkpoint of a run: give --run, or leave --step out",
    )
    assert tiny.fails(capsys, *words, "--model", tmp_path, "--to-rank", 0)[0] == 2
    assert tiny.fails(capsys, "mine", "--data", tmp_path, "--run", tmp_path, "--out", tmp_path / "negatives")[0] == 1
