import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from maxsearch.encode import Encoder
from tests import tiny
from tests.serving_fakes import FakeEncoder

FIRST = {"a": "red shoes", "b": "blue shirt", "c": "leather belt"}


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """--model N stands for the model of seed N."""

    def from_model(folder: Path) -> FakeEncoder:
        encoder = FakeEncoder.make(int(folder.name))
        encoder.image_edge = 32
        return encoder

    monkeypatch.setattr(Encoder, "from_model", from_model)


def file_of(path: Path, titles: Mapping[str, str]) -> Path:
    with path.open("w") as stream:
        csv.writer(stream).writerows([("product_id", "title"), *titles.items()])
    return path


def found(capsys: pytest.CaptureFixture[str], query: str, index: Path) -> dict[str, str]:
    capsys.readouterr()
    tiny.quiet("search", query, "--index", index, "--model", 0, "--json")
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    return {hit["product_id"]: hit["title"] for hit in hits}


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    tiny.quiet("index", *words)
    return capsys.readouterr().out


def test_a_store_from_its_first_build_to_a_rollback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, first = tmp_path / "store", file_of(tmp_path / "first.csv", FIRST)
    told = said(capsys, "build", "--model", 0, "--products", first, "--store", store)
    assert re.fullmatch(rf"{store}: generation [-\d]+: 3 products, exact index, 24 dimensions\n", told)
    assert found(capsys, "red shoes", store) == FIRST

    more = file_of(tmp_path / "more.csv", {"b": "green shirt", "d": "navy bag"})
    told = said(capsys, "upsert", "--store", store, "--model", 0, "--products", more)
    assert told == f"{store}: 2 products put in, 4 in all\n"
    told = said(capsys, "delete", "a", "nothing", "--store", store)
    assert told == f"{store}: 1 products taken out, 3 left\n"
    now = {"b": "green shirt", "c": "leather belt", "d": "navy bag"}
    assert found(capsys, "shirt", store) == now
    lines = said(capsys, "list", "--store", store).splitlines()
    assert len(lines) == 1 and lines[0].endswith("4 upserts and deletes since") and " build " in lines[0]

    told = said(capsys, "compact", "--store", store)
    assert told.endswith(", 3 products\n")
    assert found(capsys, "shirt", store) == now
    lines = said(capsys, "list", "--store", store).splitlines()
    assert [line[0] for line in lines] == [" ", "*"] and lines[1].endswith(" 0 upserts and deletes since")

    index = tmp_path / "index"
    tiny.quiet("index", "build", "--model", 0, "--products", first, "--out", index)
    assert said(capsys, "publish", index, "--store", store, "--as-of", "2100-01-01").endswith(", 3 products\n")
    assert found(capsys, "shoes", store) == found(capsys, "shoes", index) == FIRST
    assert said(capsys, "rollback", "--store", store) == f"{store}: generation {lines[1].split()[1]}, 3 products\n"
    assert found(capsys, "shirt", store) == now
    assert said(capsys, "prune", "--store", store) == f"{store}: 1 generations\n"
    assert found(capsys, "shirt", store) == now


def test_an_index_is_built_in_shares_and_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, index, out = file_of(tmp_path / "first.csv", FIRST), tmp_path / "index", tmp_path / "tuning.json"
    build = ("build", "--model", 0, "--products", first, "--out", index, "--vectors", "int8")
    assert said(capsys, *build, "--share", "1/2").endswith("share 1/2 of 3 products, in 1 parts\n")
    assert not index.exists()
    assert said(capsys, *build) == f"{index}: 3 products, exact index, 24 dimensions, int8, recall@10 1.0000\n"
    queries = tmp_path / "queries.csv"
    queries.write_text("query_id,query\nq1,red shoes\nq2,\n")
    said(capsys, "tune", "--index", index, "--model", 0, "--queries", queries, "--out", out, "--target-recall", 0.9)
    tuning = json.loads(out.read_text())
    assert (tuning["queries"], tuning["target_recall"], tuning["chosen"]) == (1, 0.9, {"exact": True})
    assert "exact" not in said(capsys, "tune", "--index", index)


FAILURES = {
    "neither place": (("build", "--model", 0, "--products", "first.csv"), 2, "with either --out or --store"),
    "both places": (
        ("build", "--model", 0, "--products", "first.csv", "--out", "x", "--store", "y"),
        2,
        "with either --out or --store",
    ),
    "time of a folder": (
        ("build", "--model", 0, "--products", "first.csv", "--out", "x", "--as-of", "2026-01-01"),
        2,
        "--as-of speaks of the writes to a store",
    ),
    "no time": (
        ("build", "--model", 0, "--products", "first.csv", "--store", "y", "--as-of", "yesterday"),
        2,
        "--as-of 'yesterday' is no time: give one such as",
    ),
    "no share": (
        ("build", "--model", 0, "--products", "first.csv", "--out", "x", "--share", "3/2"),
        2,
        "--share '3/2' is no share",
    ),
    "store is a file": (
        ("build", "--model", 0, "--products", "first.csv", "--store", "first.csv"),
        2,
        "first.csv exists and is no store: name a new folder",
    ),
    "another model": (
        ("upsert", "--store", "store", "--model", 1, "--products", "first.csv"),
        1,
        "use the model it was built with, or build the index again",
    ),
    "no store": (("delete", "a", "--store", "absent"), 1, "no store at absent: build one with `maxsearch index build"),
    "no such generation": (("rollback", "--store", "store", "--to", "x"), 2, "has no generation 'x': it has "),
    "none before": (("rollback", "--store", "store"), 2, "has no generation before "),
    "queries without a model": (("tune", "--index", "store", "--queries", "first.csv"), 2, "give --model too"),
    "tune with no queries": (
        ("tune", "--index", "store", "--model", 0, "--queries", "empty.csv"),
        2,
        "every query of --queries empty.csv is empty",
    ),
    "tune another model": (
        ("tune", "--index", "store", "--model", 1, "--queries", "queries.csv"),
        1,
        "was built with model",
    ),
    "damaged log": (("compact", "--store", "damaged"), 1, "writes.log is damaged at byte 0, so writes after it"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path / "first.csv", FIRST)
    (tmp_path / "empty.csv").write_text("query_id,query\nq1, \n")
    (tmp_path / "queries.csv").write_text("query_id,query\nq1,shoes\n")
    words, code, expected = FAILURES[name]
    for folder in {"store", "damaged"} & set(map(str, words)):
        tiny.quiet("index", "build", "--model", 0, "--products", "first.csv", "--store", folder)
    if "damaged" in words:
        Path("damaged/writes.log").write_bytes(b"\0" * 40)
    found_code, message = tiny.fails(capsys, "index", *words)
    assert (found_code, expected in message) == (code, True), message
