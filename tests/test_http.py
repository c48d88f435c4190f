"""The service: what it answers, and what it refuses and how."""

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.http.app import create_app
from maxsearch.serving.http.batching import MicroBatcher
from maxsearch.serving.http.guard import Buckets
from maxsearch.serving.http.keys import Keys
from maxsearch.serving.http.options import Limits, ServeOptions
from maxsearch.serving.http.query_cache import QueryCache
from maxsearch.serving.http.refusal import Refusal
from maxsearch.serving.http.server import require_keys
from maxsearch.serving.shop.answer import Engine
from tests.serving_engine import FakeEngine

READ, ADMIN = "r" * 32, "a" * 32
OPTIONS = ServeOptions(refresh_seconds=0.02)


def keys() -> Keys:
    return Keys.read(None, {"MAXSEARCH_READ_KEY": READ, "MAXSEARCH_ADMIN_KEY": ADMIN})


@contextmanager
def served(engine: FakeEngine, options: ServeOptions = OPTIONS, known: Keys | None = None) -> Iterator[TestClient]:
    with TestClient(create_app(engine, options, known or Keys()), base_url="http://127.0.0.1") as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        yield client


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with served(engine) as client:
        yield client


def png(width: int = 4, height: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(stream, "PNG")
    return stream.getvalue()


def message(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return response.json()["error"]["message"]


def test_the_fake_is_an_engine(engine: FakeEngine) -> None:
    assert isinstance(engine, Engine)


def test_search_by_text_ranks_and_tells_generation_and_model(client: TestClient, engine: FakeEngine) -> None:
    answer = client.post("/v1/search", json={"query": "red leather shoes", "k": 2}).json()
    assert answer["hits"][0]["product_id"] == "p1"
    assert len(answer["hits"]) == 2
    assert (answer["generation"], answer["model"]) == ("g1", engine.fingerprint)
    assert {"encode", "rank", "total"} == set(answer["milliseconds"])


def test_search_by_product_vector_and_picture(client: TestClient, engine: FakeEngine) -> None:
    similar = client.post("/v1/search", json={"product_id": "p1", "k": 10}).json()
    assert "p1" not in {hit["product_id"] for hit in similar["hits"]}
    vector = (7 * engine.vector_of("p2")).tolist()
    assert client.post("/v1/search", json={"vector": vector}).json()["hits"][0]["product_id"] == "p2"
    image = base64.b64encode(png()).decode()
    plain = client.post("/v1/search", json={"image": image}).json()
    upload = client.post("/v1/search/upload", files={"image": png()}, data={"search": '{"k": 10}'}).json()
    assert plain["hits"] == upload["hits"]


def test_filter_and_facets_pass_through(client: TestClient) -> None:
    body = {"query": "shoes", "filter": {"in": {"field": "colour", "values": ["navy"]}}, "facets": ["colour"]}
    answer = client.post("/v1/search", json=body).json()
    assert [hit["product_id"] for hit in answer["hits"]] == ["p4"]
    assert answer["facets"] == {"colour": [{"value": "navy", "count": 1}]}
    assert "no such operator" in message(client.post("/v1/search", json={**body, "filter": {"near": 1}}), 422)


def test_a_batch_answers_in_order(client: TestClient) -> None:
    searches = [{"query": "red leather shoes", "k": 1}, {"query": "blue cotton shirt", "k": 1}]
    answers = client.post("/v1/search/batch", json={"searches": searches}).json()["answers"]
    assert [answer["hits"][0]["product_id"] for answer in answers] == ["p1", "p2"]
    bad = {"searches": [*searches, {"query": "x", "product_id": "y"}]}
    assert "one of these" in message(client.post("/v1/search/batch", json=bad), 422)


def test_upsert_and_delete_show_in_the_next_search(client: TestClient) -> None:
    product = {"product_id": "new", "title": "purple velvet hat", "images": [base64.b64encode(png()).decode()]}
    assert client.post("/v1/products", json={"products": [product]}).json()["products"] == 1
    search = {"query": "purple velvet hat", "k": 1}
    assert client.post("/v1/search", json=search).json()["hits"][0]["product_id"] == "new"
    assert client.get("/v1/picture", params={"product_id": "new"}).headers["content-type"] == "image/jpeg"
    assert client.post("/v1/products/delete", json={"product_ids": ["new", "absent"]}).json()["products"] == 1
    assert client.post("/v1/search", json=search).json()["hits"][0]["product_id"] != "new"
    assert message(client.get("/v1/picture", params={"product_id": "new"}), 404)


def test_a_new_generation_is_served_without_a_restart(client: TestClient, engine: FakeEngine) -> None:
    engine.published = "g2"
    for _ in range(200):
        if client.get("/readyz").json()["generation"] == "g2":
            break
        time.sleep(0.01)
    assert client.post("/v1/search", json={"query": "shoes"}).json()["generation"] == "g2"
    assert 'maxsearch_generation_info{generation="g2"' in client.get("/metrics").text


def test_not_ready_until_warm_and_alive_meanwhile(engine: FakeEngine) -> None:
    engine.held.clear()
    with TestClient(create_app(engine, OPTIONS, Keys()), base_url="http://127.0.0.1") as client:
        assert client.get("/livez").status_code == 200
        assert "starting" in message(client.get("/readyz"), 503)
        refused = client.post("/v1/search", json={"query": "shoes"})
        assert message(refused, 503)
        assert refused.headers["retry-after"] == "1"
        engine.held.set()
        for _ in range(200):
            if client.get("/readyz").status_code == 200:
                break
            time.sleep(0.01)
        assert client.post("/v1/search", json={"query": "shoes"}).status_code == 200


def test_an_engine_that_fails_its_own_test_never_becomes_ready(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise MaxsearchError("the vectors are not finite")

    monkeypatch.setattr(engine, "warm_up", broken)
    with TestClient(create_app(engine, OPTIONS, Keys()), base_url="http://127.0.0.1") as client:
        for _ in range(200):
            if "not finite" in caplog.text:
                break
            time.sleep(0.01)
        assert client.get("/readyz").status_code == 503
    assert "not ready: the vectors are not finite" in caplog.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "one of these"),
        ({"query": "x", "vector": [1.0]}, "one of these"),
        ({"query": "  "}, "the query is empty"),
        ({"query": "x", "k": 0}, "greater than or equal to 1"),
        ({"query": "x", "k": 1001}, "give 1,000 or fewer"),
        ({"query": "x" * 2001}, "give 2,000 or fewer"),
        ({"query": "x", "kk": 1}, "Extra inputs"),
        ({"vector": [1.0]}, "the model's have 24"),
        ({"vector": [0.0] * 24}, "no direction"),
        ({"image": "no base64"}, "no base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "not a JPEG, PNG or WebP"),
        ({"query": "x", "text_weight": 0}, "both 0"),
        ({"query": "\ud800"}, "surrogate"),
        ({"query": "x", "filter": {"eq": ["\udfff"]}}, "surrogate"),
    ],
)
def test_what_a_search_may_not_be(client: TestClient, body: dict[str, object], said: str) -> None:
    response = client.post("/v1/search", content=json.dumps(body), headers={"content-type": "application/json"})
    assert said in message(response, 422)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_vector_with_a_number_that_is_none(client: TestClient, number: str) -> None:
    body = f'{{"vector": [{", ".join([number] * 24)}]}}'
    message(client.post("/v1/search", content=body, headers={"content-type": "application/json"}), 422)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff", b'{"k": ' + b"9" * 5000 + b"}", b""])
def test_a_body_that_is_no_json(client: TestClient, content: bytes) -> None:
    response = client.post("/v1/search", content=content, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


def test_a_picture_that_would_fill_the_memory(client: TestClient) -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    response = client.post("/v1/search/upload", files={"image": stream.getvalue()})
    assert "more than 50,000,000 pixels" in message(response, 422)


def test_large_bodies_are_refused_with_and_without_a_length(engine: FakeEngine) -> None:
    with served(engine, replace(OPTIONS, limits=Limits(body_bytes=1000))) as client:
        body = json.dumps({"query": "x" * 2000}).encode()
        kind = {"content-type": "application/json"}
        assert "1,000 bytes" in message(client.post("/v1/search", content=body, headers=kind), 413)
        chunks = iter([body[:500], body[500:]])
        assert "1,000 bytes" in message(client.post("/v1/search", content=chunks, headers=kind), 413)


@pytest.mark.parametrize("identifier", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "%ff", "."])
def test_an_identifier_is_never_a_path(client: TestClient, identifier: str) -> None:
    assert client.get(f"/v1/picture?product_id={identifier}").status_code in (404, 422)
    assert client.get(f"/page/{identifier}").status_code == 404
    assert message(client.post("/v1/search", json={"product_id": "../../etc/passwd"}), 404)


def test_keys_decide_who_reads_and_who_changes(engine: FakeEngine) -> None:
    with served(engine, known=keys()) as client:
        search = {"query": "shoes"}
        refused = client.post("/v1/search", json=search)
        assert "no key" in message(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"
        wrong = {"authorization": "Bearer " + READ[:-1] + "x"}
        assert message(client.post("/v1/search", json=search, headers=wrong), 401)
        reader = {"authorization": f"Bearer {READ}"}
        assert client.post("/v1/search", json=search, headers=reader).status_code == 200
        delete = {"product_ids": ["p1"]}
        assert "may only read" in message(client.post("/v1/products/delete", json=delete, headers=reader), 403)
        assert client.post("/v1/products/delete", json=delete, headers={"x-api-key": ADMIN}).status_code == 200
        assert message(client.get("/metrics"), 401)
        assert client.get("/livez").status_code == 200
        assert client.get("/").status_code == 200


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(UsageError, match="does not exist"):
        Keys.read(path, {})
    path.write_text(f"# ours\nread {READ}\nadmin {ADMIN}\n")
    path.chmod(0o644)
    with pytest.raises(MaxsearchError, match="chmod 600"):
        Keys.read(path, {})
    path.chmod(0o600)
    found = Keys.read(path, {}).role_of(ADMIN)
    assert found is not None
    assert found.role == "admin"
    assert ADMIN not in repr(found)
    path.write_text("write KEY\n")
    with pytest.raises(MaxsearchError, match="line 1 is not"):
        Keys.read(path, {})
    path.write_text("read short\n")
    with pytest.raises(MaxsearchError, match="16 or more"):
        Keys.read(path, {})


def test_other_machines_need_a_key() -> None:
    with pytest.raises(UsageError, match="no key"):
        require_keys(ServeOptions(host="0.0.0.0"), Keys())
    require_keys(ServeOptions(host="0.0.0.0"), keys())
    for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        require_keys(ServeOptions(host=host), Keys())


def test_loopback_without_keys_answers_to_its_own_names_only(client: TestClient) -> None:
    assert message(client.get("/livez", headers={"host": "evil.example"}), 421)
    assert client.get("/livez", headers={"host": "localhost:8080"}).status_code == 200
    assert client.get("/livez", headers={"host": "[::1]:8080"}).status_code == 200


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in ("/", "/livez", "/absent"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_too_many_requests() -> None:
    buckets = Buckets(Limits(rate=2.0, burst=3))
    for _ in range(3):
        buckets.take("one", 0.0)
    with pytest.raises(Refusal, match="1 s") as refusal:
        buckets.take("one", 0.1)
    assert refusal.value.status_code == 429
    buckets.take("other", 0.1)
    buckets.take("one", 1.0)


def test_a_full_queue_is_refused_and_the_others_are_answered(engine: FakeEngine) -> None:
    limits = Limits(queue=2)
    with served(engine, replace(OPTIONS, limits=limits, max_batch=1)) as client:
        engine.held.clear()
        codes: list[int] = []

        def ask(n: int) -> None:
            codes.append(client.post("/v1/search", json={"query": f"shoes {n}"}).status_code)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        while codes.count(503) < 5:
            time.sleep(0.01)
        engine.held.set()
        for thread in threads:
            thread.join()
        assert sorted(codes) == [200] * 3 + [503] * 5


def test_a_question_asked_before_needs_no_encoder(client: TestClient, engine: FakeEngine) -> None:
    for _ in range(3):
        client.post("/v1/search", json={"query": "red shoes"})
    assert sum(engine.batches) == 1
    assert 'maxsearch_query_cache_total{result="hit"} 2.0' in client.get("/metrics").text


def test_the_cache_lets_go_of_the_oldest() -> None:
    cache = QueryCache(2)
    for name in ("a", "b"):
        cache.put(name, np.ones(2, np.float32))
    assert cache.get("a") is not None
    cache.put("c", np.ones(2, np.float32))
    assert (cache.get("b"), len(cache)) == (None, 2)


def test_what_waits_together_is_encoded_together() -> None:
    sizes = []

    def encode(items: list[int]) -> np.ndarray:
        sizes.append(len(items))
        time.sleep(0.05)
        return np.array([[item, 0] for item in items], np.float32)

    async def run() -> list[np.ndarray]:
        batcher: MicroBatcher[int] = MicroBatcher(encode, max_batch=8, max_wait=0.0, max_queue=100)
        batcher.start()
        try:
            return await asyncio.gather(*(batcher.encode(n) for n in range(20)))
        finally:
            await batcher.stop()

    vectors = asyncio.run(run())
    assert [vector[0] for vector in vectors] == list(range(20))
    assert sizes == [8, 8, 4]


def test_an_encoder_that_fails_fails_only_its_batch() -> None:
    def encode(items: list[int]) -> np.ndarray:
        if 1 in items:
            raise ValueError("broken")
        return np.zeros((len(items), 2), np.float32)

    async def run() -> None:
        batcher: MicroBatcher[int] = MicroBatcher(encode, max_batch=1, max_wait=0.0, max_queue=100)
        batcher.start()
        found = await asyncio.gather(*(batcher.encode(n) for n in range(3)), return_exceptions=True)
        await batcher.stop()
        assert isinstance(found[1], ValueError)
        assert found[0].shape == found[2].shape == (2,)

    asyncio.run(run())


def test_an_unexpected_error_is_a_sentence_and_a_log_line(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "search", lambda *_: 1 / 0)
    app = create_app(engine, OPTIONS, Keys())
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        assert "log says why" in message(client.post("/v1/search", json={"query": "x"}), 500)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"port": 70000}, "--port 70000"),
        ({"max_batch": 0}, "--max-batch"),
        ({"refresh_seconds": 0.0}, "--refresh-seconds"),
    ],
)
def test_options_are_checked(flags: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ServeOptions(**flags)
    with pytest.raises(UsageError, match=r"--limits\.k 0"):
        Limits(k=0)
