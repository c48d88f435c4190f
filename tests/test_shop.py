"""The engine over a real store: what it answers, and that an answer is never of two states."""

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.filters.cursors import GoneCursorError
from maxsearch.serving.index import IndexOptions
from maxsearch.serving.shop.answer import Engine, Hybrid, NotFoundError, QueryInput, Wanted
from maxsearch.serving.shop.engine import StoreEngine
from maxsearch.serving.store.publish import build_generation
from tests import tiny
from tests.serving_fakes import FakeEncoder

COLOURS, KINDS = ("red", "navy", "olive"), ("shoes", "shirt", "hat", "belt")
ENCODER = FakeEncoder.make()
QUERY = "red leather shoes"


def products(count: int = 60, word: str = "") -> list[Product]:
    return [
        Product(
            f"p{n}",
            f"{COLOURS[n % 3]} {KINDS[n % 4]} number {n} {word}".strip(),
            (bytes([n]),) if n % 2 else (),
            variant=f"v{n // 3}",
            attributes={"colour": COLOURS[n % 3], "price": str(n), "in_stock": "true" if n % 5 else "false"},
            texts=("fine leather",) if n % 7 == 0 else (),
        )
        for n in range(count)
    ]


def publish(store: Path, catalogue: list[Product], encoder: FakeEncoder = ENCODER, **options: object) -> str:
    return build_generation(encoder, catalogue, store, IndexOptions(**options)).name


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StoreEngine]:
    publish(tmp_path / "store", products())
    yield StoreEngine.open(tmp_path / "store", ENCODER)


def vector(text: str = QUERY) -> np.ndarray:
    return ENCODER.encode_queries([text])[0]


def ids(engine: StoreEngine, text: str = QUERY, **wanted: object) -> list[str]:
    return [hit.product_id for hit in engine.search(vector(text), Wanted(**{"k": 10, "text": text, **wanted})).hits]


def truth(catalogue: list[Product], text: str = QUERY) -> list[str]:
    vectors = np.concatenate([batch.p for batch in ENCODER.encode_products(catalogue)]).astype(np.float64)
    return [
        catalogue[row].product_id for row in np.argsort(-(vectors @ vector(text).astype(np.float64)), kind="stable")
    ]


def test_it_is_an_engine_and_warms_up(engine: StoreEngine) -> None:
    assert isinstance(engine, Engine)
    engine.warm_up()
    assert engine.products == 60
    assert [field.name for field in engine.fields if field.facet] == ["colour"]


def test_it_ranks_filters_and_counts_as_brute_force_does(engine: StoreEngine) -> None:
    catalogue = products()
    assert ids(engine) == truth(catalogue)[:10]
    keep = {"and": [{"in": {"field": "colour", "values": ["red", "navy"]}}, {"range": {"field": "price", "gte": 20}}]}
    kept = [p for p in catalogue if p.attributes["colour"] != "olive" and float(p.attributes["price"]) >= 20]
    answer = engine.search(vector(), Wanted(k=10, filter=keep, facets=["colour"]))
    assert [hit.product_id for hit in answer.hits] == truth(kept)[:10]
    assert (answer.exact, answer.total) == (True, len(kept))
    dear = [p for p in catalogue if float(p.attributes["price"]) >= 20]
    counts = {one["value"]: one["count"] for one in answer.facets["colour"]}
    assert counts == {colour: sum(p.attributes["colour"] == colour for p in dear) for colour in COLOURS}


def test_pages_hold_every_product_once(engine: StoreEngine) -> None:
    found, cursor = [], None
    while True:
        answer = engine.search(vector(), Wanted(k=7, cursor=cursor))
        found += [hit.product_id for hit in answer.hits]
        if answer.cursor is None:
            break
        cursor = answer.cursor
    assert found == truth(products())
    with pytest.raises(UsageError, match="another query"):
        engine.search(vector("hat"), Wanted(k=7, cursor=cursor))


def test_writes_are_found_at_once_and_kept(engine: StoreEngine, tmp_path: Path) -> None:
    new = Product("new", QUERY, (b"picture",), attributes={"colour": "red", "price": "5"}, texts=("suede",))
    assert engine.upsert([new]) == 1
    assert ids(engine, k=1) == ["new"]
    assert ids(
        engine,
        k=1,
        filter={
            "eq": {"field": "price", "value": 5},
        },
    ) in (["new"], ["p5"])
    assert engine.picture("new") == b"picture"
    assert ids(engine, "suede", k=1, hybrid=Hybrid("weights", dense=0.0, lexical=1.0)) == ["new"]
    assert engine.delete(["p0", "absent"]) == 1
    assert "p0" not in ids(engine, k=60)
    with pytest.raises(NotFoundError):
        engine.vector_of("p0")
    again = StoreEngine.open(tmp_path / "store", ENCODER)
    assert ids(again, k=60) == ids(engine, k=60)
    again._store.compact()
    assert engine.refresh()
    assert ids(engine, k=60) == ids(again, k=60)
    assert engine.picture("new") == b"picture"
    assert ids(engine, "suede", k=1, hybrid=Hybrid("weights", dense=0.0, lexical=1.0)) == ["new"]
    assert {field.name: field.kind for field in engine.fields}["price"] == "int"


def test_more_like_this_pins_boosts_and_variants(engine: StoreEngine) -> None:
    like = engine.search(engine.vector_of("p3"), Wanted(k=60, without=frozenset({"p3"})))
    assert "p3" not in {hit.product_id for hit in like.hits}
    assert like.total == 59
    assert ids(engine, pins={"p7": 2})[1] == "p7"
    assert ids(engine, pins={"p7": 2}, filter={"eq": {"field": "colour", "value": "red"}})[1] != "p7"
    raised = ids(engine, k=5, boosts=[{"filter": {"eq": {"field": "colour", "value": "olive"}}, "add": 5.0}])
    assert {int(one[1:]) % 3 for one in raised} == {2}
    collapsed = engine.search(vector(), Wanted(k=60, collapse=True))
    assert len(collapsed.hits) == 20
    assert {hit.variants for hit in collapsed.hits} == {2}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"filter": {"eq": {"field": "color", "value": "red"}}}, "did you mean 'colour'"),
        ({"facets": ["size"]}, "no attribute is called 'size'"),
        ({"boosts": [{"filter": None}]}, "boosts"),
        ({"cursor": "x"}, "no cursor that a search returned"),
        ({"rerank": 5}, "no matching head"),
        ({"pins": {"p1": 1, "p2": 1}}, "pins"),
        ({"hybrid": Hybrid(dense=0.0, lexical=0.0)}, "both 0"),
    ],
)
def test_what_cannot_be_asked(engine: StoreEngine, wanted: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ids(engine, **wanted)


def test_a_cursor_of_a_generation_that_is_gone(engine: StoreEngine, tmp_path: Path) -> None:
    cursor = engine.search(vector(), Wanted(k=5)).cursor
    publish(tmp_path / "store", products(30))
    assert engine.refresh()
    with pytest.raises(GoneCursorError, match="is gone"):
        engine.search(vector(), Wanted(k=5, cursor=cursor))


def test_another_model_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "store", products(5))
    with pytest.raises(MaxsearchError, match="built with model"):
        StoreEngine.open(tmp_path / "store", FakeEncoder.make(seed=1))


def test_queries_of_words_and_pictures_are_weighed(engine: StoreEngine) -> None:
    text, image = ENCODER.encode_queries(["hat"])[0], ENCODER._image(b"one")
    both = engine.encode([QueryInput("hat", b"one", 1.0, 3.0), QueryInput("hat", b"one", 1.0, 0.0)])
    mixed = text + 3 * image
    np.testing.assert_allclose(both[0], mixed / np.linalg.norm(mixed), atol=1e-6)
    np.testing.assert_allclose(both[1], text, atol=1e-6)


def test_an_answer_is_of_one_state_while_generations_and_writes_come(tmp_path: Path) -> None:
    """Each state's titles carry its own word, so that a mixture of two would show."""
    store = tmp_path / "store"
    publish(store, products(40, "first"))
    engine = StoreEngine.open(store, ENCODER)
    wrong: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answer = engine.search(vector(), Wanted(k=60))
            words = {hit.title.rsplit(" ", 1)[1] for hit in answer.hits} - {"written"}
            if len(words) != 1 or len({hit.product_id for hit in answer.hits}) != len(answer.hits):
                wrong.append(str(words))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn, word in enumerate(("second", "third", "fourth")):
            engine.upsert([Product(f"w{turn}", "olive belt written")])
            publish(store, products(40, word))
            assert engine.refresh()
            assert {hit.product_id for hit in engine.search(vector(), Wanted(k=99)).hits} >= {
                f"w{n}" for n in range(turn)
            }
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_command_serves_a_trained_model_and_drains(tmp_path: Path) -> None:
    catalogue = tiny.catalogue() / "products.test.parquet"
    tiny.quiet("index", "build", "--model", tiny.model(), "--products", catalogue, "--store", tmp_path / "store")
    words = [sys.executable, "-m", "maxsearch", "serve", "--store", tmp_path / "store", "--model", tiny.model()]
    with subprocess.Popen(
        [*map(str, words), "--port", "0", "--max-batch", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().rsplit(" ", 1)[1].strip()
            for _ in range(3000):
                try:
                    urllib.request.urlopen(f"{address}readyz", timeout=10)
                    break
                except OSError:
                    assert process.poll() is None
                    threading.Event().wait(0.1)
            body = json.dumps({"query": "red circle", "k": 3}).encode()
            asked = urllib.request.Request(f"{address}v1/search", body, {"Content-Type": "application/json"})
            answer = json.load(urllib.request.urlopen(asked, timeout=60))
            assert len(answer["hits"]) == 3
            product = answer["hits"][0]["product_id"]
            body = json.dumps({"query": "red circle", "product_id": product}).encode()
            asked = urllib.request.Request(f"{address}v1/explain", body, {"Content-Type": "application/json"})
            told = json.load(urllib.request.urlopen(asked, timeout=120))["explanation"]
            assert told["score"] == pytest.approx(answer["hits"][0]["score"], abs=1e-4)
            assert told["maps"]
        finally:
            process.send_signal(signal.SIGTERM)
            errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0, errors
