import json
import pickle
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.keywords import (
    PRODUCT_KEYWORDS,
    QUERY_KEYWORDS,
    STOP_WORDS,
    Lexicon,
    count_words,
    token_rows,
    words_of,
)
from maxsearch.data.product_keywords import CatalogueKeywords
from maxsearch.data.tokenize import train_tokenizer
from maxsearch.errors import MaxsearchError
from maxsearch.prepare.run import PrepareOptions, prepare

VOCABULARY = ("red", "shoe", "gürtel", "कपास", "t", "shirt", "3d", "no", "42", "for", "the", "rare")
LEXICON = Lexicon(("shirt", "red", "gürtel", "shoe", "कपास", "t", "3d", "no"))
texts = st.lists(
    st.tuples(st.sampled_from(VOCABULARY), st.sampled_from((" ", "-", ", ", "\u2019s ", "'s "))), max_size=12
).map(lambda parts: "".join(word.title() + mark for word, mark in parts))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Men's T-Shirt, 180cm (blue)", "men t shirt 180cm blue"),
        ("men\u2019s \uff32ed  shirt's", "men red shirt"),
        ("कपास की कमीज", "कपास की कमीज"),
        ("赤い かばん", "赤い かばん"),
        ("size_s x² ½", "size s x2 1 2"),
        ("a\ud800b !?", "a b"),
        ("", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert words_of(text) == tuple(words.split())


@given(texts, texts)
def test_a_covered_query_is_contained_exactly_where_all_its_words_are(query: str, product: str) -> None:
    ids, covered = LEXICON.of_query(query)
    wanted = set(words_of(query)) - STOP_WORDS
    assert covered == (bool(wanted) and wanted <= set(LEXICON.words))
    assert [LEXICON.words[i] for i in ids[ids >= 0]] == [
        word for word in dict.fromkeys(words_of(query)) if word in LEXICON.words
    ]
    if covered:
        contained = set(ids[ids >= 0]) <= set(LEXICON.ids(product))
        assert contained == (wanted <= set(words_of(product)))


def test_a_query_of_more_keywords_than_there_is_room_for_is_not_covered() -> None:
    words = tuple(f"word{i}x" for i in range(QUERY_KEYWORDS + 1))
    lexicon = Lexicon(words)
    ids, covered = lexicon.of_query(" ".join(words[:-1]))
    assert covered and ids.tolist() == list(range(QUERY_KEYWORDS))
    ids, covered = lexicon.of_query(" ".join(words))
    assert not covered and ids.tolist() == list(range(QUERY_KEYWORDS))


def test_words_of_queries_come_first_and_by_distinct_queries() -> None:
    queries = count_words(["red shoe", "Red  SHOE", "red dress for her", "blue shoe", "42", "42 x"])
    assert queries == {"red": 2, "shoe": 2, "dress": 1, "for": 1, "her": 1, "blue": 1, "42": 2, "x": 1}
    titles = {"shoe": 3, "leather": 90, "dress": 1, "men": 2, "once": 1, "and": 9, "2016": 9}
    lexicon = Lexicon.ranked(queries, titles, 10)
    assert lexicon.words == ("shoe", "red", "dress", "leather", "men")
    assert lexicon.top(2).words == Lexicon.ranked(queries, titles, 2).words == ("shoe", "red")
    assert Lexicon.of_queries(["a red shoe", "red", "dress"], 5).words == ("red",)


def test_forms_of_a_word_are_one_keyword() -> None:
    lexicon = Lexicon.of_queries(["red shoes", "blue shoes", "black shoe", "red watches", "watch"], 9)
    assert lexicon.words == ("shoes", "red", "watch")
    assert lexicon.ids("a Watch and a SHOE") == [2, 0]
    assert lexicon.covers("shoe, red") and not lexicon.covers("blue shoe")


@given(st.dictionaries(st.sampled_from(VOCABULARY), st.integers(1, 3)), st.integers(0, 12))
def test_a_lexicon_holds_no_stop_word_number_or_rare_word(counts: dict[str, int], size: int) -> None:
    words = Lexicon.ranked({}, counts, size).words
    assert len(words) <= size
    assert all(counts[word] >= 2 and word not in STOP_WORDS and not word.isnumeric() for word in words)


def test_a_lexicon_is_saved_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "keywords.json"
    LEXICON.save(path)
    assert Lexicon.load(path, remedy="") == pickle.loads(pickle.dumps(LEXICON)) == LEXICON
    for content in (
        "[]",
        '{"words": "red"}',
        '{"words": ["red", 1]}',
        '{"words": ["red", ""]}',
        '{"words": ["a", "a"]}',
    ):
        path.write_text(content)
        with pytest.raises(MaxsearchError, match=rf"the keywords file {path} does not list words that differ: mend it"):
            Lexicon.load(path, remedy="mend it")
    path.unlink()
    with pytest.raises(MaxsearchError, match=rf"no keywords file at {path}: mend it"):
        Lexicon.load(path, remedy="mend it")


def test_token_rows_are_the_tokens_of_the_words_in_a_text() -> None:
    tokenizer = train_tokenizer(["red shoes", "red shirt", "red gürtel"] * 3, 300)
    lexicon = Lexicon(("shoes", "red", "unheardof", "gürtel"))
    rows = token_rows(lexicon, tokenizer, 3)
    assert len(rows) == 3
    assert list(rows[1]) == tokenizer("red shoes", add_special_tokens=False).input_ids[: len(rows[1])]
    assert rows[1] + rows[0] == tuple(tokenizer("red shoes", add_special_tokens=False).input_ids)
    assert len(rows[2]) == 4
    assert token_rows(lexicon, tokenizer, 99)[3] == tuple(tokenizer("Gürtel", add_special_tokens=False).input_ids)


LED = [("crimson shoe", "1"), ("crimson leather", "1"), ("red shoe", "1"), ("blue and red", "3")]


def _prepared(
    folder: Path, products: list[dict[str, str]], clicks: list[tuple[str, str]], **more: int
) -> CatalogueKeywords:
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in products))
    (folder / "c.jsonl").write_text("".join(json.dumps({"query": q, "product_id": i}) + "\n" for q, i in clicks))
    columns = {"text": "about"} if any("about" in row for row in products) else {}
    prepare(PrepareOptions(folder / "p.jsonl", folder / "c.jsonl", folder / "data", columns=columns, **more))
    keywords = PreparedDataset.open(folder / "data").keywords
    assert keywords is not None
    return keywords


def test_products_have_the_words_of_title_clicked_queries_and_texts(tmp_path: Path) -> None:
    products = [
        {"product_id": "1", "title": "Red shoe", "about": "leather shoe of the rarest kind"},
        {"product_id": "2", "title": "...", "about": ""},
        {"product_id": "3", "title": "blue shoe", "about": "leather"},
    ]
    found = _prepared(tmp_path, products, LED)
    words = found.lexicon.words
    assert set(words) == {"shoe", "red", "blue", "crimson"}  # a word of further texts alone is none
    table = pickle.loads(pickle.dumps(found.products))
    assert [[words[i] for i in table[row]] for row in range(3)] == [
        ["red", "shoe", "crimson"],
        [],
        ["blue", "shoe", "red"],
    ]
    assert table.rows.shape == (3, PRODUCT_KEYWORDS)


def test_clicked_queries_come_before_the_description_when_room_is_short(tmp_path: Path) -> None:
    long = [f"word{i}x" for i in range(PRODUCT_KEYWORDS)]
    products = [
        {"product_id": "1", "title": "title", "about": " ".join(long)},
        {"product_id": "2", "title": " ".join(long), "about": ""},
        {"product_id": "3", "title": "title", "about": ""},
    ]
    clicks = [("asked", "1"), ("asked for title", "2"), *((word, "3") for word in long)]
    found = _prepared(tmp_path, products, clicks)
    words = found.lexicon.words
    assert [words[i] for i in found.products[0]] == ["title", "asked", *long[:-2]]
    assert [words[i] for i in found.products[1]] == long


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=12), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_words_are_ranked_as_the_lexicon_ranks_them(rows: list[tuple[str, str]], size: int) -> None:
    queries, titles = ["asked", *(query for query, _ in rows)], ["named", *(title for _, title in rows)]
    with TemporaryDirectory() as folder:
        products = [{"product_id": str(i), "title": title or "."} for i, title in enumerate(titles)]
        clicks = [(query or ".", str(i)) for i, query in enumerate(queries)]
        found = _prepared(Path(folder), products, clicks, keywords=size).lexicon
    counts = Counter(word for title in titles for word in set(words_of(title)))
    assert found == Lexicon.ranked(count_words(queries), counts, size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.csv").write_text("product_id,title\n1,red shoe\n2,red shirt\n")
    (tmp_path / "c.csv").write_text("query,product_id\nsneaker red,1\nsneaker,1\n")
    prepare(PrepareOptions(tmp_path / "p.csv", tmp_path / "c.csv", tmp_path / "data"))
    return tmp_path / "data"


def test_prepared_data_hold_the_keywords(folder: Path) -> None:
    data = PreparedDataset.open(folder, verify=True)
    assert data.keywords is not None
    assert data.keywords.lexicon.words == ("sneaker", "red")
    assert [data.keywords.products[row] for row in range(2)] == [(1, 0), (1,)]
    assert data.manifest["keywords"]["count"] == 2
    options = PrepareOptions(folder.parent / "p.csv", folder.parent / "c.csv", folder, keywords=1)
    less = prepare(options)
    assert PreparedDataset.open(folder).keywords.lexicon.words == ("sneaker",)
    assert less["fingerprint"] != data.fingerprint
    none = prepare(PrepareOptions(folder.parent / "p.csv", folder.parent / "c.csv", folder, keywords=0))
    assert none["keywords"] == {"count": 0, "files": []}
    assert PreparedDataset.open(folder).keywords is None
    assert not (folder / "keywords.json").exists()


def test_damaged_keywords_are_refused(folder: Path) -> None:
    words, table = folder / "keywords.json", folder / "keywords.npy"
    good = words.read_text()
    words.write_text(good.replace("sneaker", "snacker"))
    with pytest.raises(
        MaxsearchError, match=rf"the keywords file {words} differs from its checksum .*: run `maxsearch"
    ):
        PreparedDataset.open(folder)
    words.write_text(good[:-1])
    with pytest.raises(MaxsearchError, match=rf"the keywords file {words} has \d+ bytes where"):
        PreparedDataset.open(folder)
    words.unlink()
    with pytest.raises(MaxsearchError, match=rf"the keywords file {words} is missing"):
        PreparedDataset.open(folder)
    words.write_text(good)
    content = table.read_bytes()
    table.write_bytes(content[:-1] + b"\0")
    PreparedDataset.open(folder)
    with pytest.raises(MaxsearchError, match=rf"the keywords file {table} differs from its checksum"):
        PreparedDataset.open(folder, verify=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    np.save(table, np.zeros((2, 3), np.int16))
    manifest["keywords"]["files"][1]["bytes"] = table.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MaxsearchError, match=rf"the keywords file {table} holds no row for each product"):
        PreparedDataset.open(folder)
