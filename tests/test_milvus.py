"""A generation in Milvus-Lite, from its push to a rollback, and the engine that answers from it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.engines.choose import EngineOptions, open_engine
from maxsearch.serving.engines.milvus import push as pushing
from maxsearch.serving.engines.milvus.client import connect
from maxsearch.serving.engines.milvus.collections import collections_of, go_back, served
from maxsearch.serving.engines.milvus.engine import MilvusEngine
from maxsearch.serving.engines.milvus.options import MilvusOptions
from maxsearch.serving.engines.milvus.push import PushOptions, generation_of, push
from maxsearch.serving.engines.milvus.schema import LOADING, Facts, fields_of
from maxsearch.serving.filters.cursors import GoneCursorError
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.http.app import create_app
from maxsearch.serving.http.keys import Keys
from maxsearch.serving.http.options import ServeOptions
from maxsearch.serving.shop.answer import Engine, Hybrid, NotFoundError, UnavailableError, Wanted
from maxsearch.serving.shop.engine import StoreEngine
from maxsearch.serving.store.store import Store, open_snapshot
from maxsearch.serving.store.writes import upserts_of
from tests.milvus_fakes import ENCODER, free_port, lite_server, products, publish, truth, vector
from tests.serving_fakes import FakeEncoder

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")

QUERY = "red leather shoes"
PUSH = PushOptions("shop", "FLAT")
COUNT = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 60 products, of which two were written after its generation was built, and one deleted."""
    folder = tmp_path_factory.mktemp("store")
    publish(folder, products(COUNT - 1))
    opened = Store.open(folder)
    late = [replace(products(2)[1], title="navy shirt number 1 anew"), products(COUNT)[-1]]
    opened.upsert([one for batch in ENCODER.encode_products(late) for one in upserts_of(batch)], ENCODER.fingerprint)
    opened.delete(["p2"])
    opened.close()
    return folder


def catalogue() -> list[Product]:
    found = [one for one in products(COUNT) if one.product_id not in ("p1", "p2", f"p{COUNT - 1}")]
    return [*found, replace(products(2)[1], title="navy shirt number 1 anew"), products(COUNT)[-1]]


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> MilvusOptions:
    return MilvusOptions(uri=str(tmp_path_factory.mktemp("milvus") / "a.db"), alias="shop", timeout=60.0)


@pytest.fixture(scope="module")
def client(lite: MilvusOptions) -> Iterator[Any]:
    opened = connect(lite, {})
    yield opened
    opened.close()


@pytest.fixture
def alias(request: pytest.FixtureRequest, client: Any) -> Iterator[str]:
    """An alias of a test's own; its collections are dropped afterwards."""
    name = f"t{abs(hash(request.node.name))}"
    yield name
    for one in collections_of(client, name):
        client.drop_collection(one.name)


@pytest.fixture(scope="module")
def engine(client: Any, lite: MilvusOptions, store: Path) -> MilvusEngine:
    """An engine that no test writes to."""
    push(client, open_snapshot(store), PUSH)
    opened = open_engine(EngineOptions("milvus", milvus=lite), ENCODER)
    assert isinstance(opened, MilvusEngine)
    return opened


def engine_of(client: Any, lite: MilvusOptions, alias: str, model: FakeEncoder = ENCODER) -> MilvusEngine:
    return MilvusEngine(client, replace(lite, alias=alias), model)


def ids(engine: Engine, text: str = QUERY, **wanted: Any) -> list[str]:
    return [hit.product_id for hit in engine.search(vector(text), Wanted(**{"k": 10, "text": text, **wanted})).hits]


def test_it_is_an_engine_and_answers_as_the_store_does(engine: MilvusEngine, store: Path) -> None:
    assert isinstance(engine, Engine)
    engine.warm_up()
    ours = StoreEngine.open(store, ENCODER)
    assert engine.products == ours.products == COUNT - 1
    assert {field.name: field.kind for field in engine.fields} == {field.name: field.kind for field in ours.fields}
    assert engine.generation == f"{ours.generation}+2"
    for keep in (
        None,
        {"not": {"eq": {"field": "colour", "value": "red"}}},
        {"eq": {"field": "variant", "value": "v3"}},
    ):
        asked = Wanted(k=30, filter=keep)
        theirs, own = engine.search(vector(QUERY), asked), ours.search(vector(QUERY), asked)
        assert theirs.exact and own.exact
        assert theirs.total == (own.total if keep is None else None)
        assert [(hit.rank, hit.product_id, hit.title, hit.attributes, hit.variant) for hit in theirs.hits] == [
            (hit.rank, hit.product_id, hit.title, hit.attributes, hit.variant) for hit in own.hits
        ]
        np.testing.assert_allclose([hit.score for hit in theirs.hits], [hit.score for hit in own.hits], atol=1e-6)
    assert theirs.hits[0].legs == {"dense": theirs.hits[0].score}


def test_pages_hold_every_product_once(engine: MilvusEngine) -> None:
    found: list[str] = []
    cursor = None
    while True:
        answer = engine.search(vector(QUERY), Wanted(k=7, cursor=cursor))
        assert [hit.rank for hit in answer.hits] == list(range(len(found) + 1, len(found) + 1 + len(answer.hits)))
        found += [hit.product_id for hit in answer.hits]
        if answer.cursor is None:
            break
        cursor = answer.cursor
    assert found == truth(catalogue(), QUERY)
    with pytest.raises(UsageError, match="another query"):
        engine.search(vector("hat"), Wanted(k=7, cursor=cursor))


def test_words_are_read_as_our_own_index_reads_them(engine: MilvusEngine) -> None:
    by_words = Hybrid("weights", dense=0.0, lexical=1.0)
    assert set(ids(engine, "suede", k=9, hybrid=by_words)) == {f"p{n}" for n in range(0, COUNT, 7)}
    assert "p1" in ids(engine, "anewly renewed ANEW", k=1, hybrid=by_words)
    kept = ids(engine, "suede", k=9, hybrid=by_words, filter={"eq": {"field": "colour", "value": "red"}})
    assert [one for one in kept if int(one[1:]) % 7 == 0] == kept[: len(range(0, COUNT, 21))]
    for method in ("rrf", "weights"):
        answer = engine.search(vector("suede"), Wanted(k=3, text="suede", hybrid=Hybrid(method)))
        assert answer.hits[0].legs == {"fused": answer.hits[0].score}
    assert ids(engine, "zzz", hybrid=Hybrid()) == ids(engine, "zzz")  # no word that anything has: by meaning alone


def test_more_like_this(engine: MilvusEngine) -> None:
    own = engine.vector_of("p3")
    assert ids(engine, k=1) != []
    assert engine.search(own, Wanted(k=1)).hits[0].product_id == "p3"
    like = engine.search(own, Wanted(k=COUNT, without=frozenset({"p3"})))
    assert len(like.hits) == COUNT - 2 and "p3" not in {hit.product_id for hit in like.hits}
    with pytest.raises(NotFoundError):
        engine.vector_of("p2")
    assert engine.picture("p3") is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"facets": ["colour"]}, "facets: the Milvus engine cannot"),
        ({"collapse": True}, "collapse: the Milvus engine cannot"),
        ({"boosts": [{"filter": None, "add": 1.0}]}, "boosts: the Milvus engine cannot"),
        ({"pins": {"p1": 1}}, "pins: the Milvus engine cannot"),
        ({"refine": True}, "refine: the Milvus engine cannot"),
        ({"rerank": 5}, "rerank: the Milvus engine cannot"),
        ({"filter": {"eq": {"field": "color", "value": "red"}}}, "did you mean 'colour'"),
        ({"cursor": "x"}, "no cursor that a search returned"),
        ({"hybrid": Hybrid(dense=0.0, lexical=0.0)}, "both 0"),
    ],
)
def test_what_cannot_be_asked(engine: MilvusEngine, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ids(engine, **wanted)
    with pytest.raises(UsageError, match="holds no pictures"):
        engine.explain(QUERY, "p3")


def test_writes_are_found_by_the_next_search(client: Any, lite: MilvusOptions, tmp_path: Path, alias: str) -> None:
    publish(tmp_path, products(30))
    push(client, open_snapshot(tmp_path), replace(PUSH, alias=alias))
    engine = engine_of(client, lite, alias)
    odd = 'n"ew \\ 靴'
    fresh = Product(
        odd, QUERY, variant="v", attributes={"colour": "red", "price": "cheap", "size": "9"}, texts=("wool",)
    )
    assert engine.upsert([fresh, replace(products(1)[0], title="grey coat")]) == 2
    assert engine.products == 31
    first = engine.search(vector(QUERY), Wanted(k=1)).hits[0]
    assert (first.product_id, first.attributes, first.variant) == (odd, fresh.attributes, "v")
    assert ids(engine, filter={"missing": {"field": "price"}}) == [odd]
    assert ids(engine, "wool", k=1, hybrid=Hybrid("weights", dense=0.0, lexical=1.0)) == [odd]
    assert engine.search(engine.vector_of("p0"), Wanted(k=1)).hits[0].title == "grey coat"
    assert engine.delete([odd, "absent"]) == 1
    assert engine.delete([odd]) == 0
    assert engine.products == 30
    assert odd not in ids(engine, k=31)
    bare = Product("bare", "", (b"a picture",))  # no words, no attributes
    assert engine.upsert([bare]) == 1
    found = engine.search(engine.vector_of("bare"), Wanted(k=1)).hits[0]
    assert (found.product_id, found.title, found.attributes, found.variant) == ("bare", "", {}, "")
    with pytest.raises(UsageError, match="stands twice in one call"):
        engine.upsert([fresh, fresh])
    with pytest.raises(UsageError, match="has 70,000 bytes in title, and Milvus takes 65,535"):
        engine.upsert([replace(fresh, title="x" * 70_000)])


def test_a_new_generation_is_turned_to_and_back(client: Any, lite: MilvusOptions, tmp_path: Path, alias: str) -> None:
    options = replace(PUSH, alias=alias, keep=1)
    names = [publish(tmp_path, products(20, "first"))]
    push(client, open_snapshot(tmp_path), options)
    engine = engine_of(client, lite, alias)
    cursor = engine.search(vector(QUERY), Wanted(k=5)).cursor
    assert not engine.refresh()
    for word in ("second", "third"):
        names.append(publish(tmp_path, products(20, word)))
        push(client, open_snapshot(tmp_path), options)
        assert engine.refresh()
        assert engine.generation == names[-1]
        assert {hit.title.split()[-1] for hit in engine.search(vector(QUERY), Wanted(k=20)).hits} == {word}
    with pytest.raises(GoneCursorError, match="is gone"):
        engine.search(vector(QUERY), Wanted(k=5, cursor=cursor))
    assert [one.facts.generation for one in collections_of(client, alias)] == names[1:]
    assert go_back(client, alias, None).facts.generation == names[1]
    assert engine.refresh() and engine.generation == names[1]
    assert go_back(client, alias, names[2]).facts.generation == names[2]
    with pytest.raises(UsageError, match=f"Milvus has {names[1]}, {names[2]}"):
        go_back(client, alias, names[0])
    go_back(client, alias, names[1])
    with pytest.raises(UsageError, match="no generation before"):
        go_back(client, alias, None)
    inserts: list[int] = []
    insert = client.insert
    try:
        client.insert = lambda *words: inserts.append(1)
        assert push(client, open_snapshot(tmp_path), options).facts.generation == names[2]
    finally:
        client.insert = insert
    assert inserts == []  # it was there
    assert engine.refresh() and engine.generation == names[2]
    push(client, open_snapshot(tmp_path), replace(options, index="HNSW", keep=0))
    assert ids(engine) and engine.generation == names[2]  # what it was at was dropped: it turned by itself
    assert not engine.search(vector(QUERY), Wanted(k=1)).exact


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    "step", ["insert", "create_index", "alter_collection_properties", "alter_alias", "drop_collection"]
)
def test_a_push_that_was_killed_is_done_again(
    client: Any, lite: MilvusOptions, tmp_path: Path, alias: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(PUSH, alias=alias, keep=0)
    first = publish(tmp_path, products(10, "first"))
    push(client, open_snapshot(tmp_path), options)
    second = publish(tmp_path, products(20, "second"))
    with monkeypatch.context() as killing:
        killing.setattr(pushing, "BATCH", 8)
        real = getattr(client, step)
        calls: list[int] = []

        def killed(*words: Any, **named: Any) -> Any:
            calls.append(1)
            if step != "insert" or len(calls) > 1:
                raise KilledError
            return real(*words, **named)

        killing.setattr(client, step, killed)
        with pytest.raises(KilledError):
            push(client, open_snapshot(tmp_path), options)
    served_after = engine_of(client, lite, alias)
    assert served_after.generation == (second if step == "drop_collection" else first)
    assert push(client, open_snapshot(tmp_path), options).facts.generation == second
    engine = engine_of(client, lite, alias)
    assert (engine.generation, engine.products) == (second, 20)
    assert ids(engine, k=20) == truth(products(20, "second"), QUERY)
    assert [one.facts.generation for one in collections_of(client, alias)] == [second]


def test_what_does_not_pass_its_tests_is_not_served(
    client: Any, lite: MilvusOptions, tmp_path: Path, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(PUSH, alias=alias)
    first = publish(tmp_path, products(10))
    push(client, open_snapshot(tmp_path), options)
    publish(tmp_path, products(30))
    with monkeypatch.context() as losing:
        insert = client.insert
        losing.setattr(client, "insert", lambda name, rows: insert(name, rows[:-1]))
        with pytest.raises(MaxsearchError, match="holds 29 products and 30 were pushed"):
            push(client, open_snapshot(tmp_path), options)
    with monkeypatch.context() as wrong:
        insert = client.insert
        wrong.setattr(
            client, "insert", lambda name, rows: insert(name, [{**row, "row": 29 - row["row"]} for row in rows])
        )
        with pytest.raises(MaxsearchError, match=r"recall@10 of 0\.\d+ against exact search, below --min-recall 0.95"):
            push(client, open_snapshot(tmp_path), options)
    assert engine_of(client, lite, alias).generation == first
    assert [one.facts.state == LOADING for one in collections_of(client, alias)] == [False, True]


def test_what_cannot_be_pushed(client: Any, store: Path, tmp_path: Path) -> None:
    snapshot = open_snapshot(store)
    with pytest.raises(UsageError, match="Milvus-Lite has no SCANN"):
        push(client, snapshot, replace(PUSH, index="SCANN"))
    with pytest.raises(UsageError, match="--attributes size is no attribute of the index: it has colour"):
        push(client, snapshot, replace(PUSH, attributes=("size",)))
    for options, said in (
        ({"alias": "a b"}, "--alias 'a b'"),
        ({"index": "IVF"}, "--index-type IVF is not known"),
        ({"min_recall": 0.0}, "--min-recall 0"),
        ({"keep": -1}, "--keep -1"),
    ):
        with pytest.raises(UsageError, match=said):
            replace(PUSH, **options)
    publish(tmp_path, [Product("x" * 2000, "a title")])
    with pytest.raises(UsageError, match="has 2,000 bytes in product_id, and Milvus takes 1,024"):
        push(client, open_snapshot(tmp_path), replace(PUSH, alias="long"))
    assert served(client, "long") is None
    [left] = collections_of(client, "long")
    client.drop_collection(left.name)


def test_names_of_attributes_become_names_of_fields() -> None:
    kinds = {
        "größe": Kind.TEXT,
        "gr__e": Kind.INT,
        "a b": Kind.LIST,
        "a-b": Kind.BOOL,
        "A b": Kind.DATE,
        "in": Kind.TEXT,
    }
    fields = fields_of({"variant": Kind.TEXT, **kinds})
    names = [field.name for field in fields.values()]
    assert set(fields) == {"variant", *kinds}
    assert len({name.lower() for name in names}) == len(names)
    assert all(name.isascii() and name.isidentifier() for name in names)
    facts = Facts("a", "g", "m", 2, 1, "now", fields, None, "HNSW", 64, 0.99)
    assert Facts.of(facts.property()) == facts
    assert Facts.of({"maxsearch": "{"}) is None
    with pytest.raises(UsageError, match="has 60 attributes and a Milvus collection has room for 56"):
        fields_of({f"a{n}": Kind.TEXT for n in range(60)})
    assert set(fields_of({f"a{n}": Kind.TEXT for n in range(60)}, ["a7"])) == {"variant", "a7"}


def test_an_index_folder_has_a_name_of_its_content(store: Path) -> None:
    snapshot = open_snapshot(next((store / "generations").iterdir()))
    assert generation_of(snapshot) == snapshot.generation
    moved = replace(snapshot, index=replace(snapshot.index, folder=Path("/elsewhere/index")))
    assert generation_of(moved).startswith(f"{snapshot.generation}-")


def test_another_model_or_alias_is_refused(client: Any, lite: MilvusOptions, engine: MilvusEngine) -> None:
    with pytest.raises(MaxsearchError, match="was embedded by model"):
        engine_of(client, lite, "shop", FakeEncoder.make(seed=1))
    with pytest.raises(MaxsearchError, match="has no alias nothing: push a generation"):
        engine_of(client, lite, "nothing")


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, said in (
        (MilvusOptions(), "no Milvus is named"),
        (MilvusOptions(uri="a.db", timeout=0.0), "the timeout of Milvus is 0 seconds"),
        (MilvusOptions(uri=str(tmp_path / "absent" / "a.db")), "its folder does not exist"),
        (MilvusOptions(uri="ftp://127.0.0.1:1"), "is illegal"),
    ):
        with pytest.raises(UsageError, match=said):
            connect(options, {})
    with pytest.raises(UnavailableError, match="cannot be reached to open"):
        connect(MilvusOptions(uri=f"http://127.0.0.1:{free_port()}", timeout=5.0), {})
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(UsageError, match=r"pip install 'maxsearch\[milvus\]'"):
        connect(MilvusOptions(uri="http://127.0.0.1:1"), {})


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """A real gRPC server in another process: searches are refused while it is away, and answered when it is back."""
    publish(tmp_path / "store", products(30))
    port = free_port()
    options = MilvusOptions(uri=f"http://127.0.0.1:{port}", alias="shop", timeout=60.0)
    ask = {"query": QUERY, "k": 3}
    with ExitStack() as stack:
        with lite_server(tmp_path / "data", port):
            push(connect(options, {}), open_snapshot(tmp_path / "store"), replace(PUSH, index="HNSW"))
            engine = MilvusEngine.open(replace(options, timeout=2.0), ENCODER, max_batch=1)
            app = create_app(engine, ServeOptions(max_batch=1, refresh_seconds=60.0), Keys())
            http = stack.enter_context(TestClient(app, base_url="http://127.0.0.1"))
            until(lambda: http.get("/readyz").status_code == 200)
            answered = http.post("/v1/search", json=ask).json()
            assert [hit["product_id"] for hit in answered["hits"]] == truth(products(30), QUERY)[:3]
            assert answered["exact"] is False
        for body in (ask, {"product_id": "p3"}):
            refused = http.post("/v1/search", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["message"].startswith("Milvus cannot be reached to ")
        assert http.post("/v1/products/delete", json={"product_ids": ["p1"]}).status_code == 503
        with lite_server(tmp_path / "data", port):
            until(lambda: http.post("/v1/search", json=ask).status_code == 200)
            assert http.post("/v1/search", json=ask).json()["hits"] == answered["hits"]
            assert http.post("/v1/products/delete", json={"product_ids": ["p1"]}).json()["products"] == 1


def until(happened: Callable[[], bool]) -> None:
    """Waits for something that comes within a minute."""
    for _ in range(600):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")
