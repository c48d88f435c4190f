from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.keys import bytes_key, text_key
from maxsearch.evaluation import slice_figures
from maxsearch.evaluation.metrics import Relevance, score
from maxsearch.evaluation.slice_figures import slice_rows
from maxsearch.evaluation.slices import (
    Slicing,
    by_attribute,
    by_clicks,
    by_image,
    by_length,
    by_saying,
    by_seen,
    by_title,
    query_words,
    said,
)
from maxsearch.evaluation.training_data import TrainingData

TITLES = ["Red running shoes", "Nike", "blue shoe", "", "a hat", "red"]


def named(slicing: Slicing) -> list[str]:
    return [slicing.values[part] if part >= 0 else "-" for part in slicing.part]


def training(queries: list[str], clicks: dict[str, float]) -> TrainingData:
    keys = {bytes_key(product.encode()): weight for product, weight in clicks.items()}
    ids = np.array(sorted(keys), np.uint64)
    nothing = np.zeros(0, np.uint64)
    weights = np.array([keys[int(key)] for key in ids], np.float64)
    asked = np.unique(np.array([text_key(query) for query in queries], np.uint64))
    return TrainingData(Path("train"), ids, weights, nothing, asked, nothing, nothing)


def test_queries_are_cut_by_words_of_any_kind() -> None:
    assert named(by_length(["shoe", "a shoe", "a red shoe", "a b c d", "a b c d e f", "a b c d e f g"])) == [
        "1-2 words",
        "1-2 words",
        "3-4 words",
        "3-4 words",
        "5-6 words",
        "7 words and more",
    ]


def test_seen_queries_differ_in_case_and_spaces_only() -> None:
    keys = np.array([text_key(query) for query in ("red shoe", "shoe red")], np.uint64)
    assert named(by_seen(keys, training(["Red  SHOE"], {}))) == ["seen", "novel"]


def test_titles_say_queries_by_their_stems() -> None:
    # The second query's better product (grade 2) is silent; that of grade 1 does not ask.
    relevance = Relevance.build([{0: 1, 2: 1}, {1: 2, 2: 1}, {2: 1, 4: 1}, {0: 1}], len(TITLES))
    words = [query_words(query) for query in ("shoes", "blue shoe", "blue shoes for men", "the")]
    assert [sorted(word) for word in words] == [["shoe"], ["blue", "shoe"], ["blue", "men", "shoe"], ["the"]]
    shares = said(words, TITLES, relevance)
    assert shares.tolist() == pytest.approx([1, 1, 0, 1, 2 / 3, 0, 0])
    assert named(by_saying(shares, relevance)) == ["fully", "silent", "partly", "silent"]
    assert named(by_title(shares)) == ["telling", "telling", "silent", "telling", "telling", "silent", "silent"]


def test_products_are_cut_by_clicks_picture_and_attribute() -> None:
    shop = training([], {"a": 50, "b": 30, "c": 10, "d": 6, "e": 4, "f": 0})
    ids = np.array([bytes_key(product.encode()) for product in "abcdefg"], np.uint64)
    assert named(by_clicks(ids, shop)) == ["head", "torso", "torso", "tail", "tail", "none", "none"]
    assert named(by_clicks(ids[:1], training([], {}))) == ["none"]
    assert named(by_image(np.array([True, False]))) == ["present", "missing"]
    assert named(by_attribute("colour", ["red", "", "red"])) == ["red", "(none)", "red"]
    rare = by_attribute("brand", [*map(str, range(40)), "39"])
    assert len(rare.values) == 30 and rare.values[0] == "39" and named(rare).count("-") == 10


def rows_of(ranked: list[list[int]]) -> np.ndarray:
    return np.array(ranked, np.int64)


def test_a_part_of_the_queries_is_their_average() -> None:
    ndcg = {"ours": np.array([1.0, 0.5, 0.0]), "other": np.array([0.0, 0.0, 1.0])}
    relevance = Relevance.build([{0: 1}, {1: 2, 2: 1}, {3: 1}], 9)
    slicing = Slicing("by", "queries", ("a", "b", "c"), np.array([0, 0, 2]))
    rows = slice_rows([slicing], {}, ndcg, relevance)
    assert [(row.value, row.queries, row.judgments, row.few) for row in rows] == [("a", 2, 3, True), ("c", 1, 1, True)]
    assert rows[0].systems["ours"].mean == 0.75 and rows[1].systems["other"].mean == 1
    assert rows[0].differences["other"].mean == -0.75 and set(rows[0].differences) == {"other"}
    # Of the paired differences -1 and -0.5, a resample has a mean between them.
    assert (rows[0].differences["other"].low, rows[0].differences["other"].high) == (-1, -0.5)


def test_relevant_products_outside_a_part_neither_help_nor_harm() -> None:
    """Query 0: 0 and 1 lie inside, 2 and 3 outside. Query 1 has nothing inside."""
    relevance = Relevance.build([{0: 2, 1: 1, 2: 2, 3: 1}, {4: 1}], 9)
    slicing = Slicing("by", "products", ("in", "out"), np.array([0, 0, 1, 1, 1]))
    ranked = {
        "first": rows_of([[2, 0, 3, 7, 1, -1], [4, 5, -1, -1, -1, -1]]),
        "last": rows_of([[7, 8, 2, 3, 1, -1], [5, 4, -1, -1, -1, -1]]),
    }
    inside, outside = slice_rows([slicing], ranked, {}, relevance)
    ideal = 3 + 1 / np.log2(3)
    assert (inside.queries, inside.judgments, inside.left_out) == (1, 2, 0)
    # Without 2 and 3: 0 at rank 1, 1 at rank 3 behind 7; and 1 at rank 3 behind 7 and 8.
    assert inside.systems["first"].mean == pytest.approx((3 + 1 / 2) / ideal)
    assert inside.systems["last"].mean == pytest.approx((1 / 2) / ideal)
    assert (outside.queries, outside.judgments) == (2, 3)
    assert outside.systems["first"].mean == 1


def test_a_part_that_is_everything_gives_the_whole_figure() -> None:
    rng = np.random.default_rng(0)
    judged = [{int(row): int(rng.integers(1, 4)) for row in rng.choice(60, 12, replace=False)} for _ in range(40)]
    relevance = Relevance.build(judged, 60)
    ranked = rows_of([rng.permutation(60)[:30].tolist() for _ in judged])
    slicing = Slicing("by", "products", ("all",), np.zeros(len(relevance.keys), np.int64))
    (row,) = slice_rows([slicing], {"ours": ranked}, {}, relevance)
    assert row.systems["ours"].mean == pytest.approx(score(ranked, relevance)["ndcg@10"].mean())
    assert (row.queries, row.few) == (40, False)


def test_ranks_that_end_too_early_leave_the_query_or_the_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_figures, "BLOCK", 1)
    # Of query 0, eleven relevant products stand outside the part, and the ranks end with two of its others.
    judged = [{**dict.fromkeys(range(11), 1), 20: 1}, {21: 1}]
    relevance = Relevance.build(judged, 100)
    slicing = Slicing("by", "products", ("in", "out"), np.where(relevance.keys % 100 < 11, 1, 0))
    ours = rows_of([[*range(11), 50, 51], [21, *range(40, 52)]])
    inside, outside = slice_rows([slicing], {"ours": ours}, {}, relevance)
    assert (inside.queries, inside.left_out, inside.judgments) == (1, 1, 1)
    assert inside.systems["ours"].mean == 1
    assert (outside.queries, outside.left_out) == (1, 0)
    # A list that ends by itself is no list that was cut.
    short = rows_of([[*range(11), 20, -1], [21, *range(40, 52)]])
    assert slice_rows([slicing], {"ours": short}, {}, relevance)[0].queries == 2
    # A run is left out instead, so that it takes no query from the others.
    run = np.pad(ours, ((0, 0), (0, 1)), constant_values=-1)
    some = {"ours": short, "a.run": run}
    assert set(slice_rows([slicing], some, {}, relevance, runs=["a.run"], k=13)[0].systems) == {"ours"}
    assert set(slice_rows([slicing], some, {}, relevance, runs=["a.run"], k=14)[0].systems) == {"ours", "a.run"}


def test_depth_is_bounded() -> None:
    assert [slice_figures.depth(100, queries) for queries in (1, 869, 10_000, 100_000)] == [1000, 1000, 200, 100]
