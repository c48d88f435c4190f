"""Tests that training has seen, and one that it has not."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from maxsearch.data.dataset import PreparedDataset
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.evaluate import evaluate
from maxsearch.evaluation.leakage import IDS, LISTINGS, PAIRS
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.training_data import read_training
from tests import tiny
from tests.judged_words import WordEncoder, table


def seen(folder: Path, *, renamed: bool = False) -> EvaluateOptions:
    """A test made of what the tiny dataset was prepared from: 30 products, and the clicks on them for judgments."""
    data = PreparedDataset.open(tiny.data())
    pictures = folder / "pictures"
    pictures.mkdir()
    products, judgments, queries = [], [], {}
    names = {}
    for position, product in enumerate(data.products[:30]):
        names[position] = f"new-{position}" if renamed else product.product_id
        (pictures / f"{position}.jpg").write_bytes(product.images[0])
        products.append({"product_id": names[position], "title": product.title, "image": f"{position}.jpg"})
    for click in data.interactions:
        if click.product in names:
            query = queries.setdefault(click.query.upper(), f"q{len(queries)}")
            judgments.append({"query_id": query, "product_id": names[click.product], "grade": 1})
    asked = [{"query_id": name, "query": text} for text, name in queries.items()]
    judgments = [dict(pairs) for pairs in dict.fromkeys(tuple(judgment.items()) for judgment in judgments)]
    return EvaluateOptions(
        products=table(folder / "products.csv", products),
        queries=table(folder / "queries.csv", asked),
        qrels=table(folder / "qrels.csv", judgments),
        image_dir=pictures,
        train=tiny.data(),
    )


class TinyEncoder(WordEncoder):
    """Keeps pictures as large as they were prepared."""

    image_edge = 10_000


def codes(options: EvaluateOptions) -> dict[str, str]:
    return {warning.code: warning.message for warning in evaluate(options, TinyEncoder()).warnings}


def test_a_test_set_of_training_data_is_flagged(tmp_path: Path) -> None:
    options = seen(tmp_path)
    found = codes(options)
    pairs = len(list(csv.DictReader(options.qrels.open())))
    assert found[PAIRS].startswith(f"{pairs:,} of {pairs:,} relevant pairs of query and product stand in the training")
    assert found[IDS].startswith("30 of 30 products have the identifier of a training product")
    assert found[LISTINGS].startswith("30 of 30 products have the title and picture of a training product")
    assert {PAIRS, IDS, LISTINGS}.isdisjoint(codes(replace(options, train=None)))


def test_renaming_the_products_hides_nothing(tmp_path: Path) -> None:
    found = codes(seen(tmp_path, renamed=True))
    assert IDS not in found and PAIRS in found and LISTINGS in found


def test_slices_by_what_training_saw(tmp_path: Path) -> None:
    options = seen(tmp_path)
    with options.queries.open("a") as stream:
        stream.write("new,a query that nobody typed\n")
    with options.qrels.open("a") as stream:
        name = next(csv.DictReader(options.products.open()))["product_id"]
        stream.write(f"new,{name},1\n")
    evaluation = evaluate(options, TinyEncoder())
    parts = {row.value: row.queries for row in evaluation.slices if row.slice == "query seen in training"}
    assert parts == {"seen": len(evaluation.queries) - 1, "novel": 1}
    clicks = {row.value: row.judgments for row in evaluation.slices if row.slice == "product clicks"}
    assert sum(clicks.values()) >= evaluation.counts["judgments"] and "none" not in clicks


def test_a_clean_split_is_not_flagged() -> None:
    raw = tiny.catalogue()
    clean = EvaluateOptions(
        products=raw / "products.test.parquet",
        queries=raw / "queries.test.csv",
        qrels=raw / "qrels.test.tsv",
        train=tiny.data(),
    )
    assert {PAIRS, IDS}.isdisjoint(codes(clean))


def test_training_data_as_keys() -> None:
    data, found = PreparedDataset.open(tiny.data()), read_training(tiny.data())
    assert len(found.ids) == len(data.products)
    assert found.clicks.sum() == pytest.approx(sum(click.weight for click in data.interactions))
    assert len(found.queries) == data.manifest["interactions"]["queries"]


def test_no_prepared_folder(tmp_path: Path) -> None:
    with pytest.raises(MaxsearchError, match="no data manifest at"):
        read_training(tmp_path)


def test_the_command_fails_on_a_leak_when_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = seen(tmp_path)
    monkeypatch.setattr("maxsearch.encode.Encoder.from_model", lambda folder: TinyEncoder())
    words = ["evaluate", "--model", "any", "--products", options.products, "--image-dir", options.image_dir]
    words += ["--queries", options.queries, "--qrels", options.qrels]
    code, said = tiny.fails(capsys, *words, "--fail-on-leak")
    assert (code, said) == (2, "maxsearch: --fail-on-leak needs the training data: name them with --train")
    code, said = tiny.fails(capsys, *words, "--train", tiny.data(), "--fail-on-leak", "--out", tmp_path / "out.json")
    assert code == 1 and "the test was seen in training (leaked_pairs, training_ids" in said
    assert (tmp_path / "out.json").is_file()  # the figures are there all the same
