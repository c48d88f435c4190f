"""The synthetic catalogue: repeatable, true to its attributes, and hard for word matching where titles are silent."""

import csv
import io
import itertools
import json
from pathlib import Path

import bm25s
import numpy as np
import pyarrow.parquet as pq
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maxsearch.data import synthetic, synthetic_drawing
from maxsearch.data.synthetic import (
    FIELDS,
    FILES,
    VALUES,
    VOCABULARY,
    example_queries,
    patch_alignment,
    write_catalogue,
)
from maxsearch.errors import UsageError

PRODUCTS = 800
MEANING = {
    word: (field, value) for field, values in VOCABULARY.items() for value, words in values.items() for word in words
}
SAYS_NOTHING = {"in", "by", "made", "of", "cheap", "nice", "best"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "catalogue"
    write_catalogue(out, products=PRODUCTS, seed=7)
    return out


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))


def meant(query: str) -> dict[str, str]:
    """What a query asks for, read from its words alone."""
    wanted = {}
    for word in query.split():
        if word in SAYS_NOTHING:
            continue
        field, value = MEANING.get(word) or MEANING[word.removesuffix("s")]
        assert field not in wanted, f"{query!r} states {field} twice"
        wanted[field] = value
    return wanted


def grade(wanted: dict[str, str], product: dict) -> int:
    wrong = [field for field in wanted if product[field] != wanted[field]]
    if not wrong:
        return 2
    return 1 if len(wrong) == 1 and "shape" in wanted and wrong != ["shape"] else 0


def judgments(path: Path) -> dict[tuple[str, str], int]:
    return {(row["query_id"], row["product_id"]): int(row["grade"]) for row in rows_of(path)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_word_stands_for_two_values():
    words = [word for values in VOCABULARY.values() for words in values.values() for word in words]
    assert len(words) == len(set(words))
    assert len(VALUES["shape"]) == len(VALUES["colour"]) == 12


def test_every_value_of_the_vocabulary_can_be_drawn():
    assert set(VALUES["shape"]) == set(synthetic_drawing.SHAPES)
    assert set(VALUES["colour"]) == set(synthetic_drawing.COLOURS)
    assert set(VALUES["material"]) == set(synthetic_drawing.MATERIALS)
    assert set(VALUES["pattern"]) == set(synthetic_drawing.PATTERNS)


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_catalogue(tmp_path / name, products=120, seed=seed, image_edge=32)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert set(a) == set(FILES)
    assert a == b
    assert all(a[name] != c[name] for name in FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_train_and_test_products_share_nothing_and_have_all_columns(catalogue):
    train, test = (rows_of(catalogue / f"products.{part}.parquet") for part in ("train", "test"))
    assert len(train) == 600
    assert len(test) == 200
    assert {row["product_id"] for row in train} | {row["product_id"] for row in test} == {
        f"p{i:05d}" for i in range(PRODUCTS)
    }
    assert list(train[0]) == ["product_id", "title", *FIELDS, "silent", "image"]
    for row in train + test:
        assert row["title"].strip()
        assert all(row[field] in VALUES[field] for field in FIELDS)
        with Image.open(io.BytesIO(row["image"])) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_silent_products_are_those_whose_title_tells_neither_colour_nor_shape(catalogue):
    test = rows_of(catalogue / "products.test.parquet")
    for row in test:
        told = {MEANING[word][0] for word in row["title"].lower().split() if word in MEANING}
        assert row["silent"] == (not told & {"colour", "shape"}), row["title"]
    assert rows_of(catalogue / "products.silent.parquet") == [row for row in test if row["silent"]]
    everyone = test + rows_of(catalogue / "products.train.parquet")
    assert 0.2 < np.mean([row["silent"] for row in everyone]) < 0.32
    complete = [
        row
        for row in everyone
        if {"colour", "shape", "material"} <= {MEANING[w][0] for w in row["title"].lower().split() if w in MEANING}
    ]
    assert 0.55 < len(complete) / len(everyone) < 0.7


def test_judgments_follow_from_the_words_of_the_query_and_the_attributes(catalogue):
    test = rows_of(catalogue / "products.test.parquet")
    queries = {row["query_id"]: row["query"] for row in rows_of(catalogue / "queries.test.csv")}
    assert len(set(queries.values())) == len(queries) == 133
    expected = {
        (query_id, product["product_id"]): mark
        for query_id, query in queries.items()
        for product in test
        if (mark := grade(meant(query), product))
    }
    found = judgments(catalogue / "qrels.test.tsv")
    assert found == expected
    assert {query_id for (query_id, _), mark in found.items() if mark == 2} == set(queries)
    silent = {row["product_id"] for row in test if row["silent"]}
    assert judgments(catalogue / "qrels.silent.tsv") == {key: mark for key, mark in found.items() if key[1] in silent}


def test_queries_ask_for_one_to_three_things_in_varied_words(catalogue):
    queries = [row["query"] for row in rows_of(catalogue / "interactions.train.csv")]
    sizes = {len(meant(query)) for query in queries}
    assert sizes == {1, 2, 3}
    words = {word for query in queries for word in query.split()}
    assert {"mugs", "cup", "in", "made", "crimson", "stripy"} <= words


def test_clicks_fall_on_train_products_with_few_near_misses_and_a_popular_head(catalogue):
    train = {row["product_id"]: row for row in rows_of(catalogue / "products.train.parquet")}
    clicks = rows_of(catalogue / "interactions.train.csv")
    assert len({(row["query"], row["product_id"]) for row in clicks}) == len(clicks)
    total = sum(int(row["clicks"]) for row in clicks)
    missed = sum(int(row["clicks"]) for row in clicks if grade(meant(row["query"]), train[row["product_id"]]) != 2)
    assert 0.03 < missed / total < 0.07
    of_product = dict.fromkeys(train, 0)
    for row in clicks:
        assert int(row["clicks"]) >= 1
        of_product[row["product_id"]] += int(row["clicks"])
    most = sorted(of_product.values(), reverse=True)
    assert sum(most[:60]) > 2.5 * total / 10


def test_a_share_of_the_test_queries_asks_for_what_no_training_query_asked(catalogue):
    asked = {frozenset(meant(row["query"]).items()) for row in rows_of(catalogue / "interactions.train.csv")}
    wanted = [frozenset(meant(row["query"]).items()) for row in rows_of(catalogue / "queries.test.csv")]
    assert 0.2 < np.mean([wish not in asked for wish in wanted]) < 0.6


def ndcg_of_bm25(folder: Path, part: str) -> float:
    products = rows_of(folder / f"products.{part}.parquet")
    marks = judgments(folder / f"qrels.{part}.tsv")
    stem = Stemmer.Stemmer("english")
    engine = bm25s.BM25()
    engine.index(
        bm25s.tokenize([row["title"] for row in products], stemmer=stem, show_progress=False), show_progress=False
    )
    discount = 1 / np.log2(np.arange(2, 12))
    results = []
    for row in rows_of(folder / "queries.test.csv"):
        gains = sorted((2**m - 1 for (q, _), m in marks.items() if q == row["query_id"]), reverse=True)[:10]
        if not gains:
            continue
        tokens = bm25s.tokenize([row["query"]], stemmer=stem, show_progress=False)
        ranks, scores = engine.retrieve(tokens, k=10, show_progress=False)
        found = [
            2 ** marks.get((row["query_id"], products[i]["product_id"]), 0) - 1 if score > 0 else 0
            for i, score in zip(ranks[0], scores[0], strict=True)
        ]
        results.append(np.dot(found, discount) / np.dot(gains, discount[: len(gains)]))
    return float(np.mean(results))


def test_word_matching_is_decent_on_all_and_near_useless_on_silent_products(catalogue):
    assert 0.35 < ndcg_of_bm25(catalogue, "test") < 0.7
    assert ndcg_of_bm25(catalogue, "silent") < 0.15


def test_alignment_places_title_words_on_the_objects_they_name(catalogue):
    products = {
        row["product_id"]: row for part in ("train", "test") for row in rows_of(catalogue / f"products.{part}.parquet")
    }
    records = [json.loads(line) for line in (catalogue / "alignments.jsonl").read_text().splitlines()]
    assert [record["product_id"] for record in records] == sorted(products)
    several = 0
    for record in records:
        product = products[record["product_id"]]
        main = record["objects"][0]
        assert record["title"] == product["title"]
        assert (main["shape"], main["colour"]) == (product["shape"], product["colour"])
        several += len(record["objects"]) > 1
        for one in record["objects"]:
            x0, y0, x1, y1 = one["box"]
            assert 0 <= x0 < x1 <= 64
            assert 0 <= y0 < y1 <= 64
        for word in record["title_words"]:
            start, end = word["span"]
            assert product["title"][start:end].lower() == word["word"]
            if word["object"] is None:
                assert word["box"] is None
                continue
            one = record["objects"][word["object"]]
            place = one["words"][word["word"]]
            assert word["box"] == (one["box"] if place == "object" else place)
            x0, y0, x1, y1 = word["box"]
            assert one["box"][0] <= x0 < x1 <= one["box"][2]
            assert one["box"][1] <= y0 < y1 <= one["box"][3]
            field, value = MEANING.get(word["word"], ("size", "small"))
            if field in ("shape", "colour"):
                assert one[field] == value
    assert 0.5 < several / len(records) < 0.75
    named = [w for r in records for w in r["title_words"] if w["object"]]
    assert {MEANING.get(w["word"], ("size",))[0] for w in named} == {"size", "colour", "shape"}


@pytest.mark.parametrize("shape", list(synthetic_drawing.SHAPES))
def test_box_is_where_the_colour_is(shape):
    look = synthetic_drawing.Look(shape, "red")
    picture, (drawn,) = synthetic_drawing.draw_scene([look], 96, np.random.default_rng(5))
    red = picture.astype(int)[..., 0] - picture.astype(int)[..., 1] > 45
    columns, rows = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
    seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(seen - drawn.box).max() <= 2
    assert max(drawn.box[2] - drawn.box[0], drawn.box[3] - drawn.box[1]) > 0.45 * 96


@pytest.mark.parametrize("names", ["SHAPES", "COLOURS", "MATERIALS", "PATTERNS"])
def test_no_two_values_look_alike(names):
    field = {"SHAPES": "shape", "COLOURS": "colour", "MATERIALS": "material", "PATTERNS": "pattern"}[names]
    usual = {"shape": "bag", "colour": "blue"}

    def picture(value: str) -> np.ndarray:
        looks = [synthetic_drawing.Look(**(usual | {field: value}))]
        return synthetic_drawing.draw_scene(looks, 64, np.random.default_rng(1))[0].astype(float)

    pictures = {value: picture(value) for value in getattr(synthetic_drawing, names)}
    for (one, a), (other, b) in itertools.combinations(pictures.items(), 2):
        assert (np.abs(a - b).max(axis=2) > 20).mean() > 0.04, f"{one} and {other}"


def record_of(*words: tuple[str, list[int] | None], edge: int = 64) -> dict:
    return {"image_edge": edge, "title_words": [{"word": word, "box": box} for word, box in words]}


def test_patch_alignment_marks_patches_at_least_half_inside_the_box():
    record = record_of(("lamp", [16, 8, 40, 64]), ("norvik", None))
    grids = patch_alignment(record, 64, 16)
    assert list(grids) == ["lamp"]
    expected = np.zeros((4, 4), dtype=bool)
    expected[0:, 1] = True  # columns 16-32 whole, column 32-48 half; the first row half of that
    expected[1:, 2] = True
    np.testing.assert_array_equal(grids["lamp"], expected)


def test_patch_alignment_scales_with_the_picture():
    grid = patch_alignment(record_of(("cup", [0, 32, 32, 64])), 224, 112)["cup"]
    np.testing.assert_array_equal(grid, [[False, False], [True, False]])


def test_patch_alignment_joins_objects_of_one_word_and_keeps_small_ones():
    grid = patch_alignment(record_of(("red", [0, 0, 16, 16]), ("red", [50, 50, 53, 53])), 64, 16)["red"]
    assert np.argwhere(grid).tolist() == [[0, 0], [3, 3]]


@given(
    st.tuples(st.integers(0, 62), st.integers(0, 62)),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.sampled_from([(64, 8), (64, 16), (96, 16), (224, 32), (60, 20)]),
)
def test_patch_alignment_never_misses_and_never_strays(corner, extent, grid):
    size, patch = grid
    box = [*corner, min(64, corner[0] + extent[0]), min(64, corner[1] + extent[1])]
    marked = patch_alignment(record_of(("word", box)), size, patch)["word"]
    assert marked.shape == (size // patch,) * 2
    assert marked.any()
    cell = 64 * patch / size
    for (row, column), on in np.ndenumerate(marked):
        x0, y0 = column * cell, row * cell
        touches = x0 < box[2] and x0 + cell > box[0] and y0 < box[3] and y0 + cell > box[1]
        inside = box[0] <= x0 and x0 + cell <= box[2] and box[1] <= y0 and y0 + cell <= box[3]
        assert touches or not on
        assert on or not inside


def test_patch_alignment_refuses_patches_that_do_not_fill_the_picture():
    with pytest.raises(UsageError, match=r"size=64 is no multiple of patch=10: give a picture edge that patches fill"):
        patch_alignment(record_of(), 64, 10)


def test_example_queries_are_answered_by_test_products(catalogue):
    examples = example_queries(7, PRODUCTS)
    assert len(set(examples)) == 5
    assert examples == example_queries(7, PRODUCTS)
    assert examples != example_queries(8, PRODUCTS)
    test = rows_of(catalogue / "products.test.parquet")
    for query in examples:
        assert any(grade(meant(query), product) == 2 for product in test), query


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"products": 99}, "products=99 is too few for queries with answers: ask for 100 or more"),
        ({"seed": -1}, "seed=-1 is negative: give 0 or a positive whole number"),
        ({"image_edge": 16}, "image_edge=16 is out of range: give 32 to 512 pixels"),
        ({"image_edge": 1000}, "image_edge=1000 is out of range: give 32 to 512 pixels"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, wrong, message):
    with pytest.raises(UsageError) as caught:
        write_catalogue(tmp_path / "out", **wrong)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds files that are not of a synthetic catalogue \(thesis.txt\)"):
        write_catalogue(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(UsageError, match="is a file, and a folder is to be written there"):
        write_catalogue(tmp_path / "thesis.txt")


def test_a_failed_run_leaves_the_older_catalogue(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_catalogue(out, products=100, seed=1, image_edge=32)
    before = contents(out)

    def fail(*_args: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "_write_rows", fail)
        with pytest.raises(OSError, match="disk full"):
            write_catalogue(out, products=100, seed=2, image_edge=32)
    assert contents(out) == before
    assert list(tmp_path.iterdir()) == [out]
    write_catalogue(out, products=100, seed=2, image_edge=32)
    assert contents(out) != before
