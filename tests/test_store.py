import json
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.build import build_index
from maxsearch.serving.index import IndexOptions
from maxsearch.serving.store import generations as generations_module
from maxsearch.serving.store import store as store_module
from maxsearch.serving.store.generations import StoreFolder
from maxsearch.serving.store.publish import build_generation, publish_folder
from maxsearch.serving.store.store import Store, open_snapshot
from tests.serving_fakes import FakeEncoder
from tests.store_fakes import DIM, NumberEncoder, contents, make_index, make_store, titled, upsert
from tests.test_index import many, needs_scann

MODEL = NumberEncoder().fingerprint
FIRST = {f"p{i}": titled(i * 37) for i in range(8)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    make_store(tmp_path / "store", FIRST)
    return Store.open(tmp_path / "store")


def test_writes_are_in_the_next_snapshot_and_not_in_those_before(store: Store) -> None:
    before = store.snapshot()
    assert store.upsert([upsert("p1", "3 3 3 3"), upsert("new", "1 1 1 1")], MODEL) == 1
    between = store.snapshot()
    assert store.delete(["p0", "new", "never there"]) == 2
    assert store.upsert([upsert("p1", "2 2 2 2")], MODEL) == 3
    assert contents(before) == FIRST
    assert contents(between) == {**FIRST, "p1": "3 3 3 3", "new": "1 1 1 1"}
    left = {name: title for name, title in FIRST.items() if name != "p0"}
    assert contents(store.snapshot()) == {**left, "p1": "2 2 2 2"}
    assert contents(Store.open(store.folder).snapshot()) == contents(store.snapshot())
    assert store.snapshot().row("new") is None and store.snapshot().row("p0") is None


def test_two_snapshots_that_go_on_from_one_do_not_share_what_comes_after(store: Store) -> None:
    other = Store.open(store.folder)
    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    kept = store.snapshot()
    other.upsert([upsert("b", "0 1 0 0")], MODEL)  # takes up a, then b
    assert contents(kept) == {**FIRST, "a": "1 0 0 0"}
    assert contents(store.refresh()) == contents(other.snapshot()) == {**FIRST, "a": "1 0 0 0", "b": "0 1 0 0"}


def test_k_survive_however_many_of_the_best_are_deleted(tmp_path: Path) -> None:
    make_store(tmp_path / "store", {f"p{i}": f"{i} 0 0 0" for i in range(400)})
    store = Store.open(tmp_path / "store")
    store.delete([f"p{i}" for i in range(5, 400)])
    rows, scores = store.snapshot().search(np.array([[1, 0, 0, 0]], np.float32), 4)
    assert [item.product_id for item in store.snapshot().take(rows[0].tolist())] == ["p4", "p3", "p2", "p1"]
    assert scores[0].tolist() == [4, 3, 2, 1]
    store.delete([f"p{i}" for i in range(5)])
    rows, _ = store.snapshot().search(np.ones((2, DIM), np.float32), 3)
    assert (rows == -1).all() and len(store.snapshot()) == 0


def test_compaction_keeps_content_and_writes_that_came_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.upsert([upsert("a", "1 0 0 0"), upsert("p2", "0 0 0 3")], MODEL)
    store.delete(["p3"])
    expected = {**FIRST, "a": "1 0 0 0", "p2": "0 0 0 3"}
    del expected["p3"]
    real = store_module.compacted

    def slow(*arguments: object) -> object:
        Store.open(store.folder).upsert([upsert("late", "0 2 0 0"), upsert("a", "0 0 2 0")], MODEL)
        return real(*arguments)

    monkeypatch.setattr(store_module, "compacted", slow)
    before = store.snapshot()
    after = store.compact()
    assert after.generation > before.generation
    assert contents(after) == {**expected, "late": "0 2 0 0", "a": "0 0 2 0"}
    assert len(after.index.items) == len(expected)
    assert len(after.delta.rows) == 2
    monkeypatch.undo()
    assert contents(store.compact()) == contents(after)
    assert not store.snapshot().delta.changed
    assert store.compact().generation == store.snapshot().generation  # nothing to do
    assert store.upsert([upsert("z", "1 1 1 1")], MODEL) == 4


def test_a_published_catalogue_takes_on_all_writes_that_it_does_not_say_to_contain(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module.time, "time", lambda: 1000.0)
    store.upsert([upsert("a", "1 0 0 0"), upsert("p1", "0 0 0 1")], MODEL)
    store.delete(["p0"])
    store.compact()
    monkeypatch.setattr(store_module.time, "time", lambda: 2000.0)
    store.delete(["p7"])
    new = {f"p{i}": titled(i * 11) for i in range(12)}
    index = make_index(tmp_path / "index", new)
    carried = {**new, "a": "1 0 0 0", "p1": "0 0 0 1"}
    del carried["p0"], carried["p7"]
    assert contents(store.publish(index)) == carried
    only_later = dict(new)
    del only_later["p7"]
    assert contents(store.publish(index, as_of=1500.0)) == only_later
    assert contents(store.publish(index, as_of=2000.0)) == new
    assert (tmp_path / "index").is_dir()


def test_rollback_serves_the_older_generation_with_the_writes_since(store: Store, tmp_path: Path) -> None:
    first = store.snapshot().generation
    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    compacted = store.compact().generation
    store.delete(["p5"])
    new = {"x": "1 2 3 3", "p5": "0 0 0 1"}
    store.publish(make_index(tmp_path / "index", new))
    assert contents(store.snapshot()) == {"x": "1 2 3 3", "a": "1 0 0 0"}
    expected = {**FIRST, "a": "1 0 0 0"}
    del expected["p5"]
    for name, snapshot in ((compacted, store.roll_back()), (first, store.roll_back())):
        assert snapshot.generation == name
        assert contents(snapshot) == expected
    with pytest.raises(UsageError, match=f"has no generation before {first}"):
        store.roll_back()
    with pytest.raises(UsageError, match=f"has no generation 'nope': it has {first}, {compacted}"):
        store.roll_back("nope")
    assert contents(store.roll_back(compacted)) == expected


def test_older_generations_and_writes_that_none_needs_are_removed(store: Store, tmp_path: Path) -> None:
    index = make_index(tmp_path / "index", FIRST)
    store.upsert([upsert("a", "1 0 0 0"), upsert("b", "1 0 0 1")], MODEL)
    store.upsert([upsert("a", "2 0 0 0")], MODEL)
    held = store.snapshot()
    folder = StoreFolder(store.folder)
    store.compact(keep=0)
    # A catalogue without the writes may yet come, so the last write to each product stays.
    assert [[one.item.product_id for one in write.upserts] for write in folder.writes()] == [["b"], ["a"]]
    assert len(list((store.folder / "generations").iterdir())) == 1
    contents(held)  # removed files stay readable for who holds them
    store.publish(index, as_of=datetime.now(UTC).timestamp() + 60, keep=0)
    assert folder.writes() == []
    assert contents(store.snapshot()) == FIRST
    assert store.upsert([upsert("c", "0 0 0 1")], MODEL) == 3
    for _ in range(3):
        store.publish(index)
    assert len(folder.pointer().generations) == 3
    assert len(folder.prune(1).generations) == 2
    assert contents(store.refresh()) == {**FIRST, "c": "0 0 0 1"}


def test_writers_of_two_processes_see_one_order(store: Store) -> None:
    other = Store.open(store.folder)
    numbers = [
        one.upsert([upsert("a", f"{value} 0 0 0")], MODEL) for value, one in enumerate((store, other, store, other))
    ]
    assert numbers == [1, 2, 3, 4]
    assert contents(store.refresh()) == contents(other.refresh()) == {**FIRST, "a": "3 0 0 0"}


def test_readers_never_see_a_mixture_while_generations_and_writes_come(store: Store, tmp_path: Path) -> None:
    # Every state has one version in all its titles, so a mixture would show two.
    def version(number: int) -> dict[str, str]:
        return {f"p{i}": f"{i % 3} {number % 4} {number} 0" for i in range(8)}

    shutil.rmtree(store.folder)
    make_store(tmp_path / "store", version(0))
    store, done, seen = Store.open(tmp_path / "store"), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            snapshot = store.snapshot()
            seen.append({title.split()[2] for title in contents(snapshot).values()})

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 10):
        if number % 3 == 0:
            store.publish(make_index(tmp_path / f"index{number}", version(number)), as_of=1e12)
        else:
            store.upsert([upsert(name, title) for name, title in version(number).items()], MODEL)
            store.compact()
    done.set()
    for reader in readers:
        reader.join()
    assert seen and all(len(versions) == 1 for versions in seen)


def test_upserts_that_an_index_cannot_hold_are_refused_and_leave_no_trace(store: Store) -> None:
    good = upsert("a", "1 1 1 1")
    bad = {
        "was built with model f{12} and this model is other": ([good], "other"),
        r"product 'b' \(number 2 of the call\) has a vector of shape \(2,\) and the index holds vectors of 4 numbers": (
            [good, upsert("b", "1 1")],
            MODEL,
        ),
        r"product 'b' .* has a vector that is not finite": ([upsert("b", "1 nan 1 1")], MODEL),
        r"product 'a' \(number 2 of the call\) stands twice in one call": ([good, good], MODEL),
        "product 1 of the call has no id": ([upsert("", "1 1 1 1")], MODEL),
        "the write holds no product": ([], MODEL),
    }
    for expected, (upserts, model) in bad.items():
        with pytest.raises(MaxsearchError, match=expected):
            store.upsert(upserts, model)
    assert contents(store.snapshot()) == contents(Store.open(store.folder).snapshot()) == FIRST


def test_a_generation_of_another_model_waits_for_writes_that_it_cannot_score(store: Store, tmp_path: Path) -> None:
    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    store.delete(["p0"])
    index = make_index(tmp_path / "index", FIRST, NumberEncoder("e" * 64))
    with pytest.raises(
        MaxsearchError, match=r"1 products, such as 'a', were upserted with another model than e{12} .* --as-of, or"
    ):
        store.publish(index)
    store.delete(["a"])
    left = {name: title for name, title in FIRST.items() if name != "p0"}
    assert contents(store.publish(index)) == left  # deletes need no vector
    store.upsert([upsert("b", "1 0 0 0")], "e" * 64)
    with pytest.raises(MaxsearchError, match=r"such as 'b', were upserted with another model than f{12}"):
        store.roll_back()
    assert contents(Store.open(store.folder).snapshot()) == {**left, "b": "1 0 0 0"}


def test_a_kill_between_a_generation_of_another_size_and_its_log_leaves_a_store_that_opens(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    store.delete(["a", "p1"])
    encoder = NumberEncoder("e" * 64)
    encoder.dim = 2
    index = make_index(tmp_path / "index", {"p1": "1 2", "p2": "3 1"}, encoder)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generations_module, "replace_log", killed)
        store.publish(index)
    for snapshot in (store.refresh(), Store.open(store.folder).snapshot()):
        assert len(snapshot) == 1 and snapshot.row("p2") == 1 and snapshot.row("a") is None


def test_a_compaction_gives_way_to_a_generation_that_came_meanwhile(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(tmp_path / "index", {"x": "1 2 3 3"})
    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    real = store_module.compacted

    def overtaken(*arguments: object) -> object:
        with pytest.raises(UsageError, match=r"the compaction of --store .* is in use by another process"):
            Store.open(store.folder).compact()
        publish_folder(store.folder, index)
        return real(*arguments)

    monkeypatch.setattr(store_module, "compacted", overtaken)
    with pytest.raises(MaxsearchError, match=r"another generation of the store .* was published during the compaction"):
        store.compact()
    assert contents(store.refresh()) == {"x": "1 2 3 3", "a": "1 0 0 0"}
    names = {one.name for one in StoreFolder(store.folder).pointer().generations}
    assert {path.name for path in (store.folder / "generations").iterdir()} == names


def test_a_build_that_misses_its_recall_is_not_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.snapshot().generation
    encoder = FakeEncoder.make()
    options = IndexOptions(vectors="int8", min_recall=1.0)
    with pytest.raises(
        MaxsearchError,
        match=r"finds 0\.\d+ of the true first 10 of 256 queries and --min-recall asks for 1, so",
    ):
        build_generation(encoder, many(3000), store.folder, options)
    assert store.refresh().generation == before
    monkeypatch.setattr(encoder, "_text", encoder.encode_queries)  # fails: the vectors are kept for the next try
    monkeypatch.setattr(encoder, "encode_queries", lambda queries: FakeEncoder.make().encode_queries(queries))
    build_generation(encoder, many(3000), store.folder, IndexOptions(vectors="int8", min_recall=0.8))
    assert store.refresh().index.manifest["recall"]["recall@10"] >= 0.8
    assert not (store.folder / "parts").exists()


@needs_scann
@pytest.mark.parametrize("vectors", ["float32", "int8"])
def test_a_scann_generation_is_overwritten_deleted_and_compacted(tmp_path: Path, vectors: str) -> None:
    encoder, products = FakeEncoder.make(), many(1500)
    build_generation(encoder, products, tmp_path / "store", IndexOptions("scann", vectors))
    store = Store.open(tmp_path / "store")
    query = encoder.encode_queries(["red leather shoes"])

    def found() -> list[str]:
        snapshot = store.snapshot()
        return [item.product_id for item in snapshot.take(snapshot.search(query, 10)[0][0].tolist())]

    best = found()
    store.delete(best[:9])
    (batch,) = encoder.encode_products(products[:1])
    after = found()
    assert after[0] == best[9] and not set(after) & set(best[:9])
    codes = store.snapshot().index.vectors.codes[:].copy()
    alive = ~store.snapshot().delta.dead
    store.compact()
    assert store.snapshot().index.manifest["index"]["kind"] == "scann"
    assert set(found()) == set(after)
    np.testing.assert_array_equal(store.snapshot().index.vectors.codes, codes[alive])
    store.delete(store.snapshot().index.ids[:600])
    assert store.compact().index.manifest["index"]["kind"] == "exact"
    assert len(batch.products) == 1


def test_every_product_deleted_is_a_state_but_no_generation(store: Store) -> None:
    store.delete(FIRST)
    assert contents(store.snapshot()) == {}
    with pytest.raises(MaxsearchError, match="every product of the store was deleted"):
        store.compact()
    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    assert contents(store.compact()) == {"a": "1 0 0 0"}


def test_a_folder_is_searched_as_a_store_is(tmp_path: Path) -> None:
    make_store(tmp_path / "store", FIRST)
    snapshot = open_snapshot(make_index(tmp_path / "index", FIRST))
    assert snapshot.generation == "index"
    assert contents(snapshot) == contents(open_snapshot(tmp_path / "store")) == FIRST


def test_what_is_no_store_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(MaxsearchError, match=r"no store at .*absent: build one with `maxsearch index build --store`"):
        Store.open(tmp_path / "absent")
    index = make_index(tmp_path / "index", FIRST)
    for place in (index, index / "manifest.json"):
        with pytest.raises(UsageError, match="exists and is no store: name a new folder"):
            publish_folder(place, index)
        with pytest.raises(UsageError, match="exists and is no store: name a new folder"):
            build_generation(NumberEncoder(), [], place)
    with pytest.raises(MaxsearchError, match=r"no index folder at .*absent"):
        store.publish(tmp_path / "absent")
    with pytest.raises(UsageError, match="--keep -1 is no number of generations"):
        store.publish(index, keep=-1)


DAMAGE = {
    "not JSON": (lambda value: "{", "is not valid JSON"),
    "other kind": (lambda value: json.dumps({**value, "kind": "x"}), "is 'x' of schema version 1"),
    "points nowhere": (lambda value: json.dumps({**value, "current": "x"}), "points to 'x', which it does not list"),
    "no generations": (lambda value: json.dumps({**value, "generations": None}), "is not what this maxsearch wrote"),
    "no list": (lambda value: "[]", "is not what this maxsearch wrote"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_pointer_is_refused_and_the_snapshot_stays(store: Store, name: str) -> None:
    damage, expected = DAMAGE[name]
    path = store.folder / "CURRENT"
    good = path.read_text()
    path.write_text(damage(json.loads(good)))
    with pytest.raises(MaxsearchError, match=expected):
        store.refresh()
    assert contents(store.snapshot()) == FIRST
    path.write_text(good)
    assert contents(store.refresh()) == FIRST


def test_a_damaged_generation_is_refused_and_the_snapshot_stays(store: Store, tmp_path: Path) -> None:
    generation = StoreFolder(store.folder).path(make_store(store.folder, {"x": "1 2 3 3"}))
    good = (generation / "vectors.npy").read_bytes()
    (generation / "vectors.npy").write_bytes(good[:-1] + b"\1")
    with pytest.raises(MaxsearchError, match=r"vectors\.npy was altered"):
        store.refresh()
    assert contents(store.snapshot()) == FIRST
    (generation / "vectors.npy").write_bytes(good)
    assert contents(store.refresh()) == {"x": "1 2 3 3"}
    # A copy whose bytes changed on the way is not published.
    index = make_index(tmp_path / "index", FIRST)
    (index / "items.parquet").write_bytes(b"")
    with pytest.raises(MaxsearchError, match=r"items.parquet holds 0 bytes"):
        store.publish(index)


def test_a_flip_is_flushed_file_first_then_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(stream: int) -> None:
        events.append("flush " + Path(f"/proc/self/fd/{stream}").readlink().name)
        fsync(stream)

    def moved(path: Path, target: Path) -> Path:
        events.append("move to " + target.name)
        return replace(path, target)

    store.upsert([upsert("a", "1 0 0 0")], MODEL)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", moved)
    name = store.compact().generation
    flip = events.index("move to CURRENT")
    before, after = events[:flip], events[flip + 1 :]
    assert before.index("flush vectors.npy") < before.index(f"move to {name}") < before.index("flush generations")
    assert before[-1].startswith("flush .CURRENT.")
    assert after[0] == "flush store"


def test_concurrent_upserts_of_one_process_are_all_kept(store: Store) -> None:
    def work(number: int) -> None:
        for i in range(5):
            store.upsert([upsert(f"t{number}-{i}", titled(number * 5 + i))], MODEL)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"t{number}-{i}": titled(number * 5 + i) for number in range(4) for i in range(5)}
    assert contents(Store.open(store.folder).snapshot()) == contents(store.snapshot()) == {**FIRST, **expected}


def test_a_build_of_two_catalogues_at_once_is_refused(tmp_path: Path) -> None:
    from maxsearch.serving.build import EmbeddingJob, work_folder

    with (
        EmbeddingJob(work_folder(tmp_path / "index")),
        pytest.raises(UsageError, match=r"the embedding job .* is in use by another process"),
    ):
        build_index(NumberEncoder(), [], tmp_path / "index")
