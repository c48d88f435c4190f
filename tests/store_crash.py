"""Kills processes that write to a store, and looks at what the next one finds.

python -m tests.store_crash FOLDER KILLS SEED

Each trial forks a process that writes, tells what was acknowledged, and kills itself with SIGKILL before, after or in
the middle of a chosen system call, or is killed at a random time. Another process then opens the store: it must serve
a whole generation with every acknowledged write, and of the one that was under way all or nothing.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset  # noqa: F401 - the first reader of a Parquet file imports it: once here, not in each process

from maxsearch.serving import embedding
from maxsearch.serving.index import open_index
from maxsearch.serving.store.generations import StoreFolder
from maxsearch.serving.store.publish import publish_folder
from maxsearch.serving.store.store import Store
from tests.store_fakes import NumberEncoder, contents, make_index, make_store, titled, upsert

CALLS = ("fsync", "replace", "rename", "pwrite", "ftruncate", "unlink", "rmdir", "mkdir", "open")
ACTIONS = ("build", "publish", "upsert", "compact", "delete", "rollback", "prune")
PRODUCTS = 10

Titles = dict[str, str]
Writes = dict[str, str | None]


class Trap:
    """Counts system calls from when it is armed, and ends the process at one of them."""

    def __init__(self) -> None:
        self.count, self.at, self.after = 0, 0, False
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def arm(self, at: int, after: bool) -> None:
        self.count, self.at, self.after = 0, at, after

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count != self.at:
                return call(*arguments, **named)
            if self.after:
                call(*arguments, **named)
            elif name == "pwrite":  # half of a record
                stream, content, place = arguments
                call(stream, content[: random.randrange(len(content))], place)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("alive")

        return trapped


def in_child(work: Callable[[Callable[[Any], None]], None], seconds: float | None = None) -> tuple[list[Any], bool]:
    """Runs `work(tell)` in a process of its own: what it told, and whether it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            work(lambda value: (os.write(write, (json.dumps(value) + "\n").encode()), None)[1])
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as stream:
        told = [json.loads(line) for line in stream if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    if not killed and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("the process failed")
    return told, killed


class Trials:
    """The store under test and what it must hold: catalogue by generation, and the last write to each id."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.store = folder, folder / "store"
        self.random = random.Random(seed)
        self.catalogues: dict[str, Titles] = {}
        self.writes: Writes = {}
        self.current = ""
        self.calls = dict.fromkeys(ACTIONS, 40)
        self.kills = dict.fromkeys(ACTIONS, 0)

    def begin(self) -> None:
        first = self.titles()
        told, _ = in_child(lambda tell: tell(make_store(self.store, first)))
        self.current = told[0]
        self.catalogues[self.current] = first

    def titles(self) -> Titles:
        some = self.random.sample(range(PRODUCTS), self.random.randint(5, PRODUCTS))
        return {f"p{i}": titled(self.random.randrange(7**4)) for i in some}

    def trial(self, action: str) -> None:
        quiet = self.some_writes()
        loud: Writes = self.some_writes() if action in ("upsert", "delete") else {}
        if action == "delete":
            loud = dict.fromkeys(loud)
        catalogue = self.titles()
        by_time = self.random.random() < 0.3
        at = 0 if by_time else self.random.randint(1, max(1, self.calls[action]))
        after = self.random.random() < 0.5
        if action == "publish":
            shutil.rmtree(self.folder / "index", ignore_errors=True)
            in_child(lambda tell: tell(str(make_index(self.folder / "index", catalogue))))

        def work(tell: Callable[[Any], None]) -> None:
            trap = Trap()
            store = Store.open(self.store)
            apply(store, quiet)
            tell("quiet")
            trap.arm(at, after)
            name = self.act(action, store, catalogue, loud)
            tell({"name": name, "calls": trap.count})

        told, killed = in_child(work, self.random.uniform(0.0, 0.15) if by_time else None)
        done = told[-1] if told and isinstance(told[-1], dict) else None
        if done is not None and not by_time:
            self.calls[action] = done["calls"]
        self.kills[action] += killed
        seen = in_child(self.look)[0][0]
        self.check(action, seen, bool(told), quiet, loud, done, catalogue)

    def some_writes(self) -> Writes:
        some = self.random.sample(range(PRODUCTS + 4), self.random.randint(1, 4))
        return {f"p{i}": titled(self.random.randrange(7**4)) if self.random.random() < 0.7 else None for i in some}

    def act(self, action: str, store: Store, catalogue: Titles, loud: Writes) -> str:
        if action == "build":
            return make_store(self.store, catalogue)
        if action == "publish":
            return publish_folder(self.store, self.folder / "index").name
        if action in ("upsert", "delete"):
            apply(store, loud)
        elif action == "compact":
            store.compact()
        elif action == "rollback" and len(StoreFolder(self.store).pointer().generations) > 1:
            names = [one.name for one in StoreFolder(self.store).pointer().generations]
            store.roll_back(names[0])
        elif action == "prune":
            StoreFolder(self.store).prune(1)
        return store.refresh().generation

    def look(self, tell: Callable[[Any], None]) -> None:
        store = Store.open(self.store)
        names = [one.name for one in StoreFolder(self.store).pointer().generations]
        for name in names:
            open_index(StoreFolder(self.store).path(name))  # whole, by its checksums
        tell({"current": store.snapshot().generation, "names": names, "titles": contents(store.snapshot())})

    def check(
        self,
        action: str,
        seen: dict[str, Any],
        acknowledged: bool,
        quiet: Writes,
        loud: Writes,
        done: dict[str, Any] | None,
        catalogue: Titles,
    ) -> None:
        for name in seen["names"]:
            if name not in self.catalogues:
                assert action in ("build", "publish", "compact"), f"{action} made generation {name}"
                self.catalogues[name] = self.catalogues[self.current] if action == "compact" else catalogue
        if done is not None:
            assert seen["current"] == done["name"], "an acknowledged generation is not served"
        else:
            assert seen["current"] == self.current or action in ("build", "publish", "compact", "rollback")
        both = dict(loud)
        possible = [{**self.writes, **quiet, **both}] if done is not None else []
        if done is None:
            # What `quiet` wrote is two calls, so it may end between them.
            puts = {name: title for name, title in quiet.items() if title is not None}
            more = {name: title for name, title in both.items() if title is not None}
            steps = [quiet, {**quiet, **more}, {**quiet, **both}]
            if not acknowledged:
                steps = [{}, puts, *steps]
            possible = [{**self.writes, **step} for step in steps]
        beneath = self.catalogues[seen["current"]]
        for writes in possible:
            if {name: title for name, title in {**beneath, **writes}.items() if title is not None} == seen["titles"]:
                self.writes, self.current = writes, seen["current"]
                return
        raise SystemExit(f"{action}: found {seen['titles']} and allowed were {possible} on {beneath}")


def apply(store: Store, writes: Writes) -> None:
    model = NumberEncoder().fingerprint
    puts = [upsert(name, title) for name, title in writes.items() if title is not None]
    gone = [name for name, title in writes.items() if title is None]
    if puts:
        store.upsert(puts, model)
    if gone:
        store.delete(gone)


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    embedding.PART = 3  # a build of several parts
    trials = Trials(folder, seed)
    trials.begin()
    number = 0
    while sum(trials.kills.values()) < kills:
        trials.trial(ACTIONS[number % len(ACTIONS)])
        number += 1
        if number > 20 * kills + 50:
            raise SystemExit("hardly any process is killed")
    left = {path.name for path in trials.store.iterdir()}
    names = json.loads((trials.store / "CURRENT").read_text())["generations"]
    print(json.dumps({"trials": number, "kills": trials.kills, "left": sorted(left), "generations": len(names)}))


if __name__ == "__main__":
    main()
