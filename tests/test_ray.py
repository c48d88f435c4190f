"""Shards on a real local Ray cluster: their answers, and what happens when a replica is killed under load."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.engines.ray.options import RayOptions
from maxsearch.serving.engines.ray.shards import RayShards, open_engine
from maxsearch.serving.shards.engine import ShardedEngine
from maxsearch.serving.shards.folder import ShardedFolder
from maxsearch.serving.shards.split import split
from maxsearch.serving.shop.answer import Hybrid, Wanted
from maxsearch.serving.shop.engine import StoreEngine
from tests.test_http import served
from tests.test_shards import CATALOGUE, LATER, said
from tests.test_shop import ENCODER, products, publish, vector

pytest.importorskip("ray", reason="needs Ray: pip install 'maxsearch[ray]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:os.fork"),  # Ray starts its processes from this one; they do not use its JAX
]

SHARDS = 2
OPTIONS = RayOptions(cpus=0.25)
WAIT = 120


@dataclass
class Cluster:
    folder: Path
    whole: StoreEngine
    engine: ShardedEngine

    @property
    def shards(self) -> RayShards:
        assert isinstance(self.engine._shards, RayShards)
        return self.engine._shards


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    publish(folder / "store", CATALOGUE)
    split(folder / "store", SHARDS, folder / "shards")
    engine = open_engine(folder / "shards", ENCODER, OPTIONS)
    yield Cluster(folder, StoreEngine.open(folder / "store", ENCODER), engine)
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()


class Load:
    """Searches from several threads until the block ends; what each answered or raised."""

    def __init__(self, search: Callable[[], Any], threads: int = 3) -> None:
        self.said: list[Any] = []
        self.failed: list[BaseException] = []
        self._search, self._threads, self._over = search, threads, threading.Event()

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(self._threads)
        for _ in range(self._threads):
            self._pool.submit(self._run)
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def more(self, count: int = 20) -> None:
        """Waits until as many further searches ended."""
        least, until = len(self.said) + len(self.failed) + count, time.monotonic() + WAIT
        while len(self.said) + len(self.failed) < least:
            assert time.monotonic() < until, "searches hang"
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.said.append(self._search())
            except Exception as error:
                self.failed.append(error)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_replicas_answer_as_the_whole_does_and_one_that_is_killed_is_not_missed(cluster: Cluster) -> None:
    engine, whole = cluster.engine, cluster.whole
    engine.warm_up()
    for wanted in (
        Wanted(k=60, facets=("colour",), filter={"range": {"field": "price", "gte": 10}}),
        Wanted(k=20, text="navy hat", hybrid=Hybrid(), collapse=True, pins={"p7": 2}),
    ):
        assert said(engine.search(vector(), wanted)) == said(whole.search(vector(), wanted))
    right = said(whole.search(vector(), Wanted(k=10)))
    processes = cluster.shards.processes(0)
    assert len(processes) == OPTIONS.replicas
    killed = processes.pop()
    with Load(lambda: engine.search(vector(), Wanted(k=10))) as load:
        os.kill(killed, signal.SIGKILL)
        load.more(60)
    assert load.failed == []
    assert all(said(one) == right for one in load.said)


def test_a_write_is_seen_and_a_generation_is_turned_to_as_a_whole_under_load(cluster: Cluster) -> None:
    engine = cluster.engine
    engine.upsert(LATER)
    for _ in range(8):  # whichever replica answers
        assert engine.search(vector("red belt late two"), Wanted(k=1)).hits[0].product_id == "p3"
    assert engine.delete(["p0"]) == 1
    with pytest.raises(UsageError, match="stands twice"):
        engine.upsert([LATER[0], LATER[0]])
    before, late = engine.generation, {one.product_id for one in LATER}
    with Load(lambda: engine.search(vector(), Wanted(k=200))) as load:
        publish(cluster.folder / "new", products(30, "new"))
        after = split(cluster.folder / "new", SHARDS, cluster.folder / "shards").generation
        assert engine.refresh()
        load.more()
    assert load.failed == []
    assert {answer.generation for answer in load.said} == {before, after}
    for answer in load.said:
        new = {hit.title.endswith("new") for hit in answer.hits if hit.product_id not in late}
        assert new == {answer.generation == after}
        assert len(answer.hits) == (len(CATALOGUE) + 1 if answer.generation == before else 31)


@pytest.mark.slow
def test_without_another_replica_searches_are_refused_until_it_is_back(cluster: Cluster, tmp_path: Path) -> None:
    split(cluster.folder / "store", SHARDS, tmp_path / "shards")
    engine = open_engine(tmp_path / "shards", ENCODER, replace(OPTIONS, replicas=1))
    right = [hit.product_id for hit in engine.search(vector(), Wanted(k=10)).hits]
    assert isinstance(engine._shards, RayShards)
    [process] = engine._shards.processes(1)
    body = {"vector": vector().tolist(), "k": 10}

    with served(engine) as client:

        def search() -> Any:
            answer = client.post("/v1/search", json=body)
            if answer.status_code == 503:
                time.sleep(0.2)  # a crowd that asks on takes the cores that the shard needs to come back
            return answer

        with Load(search) as load:
            os.kill(process, signal.SIGKILL)
            wait_for(lambda: any(one.status_code == 503 for one in load.said))
            wait_for(lambda: load.said[-1].status_code == 200)
        assert client.get("/readyz").status_code == 200
    assert load.failed == []
    refused = [one for one in load.said if one.status_code != 200]
    assert {one.status_code for one in refused} == {503}
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    assert {one.json()["error"]["message"] for one in refused} == {
        "shard 1 of 2 does not answer: ask again in a second"
    }
    for one in load.said:
        if one.status_code == 200:
            assert [hit["product_id"] for hit in one.json()["hits"]] == right
    assert engine._shards.processes(1) != {process}


def test_shards_that_cannot_be_served_are_told(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(MaxsearchError, match="no shards at"):
        open_engine(tmp_path, ENCODER, OPTIONS)
    split(cluster.folder / "store", SHARDS, tmp_path / "shards")
    folder = ShardedFolder(tmp_path / "shards")
    (folder.path(folder.current()) / "order-001.npy").unlink()
    with pytest.raises(MaxsearchError, match="is missing"):
        open_engine(tmp_path / "shards", ENCODER, OPTIONS)


@pytest.mark.parametrize("bad", [{"replicas": 0}, {"cpus": -1.0}, {"timeout": 0.0}])
def test_options_that_are_none_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--ray"):
        RayOptions(**bad)
