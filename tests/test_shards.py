"""An index in shards: the answers are those of the whole, writes and generations too."""

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.cli import main
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.engines.ray.options import RayOptions
from maxsearch.serving.engines.ray.shards import open_engine
from maxsearch.serving.filters.cursors import GoneCursorError
from maxsearch.serving.shards.engine import ShardedEngine
from maxsearch.serving.shards.folder import ShardedFolder, shard_of
from maxsearch.serving.shards.split import split
from maxsearch.serving.shards.state import ShardState
from maxsearch.serving.shop.answer import Answer, Engine, Hybrid, NotFoundError, UnavailableError, Wanted
from maxsearch.serving.shop.engine import StoreEngine
from tests.serving_fakes import FakeEncoder
from tests.shard_fakes import LocalShards
from tests.test_http import message, served
from tests.test_shop import ENCODER, products, publish, vector

SHARDS = 3
# Equal titles without a picture have equal scores, in whichever shards they are.
CATALOGUE = [
    *products(48),
    *(Product(f"same{n}", "navy hat", variant=f"w{n % 2}", attributes={"colour": "navy"}) for n in range(12)),
]
LATER = [
    Product("late1", "olive shoes late one", attributes={"colour": "olive", "price": "12"}, texts=("suede",)),
    Product("p3", "red belt late two", (b"\3",), variant="v9", attributes={"colour": "red", "price": "90"}),
    Product("late3", "navy hat late three", variant="w0", attributes={"colour": "navy"}),
]


class Matcher(FakeEncoder):
    """The same vectors, and a matching head that looks at titles and pictures."""

    matches = True
    image_edge = 16

    def match(self, queries: Sequence[str], products: Sequence[Product], pairs: np.ndarray) -> np.ndarray:
        return np.array(
            [zlib.crc32(f"{queries[q]} {products[p].title} {products[p].image!r}".encode()) for q, p in pairs],
            np.float32,
        )


MATCHER = Matcher(ENCODER.params, ENCODER.config, ENCODER.tokenizer)


def both(folder: Path) -> tuple[StoreEngine, ShardedEngine]:
    publish(folder / "store", CATALOGUE)
    split(folder / "store", SHARDS, folder / "shards")
    return StoreEngine.open(folder / "store", MATCHER), opened(folder / "shards", MATCHER)


def opened(shards: Path, encoder: FakeEncoder = ENCODER) -> ShardedEngine:
    return ShardedEngine(shards, LocalShards(shards), encoder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoreEngine, ShardedEngine]:
    """One store and its shards, both written to alike."""
    engines = both(tmp_path_factory.mktemp("pair"))
    for engine in engines:
        engine.upsert(LATER[:2])
        engine.upsert(LATER[2:])
        engine.delete(["p5", "same4", "absent"])
    return engines


def said(answer: Answer) -> Any:
    """All of an answer but where it comes from."""
    return replace(answer, generation="", cursor=answer.cursor and "more", scanned=0)


def pages(engine: Engine, text: str, wanted: Wanted, most: int = 4) -> list[Any]:
    found, cursor = [], None
    for _ in range(most):
        answer = engine.search(vector(text), replace(wanted, text=text, cursor=cursor))
        found.append(said(answer))
        cursor = answer.cursor
        if cursor is None:
            break
    return found


FILTERS = st.sampled_from(
    [
        None,
        {"eq": {"field": "colour", "value": "navy"}},
        {"not": {"eq": {"field": "colour", "value": "red"}}},
        {"and": [{"range": {"field": "price", "gte": 10}}, {"eq": {"field": "in_stock", "value": True}}]},
        {"or": [{"missing": {"field": "price"}}, {"range": {"field": "price", "lt": 3}}]},
        {"eq": {"field": "price", "value": 1000}},
    ]
)
BOOSTS = st.lists(
    st.sampled_from(
        [
            {"filter": {"eq": {"field": "colour", "value": "olive"}}, "factor": 1.5, "add": 0.01},
            {"field": "price", "low": 0, "high": 60, "weight": 0.3},
        ]
    ),
    max_size=2,
    unique_by=str,
)
HYBRIDS = st.sampled_from([None, None, Hybrid(), Hybrid("weights", 0.3, 0.7), Hybrid("weights", 0.0, 1.0)])
SEARCHES = st.builds(
    Wanted,
    k=st.integers(1, 30),
    filter=FILTERS,
    facets=st.sampled_from([(), ("colour", {"field": "price", "edges": [0, 10, 50]})]),
    collapse=st.booleans(),
    boosts=BOOSTS,
    pins=st.dictionaries(st.sampled_from(["p7", "late1", "same2", "p5"]), st.integers(1, 12), max_size=1),
    without=st.sampled_from([frozenset(), frozenset({"p1", "late3"})]),
    hybrid=HYBRIDS,
    refine=st.booleans(),
    rerank=st.sampled_from([0, 0, 7]),
)


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(["navy hat", "red leather shoes", "olive suede", "zzz"]), wanted=SEARCHES)
def test_shards_answer_as_the_whole_does(pair: tuple[StoreEngine, ShardedEngine], text: str, wanted: Wanted) -> None:
    whole, shards = pair
    assert pages(shards, text, wanted) == pages(whole, text, wanted)


def test_a_plain_search_asks_every_shard_once(pair: tuple[StoreEngine, ShardedEngine]) -> None:
    shards = pair[1]
    assert isinstance(shards, Engine)
    transport = shards._shards
    assert isinstance(transport, LocalShards)
    transport.asked.clear()
    shards.search(vector(), Wanted(k=10, facets=("colour",)))
    assert transport.asked == ["find"]


def test_the_rest_of_an_engine_is_that_of_the_whole(pair: tuple[StoreEngine, ShardedEngine]) -> None:
    whole, shards = pair
    shards.warm_up()
    assert (shards.products, shards.dim, shards.fingerprint) == (whole.products, whole.dim, whole.fingerprint)
    assert list(shards.fields) == list(whole.fields)
    for product_id in ("p3", "late1", "same2"):
        np.testing.assert_array_equal(shards.vector_of(product_id), whole.vector_of(product_id))
        assert shards.picture(product_id) == whole.picture(product_id)
    with pytest.raises(NotFoundError):
        shards.vector_of("p5")
    for bad, sentence in (
        ({"filter": {"eq": {"field": "color", "value": "red"}}}, "did you mean 'colour'"),
        ({"cursor": "x"}, "no cursor that a search returned"),
        ({"pins": {"p1": 1, "p2": 1}}, "pins"),
    ):
        with pytest.raises(UsageError, match=sentence):
            shards.search(vector(), Wanted(**{"k": 5, **bad}))


def test_a_product_stays_with_its_shard_for_ever() -> None:
    assert [shard_of(one, 4) for one in ("p1", "Gürtel", "same2", "")] == [1, 0, 2, 0]
    assert {shard_of(f"p{n}", 7) for n in range(200)} == set(range(7))


def test_a_write_is_seen_by_every_replica_and_kept(tmp_path: Path) -> None:
    _, shards = both(tmp_path)
    assert shards.upsert(LATER) == 3
    assert shards.delete(["p0", "absent"]) == 1
    for _ in range(4):  # both replicas in turn
        hits = shards.search(vector("red belt late two"), Wanted(k=60)).hits
        assert hits[0].product_id == "p3"
        assert "p0" not in {hit.product_id for hit in hits}
    assert shards.products == len(CATALOGUE) + 1
    again = opened(tmp_path / "shards")
    for wanted in (Wanted(k=7), Wanted(k=60, hybrid=Hybrid())):
        assert pages(again, "navy hat", wanted, 9) == pages(shards, "navy hat", wanted, 9)
    other = opened(tmp_path / "shards")
    other.delete(["p1"])
    shards.refresh()
    with pytest.raises(NotFoundError):
        shards.vector_of("p1")
    with pytest.raises(UsageError, match="stands twice"):
        shards.upsert([LATER[0], LATER[0]])


def test_a_generation_is_taken_up_by_all_shards_with_the_writes_since(tmp_path: Path) -> None:
    _, shards = both(tmp_path)
    shards.upsert(LATER)
    shards.delete(["p0"])
    page = shards.search(vector(), Wanted(k=5))
    before = shards.generation
    publish(tmp_path / "new", products(30, "new"))
    split(tmp_path / "new", SHARDS, tmp_path / "shards")
    # Until it turns, every shard answers of the generation that the others do.
    old = shards.search(vector(), Wanted(k=200))
    assert (old.generation, {hit.title.endswith("new") for hit in old.hits}) == (before, {False})
    assert shards.refresh()
    assert not shards.refresh()
    new = shards.search(vector(), Wanted(k=200))
    late = {one.product_id for one in LATER}
    assert new.generation != before
    assert {hit.product_id for hit in new.hits} == {f"p{n}" for n in range(1, 30)} | late
    assert {hit.title.endswith("new") for hit in new.hits if hit.product_id not in late} == {True}
    with pytest.raises(GoneCursorError):
        shards.search(vector(), Wanted(k=5, cursor=page.cursor))


def test_a_write_to_a_generation_that_is_gone_goes_to_the_next(tmp_path: Path) -> None:
    _, shards = both(tmp_path)
    split(tmp_path / "store", SHARDS, tmp_path / "shards", keep=0)
    assert shards.upsert(LATER) == 3
    assert shards.generation == ShardedFolder(tmp_path / "shards").current()
    assert opened(tmp_path / "shards").products == len(CATALOGUE) + 2


def test_shards_are_compacted_and_split_anew(tmp_path: Path) -> None:
    _, shards = both(tmp_path)
    shards.upsert(LATER)
    shards.delete(["p0"])
    found = pages(shards, "navy hat", Wanted(k=20), 9)
    split(tmp_path / "shards", SHARDS, tmp_path / "shards")
    folder = ShardedFolder(tmp_path / "shards")
    assert not any(ShardState.writes(folder.log(folder.current(), shard)) for shard in range(SHARDS))
    assert shards.refresh()
    assert pages(shards, "navy hat", Wanted(k=20), 9) == found
    split(tmp_path / "shards", 2, tmp_path / "two")
    two = opened(tmp_path / "two")
    assert pages(two, "navy hat", Wanted(k=20, hybrid=Hybrid()), 9) == pages(
        shards, "navy hat", Wanted(k=20, hybrid=Hybrid()), 9
    )


def test_what_cannot_be_split_or_served_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "store", CATALOGUE)
    shards = ["--index", str(tmp_path / "store"), "--out", str(tmp_path / "shards")]
    main(["index", "shard", *shards, "--shards", "2"])
    assert "60 products in 2 shards" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    for arguments, sentence in (
        ([*shards, "--shards", "3"], "is served in 2 shards"),
        ([*shards, "--shards", "0"], "--shards 0"),
        (["--index", str(tmp_path / "store"), "--shards", "60", "--out", str(tmp_path / "x")], "without any"),
        (["--index", str(tmp_path / "store"), "--shards", "2", "--out", str(tmp_path / "other")], "holds no shards"),
        (["--index", str(tmp_path / "none"), "--shards", "2", "--out", str(tmp_path / "x")], "none"),
    ):
        with pytest.raises(SystemExit):
            main(["index", "shard", *arguments])
        error = capsys.readouterr().err
        assert sentence in error
        assert "Traceback" not in error
    with pytest.raises(MaxsearchError, match="no shards at"):
        ShardedFolder(tmp_path / "store").current()
    with pytest.raises(MaxsearchError, match="split another index"):
        opened(tmp_path / "shards", FakeEncoder.make(seed=1))
    folder = ShardedFolder(tmp_path / "shards")
    items = folder.path(folder.current()) / "shard-001" / "items.parquet"
    items.write_bytes(items.read_bytes()[:-1] + b"x")
    with pytest.raises(MaxsearchError, match="was altered"):
        LocalShards(tmp_path / "shards")


def test_a_split_that_is_killed_leaves_what_is_served_and_runs_again(tmp_path: Path) -> None:
    _, shards = both(tmp_path)
    before = shards.generation
    body = (
        "import os, signal, sys; from pathlib import Path\n"
        "from maxsearch.serving.shards import split as s\n"
        "s.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"s.split(Path({str(tmp_path / 'store')!r}), {SHARDS}, Path({str(tmp_path / 'shards')!r}))\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    assert subprocess.run([sys.executable, "-c", body], env=environment).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "shards" / "generations").iterdir())) == 2
    assert not shards.refresh()
    assert opened(tmp_path / "shards").generation == before
    common = split(tmp_path / "store", SHARDS, tmp_path / "shards", keep=0)
    assert [path.name for path in (tmp_path / "shards" / "generations").iterdir()] == [common.generation]


def test_an_answer_is_never_without_a_shard(tmp_path: Path) -> None:
    publish(tmp_path / "store", CATALOGUE)
    split(tmp_path / "store", SHARDS, tmp_path / "shards")

    class Broken(LocalShards):
        down = False

        def ask(self, method: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
            if self.down:
                raise UnavailableError("shard 1 of 3 does not answer: ask again in a second")
            return super().ask(method, arguments)

    transport = Broken(tmp_path / "shards")
    engine = ShardedEngine(tmp_path / "shards", transport, ENCODER)
    transport.down = True
    with pytest.raises(UnavailableError, match="shard 1 of 3"):
        engine.search(vector(), Wanted(k=5))
    with pytest.raises(UnavailableError, match="send them all again"):
        engine.upsert(LATER)
    assert not engine.refresh()
    transport.down = False
    with served(engine) as client:
        transport.down = True
        refused = client.post("/v1/search", json={"vector": vector().tolist()})
        assert message(refused, 503) == "shard 1 of 3 does not answer: ask again in a second"
        assert int(refused.headers["retry-after"]) >= 1
        transport.down = False
        assert client.post("/v1/search", json={"vector": vector().tolist()}).status_code == 200


def test_ray_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "store", products(8))
    split(tmp_path / "store", 2, tmp_path / "shards")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'maxsearch\[ray\]'"):
        open_engine(tmp_path / "shards", ENCODER, RayOptions())
