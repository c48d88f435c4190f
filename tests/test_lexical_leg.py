"""The BM25 leg: what it scores, products that came later, and its files."""

import hashlib
import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.filters.masks import Selection
from maxsearch.serving.hybrid.lexical import (
    BuiltLexical,
    LateLexical,
    LexicalSettings,
    best_by_words,
    build_lexical,
    open_lexical,
)
from maxsearch.serving.hybrid.words import Words, document

DOCUMENTS = [
    "red running shoes",
    "blue shoes shoes",
    "",
    "the wooden table",
    "running shirt red red",
    "Gürtel aus Leder",
]


def built(folder: Path, documents: list[str] = DOCUMENTS, **choices: object) -> BuiltLexical:
    build_lexical(documents, folder / "lexical", LexicalSettings(**choices))  # type: ignore[arg-type]
    return open_lexical(folder / "lexical")


def bm25(query: list[str], documents: list[list[str]], k1: float, b: float) -> list[float]:
    """The formula, word by word."""
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        counts, score = Counter(words), 0.0
        for word in query:
            frequency = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(words) / average)) if frequency else 0
        scores.append(score)
    return scores


@pytest.mark.parametrize("choices", [{}, {"k1": 0.9, "b": 0.4}])
def test_scores_are_bm25s_and_later_products_get_the_same(tmp_path: Path, choices: dict[str, float]) -> None:
    index = built(tmp_path, **choices)
    words = index.settings.words.of(DOCUMENTS)
    assert words[0] == ["red", "run", "shoe"]
    assert words[3] == ["wooden", "tabl"]
    late = LateLexical(index, DOCUMENTS)
    for query in (["shoe"], ["red", "run"], ["red", "red", "tabl"], ["sofa"], []):
        expected = bm25(query, words, index.settings.k1, index.settings.b)
        np.testing.assert_allclose(index.scores(query), expected, atol=1e-5)
        np.testing.assert_allclose(late.scores(query), expected, atol=1e-5)
    assert (len(index), len(late)) == (6, 6)


def test_words_that_only_later_products_have_are_found(tmp_path: Path) -> None:
    late = LateLexical(built(tmp_path), ["velvet sofa", "table"])
    sofa, table = late.scores(["sofa"]), late.scores(["tabl"])
    assert sofa[0] > 0 == sofa[1]
    assert table[1] > 0 == table[0]


def test_the_best_rows_by_words_are_those_that_the_filter_keeps(tmp_path: Path) -> None:
    index = built(tmp_path)
    late = LateLexical(index, ["red shoes", "a sofa"])
    selections = [Selection(np.array([True, True, True, True, False, True])), Selection(np.array([True, True]))]
    rows, scores, every = best_by_words([index, late], selections, ["red", "shoe"], 2)
    assert rows.tolist() == [6, 0]
    np.testing.assert_array_equal(scores, every[rows])
    assert (len(every), every[4] > 0) == (8, True)
    assert best_by_words([index, late], selections, ["red", "shoe"], 10)[0].tolist() == [6, 0, 1]
    assert best_by_words([index, late], selections, ["unheard"], 10)[0].tolist() == []


def test_what_counts_as_text_and_in_which_language() -> None:
    attributes = {"brand": "Acme", "colour": "red", "size": ""}
    assert document("shoe", ("soft", ""), attributes, ["colour", "size", "sole"]) == "shoe soft red"
    assert Words("german").of(["Die roten Schuhe"]) == [["rot", "schuh"]]
    assert Words("none").of(["The Running shoes"]) == [["the", "running", "shoes"]]
    assert Words().of([]) == []
    with pytest.raises(
        UsageError, match="there is no stemmer for the language 'klingon': choose one of english, danish"
    ):
        Words("klingon")


@pytest.mark.parametrize("documents", [[], ["", "the"]])
def test_a_catalogue_without_words_finds_nothing(tmp_path: Path, documents: list[str]) -> None:
    index = built(tmp_path, documents)
    assert index.scores(["shoe"]).tolist() == [0] * len(documents)
    assert LateLexical(index, ["red shoes"]).scores(["shoe"])[0] > 0


def test_settings_are_read_back_and_files_hold_no_pickle(tmp_path: Path) -> None:
    index = built(tmp_path, words=Words("german"), k1=1.2, b=0.5, attributes=("brand",))
    assert index.settings == LexicalSettings(Words("german"), 1.2, 0.5, ("brand",))
    for path in (tmp_path / "lexical").iterdir():
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        else:
            json.loads(path.read_text())
    again = tmp_path / "again"
    build_lexical(DOCUMENTS, again, index.settings)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (again, tmp_path / "lexical")
    ]
    assert digests[0] == digests[1]


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    built(tmp_path)
    folder = tmp_path / "lexical"
    with pytest.raises(MaxsearchError, match=r"no lexical index folder at .*: build the index again"):
        open_lexical(tmp_path / "nothing")
    whole = (folder / "vocab.index.json").read_bytes()
    (folder / "vocab.index.json").write_bytes(whole.replace(b"shoe", b"sh0e"))
    with pytest.raises(MaxsearchError, match=r"vocab.index.json was altered .*: build the index again"):
        open_lexical(folder)
    (folder / "vocab.index.json").write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, expected in (
        ({"count": 7}, "its files hold another number of documents than its manifest says"),
        ({"settings": {"k1": 1}}, "cannot be read"),
        ({"files": {}}, "its manifest does not list data.csc.index.npy"),
    ):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(MaxsearchError, match=expected) as error:
            open_lexical(folder)
        assert "\n" not in str(error.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="mine exists and is not a maxsearch lexical index folder"):
        build_lexical(DOCUMENTS, tmp_path / "mine")


def test_several_threads_may_score_at_once(tmp_path: Path) -> None:
    index = built(tmp_path)
    queries = ["red running shoes", "wooden tables", "blue shirt"] * 20
    expected = [index.scores(words) for words in index.settings.words.of(queries)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: index.scores(index.settings.words.of([query])[0]), queries))
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_text_has_words_or_none(texts: list[str]) -> None:
    found = Words().of(texts)
    assert len(found) == len(texts)
    assert all(isinstance(word, str) and word for words in found for word in words)
