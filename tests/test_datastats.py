"""Figures of datasets whose content is known: planted duplicates and leakage, and the drawn catalogue."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.keys import NONE, text_key
from maxsearch.data.tokenize import save_tokenizer, train_tokenizer
from maxsearch.datastats import tally as tallies
from maxsearch.datastats.report import DatasetFigures, Report, Tokens, describe, open_datasets
from maxsearch.datastats.spread import concentration, spread
from maxsearch.datastats.tally import Tally
from maxsearch.files import write_json
from maxsearch.prepare.run import PrepareOptions, prepare
from tests import tiny
from tests.planted import CLICKS, ROWS, TEST_CLICKS, TEST_ROWS, Row, picture, planted


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return planted(tmp_path, "train", ROWS, CLICKS)


def figures(*paths: Path, tokens: Tokens | None = None) -> Report:
    return describe(open_datasets(paths), tokens)[0]


def only(path: Path) -> DatasetFigures:
    return figures(path).datasets[0]


def test_counts(train: Path) -> None:
    one = only(train)
    assert one.counts == {
        "products": 7,
        "products without title": 1,
        "products without image": 1,
        "products without clicks": 1,
        "images": 8,
        "variant groups": 2,
        "products in a variant group": 4,
        "queries": 4,
        "interactions": 6,
    }
    assert one.clicks == 11.5
    assert one.name == str(train)
    assert one.fingerprint == json.loads((train / "manifest.json").read_text())["fingerprint"]


def test_lengths_and_clicks(train: Path) -> None:
    one = only(train)
    titles, queries = one.lengths["title words"], one.lengths["query words"]
    assert titles is not None and queries is not None
    assert (titles.count, titles.min, titles.median, titles.max) == (6, 2, 2, 5)
    assert titles.mean == pytest.approx((2 + 2 + 2 + 5 + 2 + 3) / 6)
    assert (queries.count, queries.mean) == (4, 1.5)
    assert one.lengths["text words"] is None and "title tokens" not in one.lengths
    per_query, per_product = one.activity["clicks per query"], one.activity["clicks per product"]
    assert per_query is not None and per_product is not None
    assert (per_query.count, per_query.min, per_query.max) == (4, 1.0, 4.5)
    assert (per_product.count, per_product.min, per_product.max) == (7, 0.0, 4.0)
    pairs = one.activity["interactions per query"]
    assert pairs is not None and (pairs.count, pairs.min, pairs.max) == (4, 1, 2)
    held = one.concentration["clicks per product"]
    assert held is not None and held.top_1_percent == held.top_10_percent == pytest.approx(4 / 11.5)


def test_pictures(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a", "x", [picture("red", 20, 10)], ""),
        ("b", "y", [picture("red", 10, 20), picture("blue", 10, 20)], ""),
        ("c", "z", [picture("red", 4, 4, "PNG")], ""),
    ]
    one = only(planted(tmp_path, "data", rows, [("q", "a", 1.0)]))
    assert one.formats == {"JPEG": 4}, "prepare writes PNG anew"
    assert one.sizes == ((10, 20, 2), (4, 4, 1), (20, 10, 1))
    width, per_product = one.pictures["width"], one.pictures["images per product"]
    assert width is not None and per_product is not None
    assert (width.min, width.median, width.max) == (4, 10, 20)
    assert [(bar.low, bar.count) for bar in per_product.histogram] == [(1, 2), (2, 1)]


def test_duplicates(train: Path) -> None:
    found = {kind.what: kind for kind in only(train).repeats}
    title, image = found["same title"], found["same image"]
    assert (title.groups, title.products, title.largest, title.examples) == (1, 3, 3, ((0, 1, 5),))
    assert title.share == pytest.approx(3 / 7)
    # p2 shows one picture twice, which repeats no other product; with p1 it shares it.
    assert (image.groups, image.products, image.largest) == (2, 3, 2)
    assert image.examples == ((0, 1), (1, 2))
    both, variant = found["same title and front image"], found["same variant"]
    assert (both.groups, both.products, both.examples) == (1, 2, ((0, 1),))
    assert (variant.groups, variant.products, variant.examples) == (1, 3, ((2, 3, 4),))


def test_leakage(tmp_path: Path, train: Path) -> None:
    test = planted(tmp_path, "test", TEST_ROWS, TEST_CLICKS)
    report = figures(train, test)
    (pair,) = report.leakage
    assert (pair.first, pair.second) == (str(train), str(test))
    found = {kind.what: kind for kind in pair.shared}
    ids = found["product ids"]
    assert (ids.values, ids.first, ids.second, ids.examples) == (1, 1, 1, ((6, 1),))
    assert (ids.first_share, ids.second_share) == (pytest.approx(1 / 7), 0.25)
    titles = found["titles"]
    assert (titles.values, titles.first, titles.second, titles.examples) == (1, 3, 1, ((0, 2),))
    assert (found["images"].values, found["images"].examples) == (1, ((3, 3),))
    assert (found["variants"].values, found["variants"].examples) == (1, ((6, 3),))
    queries = found["queries"]
    assert (queries.values, queries.first, queries.second) == (2, 2, 2)
    assert queries.second_share == pytest.approx(2 / 3)
    assert queries.second_weight_share == pytest.approx(2 / 8)
    assert queries.examples == ((3, 1), (0, 2))
    assert report.examples[str(test)]["interactions"] == {1: "Hat", 2: "shoe"}
    assert report.examples[str(train)]["products"][6] == ["p6", "nobody wants this"]


def test_separate_data_share_nothing_and_three_give_three_pairs(tmp_path: Path, train: Path) -> None:
    apart = planted(tmp_path, "apart", [("z", "silver spoon", [picture("gray")], "")], [("spoon", "z", 1.0)])
    test = planted(tmp_path, "test", TEST_ROWS, TEST_CLICKS)
    report = figures(train, apart, test)
    assert [(pair.first, pair.second) for pair in report.leakage] == [
        (str(train), str(apart)),
        (str(train), str(test)),
        (str(apart), str(test)),
    ]
    assert all(kind.values == kind.first == kind.second == 0 for kind in report.leakage[0].shared)


def test_another_image_edge_is_noted(tmp_path: Path, train: Path) -> None:
    small = planted(tmp_path, "small", TEST_ROWS, TEST_CLICKS, image_edge=4)
    assert any("--image-edge" in note for note in figures(train, small).notes)
    assert not any("--image-edge" in note for note in figures(train).notes)


def test_the_drawn_catalogue_and_planted_rows_of_it(tmp_path: Path) -> None:
    source = pq.read_table(tiny.catalogue() / "products.train.parquet", columns=["product_id", "title", "image"])
    held_out = source.slice(0, 5)
    pq.write_table(held_out, tmp_path / "held.parquet")
    clicks = pa.table({"query": ["unheard of"] * 5, "product_id": held_out["product_id"]})
    pq.write_table(clicks, tmp_path / "clicks.parquet")
    prepare(PrepareOptions(tmp_path / "held.parquet", tmp_path / "clicks.parquet", tmp_path / "held"))
    report = figures(tiny.data(), tmp_path / "held")
    data = PreparedDataset.open(tiny.data())
    one = report.datasets[0]
    assert one.counts["products"] == one.counts["images"] == len(data.products) == source.num_rows
    assert one.counts["interactions"] == len(data.interactions)
    assert one.counts["queries"] == data.manifest["interactions"]["queries"]
    assert one.clicks == data.manifest["interactions"]["total_weight"]
    clicked = {interaction.product for interaction in data.interactions}
    assert one.counts["products without clicks"] == len(data.products) - len(clicked)
    titles = Counter(text_key(title) for title in source["title"].to_pylist() if title)
    assert one.repeats[0].products == sum(count for count in titles.values() if count > 1)
    found = {kind.what: (kind.values, kind.second_share) for kind in report.leakage[0].shared}
    assert found["product ids"] == found["images"] == (5, 1.0)
    assert found["titles"][1] == 1.0
    assert found["queries"] == (0, 0.0)


def tokenizer(folder: Path) -> Path:
    save_tokenizer(train_tokenizer(["red shoe", "blue hat", "nobody wants this"], 300), folder)
    return folder


def test_tokens(tmp_path: Path, train: Path) -> None:
    from maxsearch.datastats.token_counts import token_counter

    count = token_counter(tokenizer(tmp_path / "tokenizer"))
    assert count(["", " ", "x", "x"]) == [0, 0, *count(["x", "x"])]
    lengths = count([title for _, title, _, _ in ROWS if title])
    one = figures(train, tokens=Tokens(count, {"title": sorted(lengths)[2], "query": 1000})).datasets[0]
    tokens = one.lengths["title tokens"]
    assert tokens is not None and (tokens.min, tokens.max) == (min(lengths), max(lengths))
    assert one.cut == {
        "title": pytest.approx(np.mean([length > sorted(lengths)[2] for length in lengths])),
        "query": 0.0,
    }
    assert 0 < one.cut["title"] < 1


def test_stats_prints_and_writes_the_same_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    test = planted(tmp_path, "test", TEST_ROWS, TEST_CLICKS)
    run = tmp_path / "run"
    tokenizer(run / "tokenizer")
    write_json(run / "config.json", tiny.config().to_json())
    tiny.quiet("data", "stats", train, test, "--run", run, "--json", tmp_path / "figures.json")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "products 7 4" in lines
    assert "clicks (sum of weights) 11.5 8" in lines
    assert "same title 1 3 42.9 % 3" in lines
    assert "product ids 1 1 (14.3 %) 1 (25.0 %)" in lines
    assert "queries 2 2 (50.0 %) 2 (66.7 %), 25.0 % of its clicks" in lines
    assert "same title: p0 'Red Shoe', p1 'red SHOE', p5 'red shoe'" in lines
    assert "product ids: p6 'nobody wants this' = p6 'something else'" in lines
    assert "queries: 'Hat'" in lines
    assert any(line.startswith("title texts longer than the model reads ") for line in lines)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["kind"] == "maxsearch-data-stats"
    assert [one["counts"]["products"] for one in written["datasets"]] == [7, 4]
    assert written["leakage"][0]["shared"][0] == {
        "what": "product ids",
        "values": 1,
        "first": 1,
        "first_share": pytest.approx(1 / 7),
        "second": 1,
        "second_share": 0.25,
        "second_weight_share": None,
        "examples": [[6, 1]],
    }


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["stats"], 2, "no dataset is named: give a folder that `maxsearch prepare` wrote"),
        (["stats", "{train}", "{train}/../train"], 2, "named twice: give each folder once"),
        (["stats", "{tmp}"], 1, "no data manifest at {tmp}/manifest.json: prepare the folder"),
        (["stats", "{tmp}/nowhere"], 1, "no data manifest at {tmp}/nowhere/manifest.json"),
        (["stats", "{train}", "--json", "{tmp}"], 2, "--json {tmp} is a folder: give the name of a file"),
        (["view", "{train}", "--out", "{tmp}"], 2, "--out {tmp} is a folder: give the name of a file"),
        (["view", "{train}", "--out", "{train}/page.html"], 2, "lies in the dataset {train}: write it elsewhere"),
        (["view", "{train}", "--out", "{tmp}/train.parquet/x.html"], 2, "lies below the file {tmp}/train.parquet"),
        (["view", "{train}", "--out", "/proc/page.html", "--samples", "0"], 1, "cannot write /proc/page.html"),
        (["view", "{train}", "--out", "{tmp}/x.html", "--samples", "-1"], 2, "--samples -1 is out of range"),
        (["stats", "{train}", "--run", "{tmp}", "--tokenizer", "{tmp}"], 2, "--run and --tokenizer both name"),
        (["stats", "{train}", "--run", "{tmp}"], 1, "no run config at {tmp}/config.json"),
        (["stats", "{train}", "--tokenizer", "{tmp}"], 2, "{tmp} holds no tokenizer"),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, train: Path, words: list[str], code: int, sentence: str
) -> None:
    names = {"tmp": tmp_path, "train": train}
    found = tiny.fails(capsys, "data", *(word.format(**names) for word in words))
    assert found[0] == code
    assert sentence.format(**names) in found[1]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0.1, 10)), max_size=60), st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_a_tally_sums_as_a_dict_does(records: list[tuple[str, float]], block: int) -> None:
    tally = Tally()
    least, tallies.LEAST_BUFFER = tallies.LEAST_BUFFER, 4
    try:
        for start in range(0, len(records), block):
            part = records[start : start + block]
            keys = [text_key(text) for text, _ in part]
            weights = [weight for _, weight in part]
            tally.add(keys, list(range(start, start + len(part))), weights, [ord(text) for text, _ in part])
        tally.finish()
    finally:
        tallies.LEAST_BUFFER = least
    texts = sorted({text for text, _ in records}, key=text_key)
    assert tally.keys.tolist() == [text_key(text) for text in texts]
    assert tally.words.tolist() == [ord(text) for text in texts]
    assert tally.first.tolist() == [[other for other, _ in records].index(text) for text in texts]
    assert tally.records.tolist() == [sum(other == text for other, _ in records) for text in texts]
    sums = [sum(weight for other, weight in records if other == text) for text in texts]
    assert tally.weight.tolist() == pytest.approx(sums)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_concentration_is_its_definition(values: list[int]) -> None:
    found = concentration(np.array(values))
    if not sum(values):
        assert found is None
        return
    assert found is not None
    differences = sum(abs(a - b) for a in values for b in values)
    assert found.gini == pytest.approx(differences / (2 * len(values) * sum(values)), abs=1e-9)
    top = sorted(values)[-math.ceil(len(values) / 10) :]
    assert found.top_10_percent == pytest.approx(sum(top) / sum(values))


@given(st.lists(st.integers(0, 10**6) | st.floats(0, 100), min_size=1, max_size=60), st.booleans())
def test_a_histogram_counts_every_value_once(values: list[float], doubling: bool) -> None:
    array = np.array(values, np.float64)
    found = spread(array, doubling=doubling)
    assert found is not None
    bars = found.histogram
    assert sum(bar.count for bar in bars) == len(values) == found.count
    assert bars[0].low <= min(values) and max(values) <= bars[-1].high
    for bar, after in pairwise(bars):
        assert bar.high == after.low
        assert bar.count == ((array >= bar.low) & (array < bar.high)).sum()
    assert min(values) <= found.p10 <= found.median <= found.p90 <= found.p99 <= max(values)


def test_keys_of_texts() -> None:
    assert text_key("Red  Shoe ") == text_key("red shoe") != text_key("redshoe")
    assert text_key("") == text_key(" \t") == NONE
    assert text_key("\ud800") != NONE, "lone surrogates, which a command line may bring"
    assert spread(np.zeros(0)) is None
