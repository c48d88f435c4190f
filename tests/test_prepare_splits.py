import csv
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.keywords import normalized, words_of
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.prepare.run import PrepareOptions, prepare
from maxsearch.prepare.splits import CONDITIONS, Splits, condition, parse_splits
from tests import tiny

HALF = Splits({"dev": 0.25, "test": 0.25})
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(names, names, names)
def test_a_record_stays_where_it_is(query: str, product: str, variant: str) -> None:
    part = HALF.of_product(product, variant)
    assert part in ("train", "dev", "test")
    assert HALF.of_product(product, variant) == part
    if variant:
        assert HALF.of_product(product + "x", variant) == part
    assert HALF.of_query(f" {query.upper()} ") == HALF.of_query(query.upper())
    assert HALF.of_query(query) == HALF.of_query(normalized(query))
    pair, held = HALF.of_pair(query, product, part), {part, HALF.of_query(query)} - {"train"}
    if len(held) == 2:
        assert pair is None
    elif held:
        assert {pair} == held
    else:
        assert pair == HALF.of_pair(f"{query} ", product, part)


def test_shares_are_kept_and_a_larger_one_moves_only_what_it_must() -> None:
    ids = [f"p{i}" for i in range(20_000)]
    small, large = Splits({"dev": 0.05}), Splits({"dev": 0.1})
    counts = Counter(HALF.of_product(one, "") for one in ids)
    assert all(abs(counts[part] / len(ids) - 0.25) < 0.01 for part in ("dev", "test"))
    assert abs(sum(small.of_query(one) == "dev" for one in ids) / len(ids) - 0.05) < 0.005
    assert all(large.of_product(one, "") == "dev" for one in ids if small.of_product(one, "") == "dev")
    # What product, query and pair do is not one and the same.
    same = sum(HALF.of_product(one, "") == HALF.of_query(one) for one in ids) / len(ids)
    assert abs(same - (0.5**2 + 2 * 0.25**2)) < 0.02


def test_the_parts_do_not_change_between_versions() -> None:
    assert [HALF.of_product(f"p{i}", "") for i in range(6)] == ["train", "train", "test", "train", "train", "train"]
    assert [HALF.of_query(f"query {i}") for i in range(6)] == ["train", "train", "test", "train", "train", "dev"]


def test_conditions() -> None:
    assert tuple(condition(query, product) for product in (True, False) for query in (True, False)) == CONDITIONS


@pytest.mark.parametrize(
    "pairs", [("dev",), ("train=0.5",), ("dev=0",), ("dev=1",), ("dev=x",), ("dev=nan",), ("dev=0.1", "dev=0.2")]
)
def test_splits_that_cannot_be(pairs: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=rf"--splits '{pairs[-1]}' holds out no part: write dev=SHARE or test=SHARE"):
        parse_splits(pairs)


def test_splits_as_they_are_written() -> None:
    assert parse_splits(()) is None
    found = parse_splits(("test=0.1", "dev=0.2"))
    assert found is not None and list(found.shares.items()) == [("dev", 0.2), ("test", 0.1)]
    with pytest.raises(UsageError, match=r"--splits dev=0.5 test=0.5 leaves nothing to train on"):
        parse_splits(("dev=0.5", "test=0.5"))


Row = tuple[str, str]


def _prepared(folder: Path, products: Sequence[dict[str, str]], clicks: Sequence[Row], **more: object) -> Path:
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in products))
    (folder / "c.jsonl").write_text("".join(json.dumps({"query": q, "product_id": i}) + "\n" for q, i in clicks))
    options = PrepareOptions(folder / "p.jsonl", folder / "c.jsonl", folder / "out", splits=HALF)
    prepare(replace(options, **more))
    return folder / "out"


def _rows(path: Path, delimiter: str) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream, delimiter=delimiter))[1:]


def _pairs(data: PreparedDataset) -> set[Row]:
    return {(normalized(one.query), data.products[one.product].product_id) for one in data.interactions}


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_nothing_novel_leaks_into_training(seed: int) -> None:
    chance = random.Random(seed)
    variants = [chance.choice(("", "", *"abcdefgh")) for _ in range(60)]
    rows = [{"product_id": f"{seed}p{i}", "title": f"title {i}", "variant": one} for i, one in enumerate(variants)]
    asked = [
        (chance.choice(("QUERY  {} ", "query {}")).format(chance.randrange(40)), f"{seed}p{chance.randrange(60)}")
        for _ in range(300)
    ]
    with TemporaryDirectory() as folder:
        out = _prepared(Path(folder), rows, asked)
        parts = {part: PreparedDataset.open(out / part, verify=True) for part in ("train", "dev", "test")}
        held = {part: [(product.product_id, product.variant) for product in parts[part].products] for part in parts}
        assert sorted(one for part in parts for one, _ in held[part]) == sorted(row["product_id"] for row in rows)
        for part in ("dev", "test"):
            assert not {variant for _, variant in held[part]} & {variant for _, variant in held["train"]} - {""}
        train, homes = _pairs(parts["train"]), {one: part for part in parts for one, _ in held[part]}
        seen = {query for query, _ in train}
        told: set[Row] = set(train)
        for part in ("dev", "test"):
            for place in (out / part / "judgments").iterdir():
                queries = read_queries(place / "queries.csv", {})
                qrels = read_qrels(place / "qrels.tsv", {})
                assert set(qrels) == set(queries)
                assert len(set(map(normalized, queries.values()))) == len(queries)
                for number, judged in qrels.items():
                    assert set(judged.values()) == {1}
                    query = normalized(queries[number])
                    for product_id in judged:
                        assert (query, product_id) not in told
                        told.add((query, product_id))
                        assert place.name == condition(query in seen, homes[product_id] == "train")
                        assert homes[product_id] in ("train", part)
            assert _pairs(parts[part]) <= told - train
        # What is told nowhere is held out for two parts at once.
        for query, product_id in {(normalized(query), one) for query, one in asked} - told:
            assert {HALF.of_query(query), homes[product_id]} == {"dev", "test"}


def _plain(folder: Path, **more: object) -> Path:
    rows = [{"product_id": f"p{i}", "title": f"title w{i}x w{i}x common"} for i in range(40)]
    return _prepared(folder, rows, [(f"query {i % 29} z{i % 29}y", f"p{i * 7 % 40}") for i in range(400)], **more)


def test_what_is_written(tmp_path: Path) -> None:
    out = _plain(tmp_path)
    assert {path.name for path in out.iterdir()} == {"manifest.json", "rejected.jsonl", "train", "dev", "test"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["kind"], manifest["splits"]) == ("maxsearch-data-splits", {"dev": 0.25, "test": 0.25})
    for part, counts in manifest["parts"].items():
        data = PreparedDataset.open(out / part, verify=True)
        assert counts["fingerprint"] == data.fingerprint
        assert (counts["products"], counts["interactions"]) == (len(data.products), len(data.interactions))
        for name, judged in counts["judgments"].items():
            place = out / part / "judgments" / name
            assert judged["queries"] == len(_rows(place / "queries.csv", ","))
            assert judged["judgments"] == len(_rows(place / "qrels.tsv", "\t"))
            assert [file["name"] for file in judged["files"]] == [
                f"judgments/{name}/queries.csv",
                f"judgments/{name}/qrels.tsv",
            ]
    with pytest.raises(MaxsearchError, match=r"out holds prepared data in parts: give the folder of one \(dev, te"):
        PreparedDataset.open(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    _plain(tmp_path)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_keywords_are_those_of_training(tmp_path: Path) -> None:
    out = _plain(tmp_path)
    train = PreparedDataset.open(out / "train")
    assert train.keywords is not None
    titles = {word for product in train.products for word in words_of(product.title)}
    queries = {word for one in train.interactions for word in words_of(one.query)}
    assert "common" in train.keywords.lexicon.words
    assert set(train.keywords.lexicon.words) <= titles | queries
    assert PreparedDataset.open(out / "dev").keywords is None


def test_an_out_of_parts_is_replaced_and_a_foreign_file_in_it_kept(tmp_path: Path) -> None:
    out = _plain(tmp_path)
    (out / "dev" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds files that maxsearch prepare did not write, such as dev/notes\.txt"):
        _plain(tmp_path)
    (out / "dev" / "notes.txt").unlink()
    _plain(tmp_path, splits=None)
    assert PreparedDataset.open(out).manifest["products"]["count"] == 40


def test_a_part_that_stays_empty(tmp_path: Path) -> None:
    rows = [{"product_id": f"p{i}", "title": "x"} for i in range(3)]
    with pytest.raises(MaxsearchError, match="--splits leaves no product for dev: give it a larger share, or leave it"):
        _prepared(tmp_path, rows, [("q", "p0")], splits=Splits({"dev": 1e-9}))
    rows = [{"product_id": f"p{i}", "title": "x"} for i in range(40)]
    train = next(row["product_id"] for row in rows if HALF.of_product(row["product_id"], "") == "train")
    query = next(f"q{i}" for i in range(99) if HALF.of_pair(f"q{i}", train, "train") == "train")
    with pytest.raises(MaxsearchError, match="--splits leaves no interaction with products of dev for dev"):
        _prepared(tmp_path, rows, [(query, train)])
    assert not (tmp_path / "out").exists()


def test_the_command_and_what_takes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.quiet("prepare", *tiny.prepare_words(tmp_path / "out"), "--splits", "dev=0.2")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path}/out/train: ") and said[-1] == f"{tmp_path}/out: 0 rows rejected"
    places = {name: tmp_path / "out" / "dev" / "judgments" / name for name in CONDITIONS}
    assert all(any(line.endswith(f" queries in {place}") for line in said) for place in places.values())
    novel = places["novel_product"]
    files = ("--products", tmp_path / "out" / "dev", "--queries", novel / "queries.csv", "--qrels", novel / "qrels.tsv")
    tiny.quiet("evaluate", "--model", tiny.model(), *files)
    assert f"{len(read_queries(novel / 'queries.csv', {}))} queries" in capsys.readouterr().out
    tiny.quiet("data", "stats", tmp_path / "out" / "train", tmp_path / "out" / "dev")
    assert " product ids         0 " in capsys.readouterr().out
