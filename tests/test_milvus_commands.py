"""`index push` and `serve --engine milvus`: what they print, and how they refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxsearch.encode import Encoder
from maxsearch.serving.http import server
from maxsearch.serving.shop.answer import Wanted
from tests import tiny
from tests.milvus_fakes import ENCODER, free_port, products, publish, truth, vector

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "from_model", lambda folder: ENCODER)


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    tiny.quiet(*words)
    return capsys.readouterr().out


def test_from_a_push_to_a_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, uri = tmp_path / "store", tmp_path / "milvus.db"
    push = ("index", "push", "--uri", uri, "--alias", "shop")
    first = publish(store, products(20, "first"))
    told = said(capsys, *push, "--index", store, "--attributes", "colour")
    assert told.startswith(f"shop at {uri}: generation {first}, 20 products, HNSW, recall@10 1.0000, collection shop_")
    second = publish(store, products(20, "second"))
    assert f"generation {second}, 20 products, IVF_FLAT" in said(
        capsys, *push, "--index", store, "--index-type", "IVF_FLAT"
    )
    assert f"generation {first}" in said(capsys, *push, "--rollback")
    assert f"generation {second}" in said(capsys, *push, "--to", second)
    assert tiny.fails(capsys, *push, "--to", "x") == (
        2,
        f"maxsearch: --to x is no generation under the alias shop: Milvus has {first}, {second}",
    )

    def serve(engine: Any, options: object, keys: object, announce: Callable[[str], None]) -> None:
        announce("http://here/")
        found = engine.search(vector("red shoes"), Wanted(3)).hits
        print(*(hit.product_id for hit in found))

    monkeypatch.setattr(server, "serve", serve)
    asked = ("serve", "--engine", "milvus", "--milvus.uri", uri, "--milvus.alias", "shop", "--model", "model")
    told = said(capsys, *asked)
    assert (
        told == f"serving shop of {uri} on http://here/\n{' '.join(truth(products(20, 'second'), 'red shoes')[:3])}\n"
    )


FAILURES = {
    "nothing to serve": (("index", "push", "--uri", "a.db"), 2, "say what to serve with one of --index, --rollback"),
    "two things": (("index", "push", "--uri", "a.db", "--rollback", "--to", "x"), 2, "say what to serve with one of"),
    "no index": (("index", "push", "--uri", "a.db", "--index", "absent"), 1, "no index folder at absent"),
    "no recall": (
        ("index", "push", "--uri", "a.db", "--index", "store", "--min-recall", "2"),
        2,
        "--min-recall 2 is no recall",
    ),
    "no server": (("index", "push", "--uri", "NOWHERE", "--rollback"), 1, "Milvus cannot be reached to open http://"),
    "serve from nowhere": (
        ("serve", "--engine", "milvus", "--milvus.uri", "NOWHERE"),
        1,
        "Milvus cannot be reached to open http://",
    ),
    "serve what": (("serve", "--engine", "milvus"), 2, "no Milvus is named: give the URI of a server"),
    "serve no alias": (
        ("serve", "--engine", "milvus", "--milvus.uri", "a.db", "--milvus.alias", "other"),
        1,
        "has no alias other: push a generation with `maxsearch index push`",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words, code, expected = FAILURES[name]
    if "store" in words:
        publish(tmp_path / "store", products(3))
    nowhere = f"http://127.0.0.1:{free_port()}"
    found, message = tiny.fails(capsys, *(nowhere if word == "NOWHERE" else word for word in words))
    assert (found, expected in message) == (code, True), message
