"""Any sequence of calls leaves a store with what a dict would hold."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.store.generations import StoreFolder
from maxsearch.serving.store.store import Store
from tests.store_fakes import NumberEncoder, contents, make_index, make_store, titled, upsert

MODEL = NumberEncoder().fingerprint
ids = st.sampled_from([f"p{i}" for i in range(6)])
titles = st.integers(0, 7**4 - 1).map(titled)
catalogues = st.dictionaries(ids, titles, min_size=1)


class StoreMachine(RuleBasedStateMachine):
    """`writes` is the last write to each id that a catalogue did not take in; a catalogue beneath them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="maxsearch-store-"))
        first = {"p0": titled(5), "p1": titled(9)}
        make_store(self.folder / "store", first)
        self.store = Store.open(self.folder / "store")
        self.other = Store.open(self.folder / "store")
        self.beneath: dict[str, dict[str, str]] = {self.store.snapshot().generation: first}
        # Of each generation: what was written since the catalogue that it was made of.
        self.since: dict[str, dict[str, str | None]] = {self.store.snapshot().generation: {}}
        self.index = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def wrote(self, changes: dict[str, str | None]) -> None:
        for writes in self.since.values():
            writes.update(changes)

    def expected(self) -> dict[str, str]:
        current = self.store.snapshot().generation
        merged = {**self.beneath[current], **self.since[current]}
        return {product_id: title for product_id, title in merged.items() if title is not None}

    def forget(self) -> None:
        kept = {one.name for one in StoreFolder(self.folder / "store").pointer().generations}
        self.beneath = {name: value for name, value in self.beneath.items() if name in kept}
        self.since = {name: value for name, value in self.since.items() if name in kept}

    @rule(batch=st.dictionaries(ids, titles, min_size=1, max_size=3), mine=st.booleans())
    def upsert(self, batch: dict[str, str], mine: bool) -> None:
        store = self.store if mine else self.other
        store.upsert([upsert(product_id, title) for product_id, title in batch.items()], MODEL)
        self.wrote(dict(batch))

    @rule(gone=st.lists(ids, min_size=1, max_size=3), mine=st.booleans())
    def delete(self, gone: list[str], mine: bool) -> None:
        (self.store if mine else self.other).delete(gone)
        self.wrote(dict.fromkeys(gone))

    @rule(mine=st.booleans(), keep=st.integers(0, 2))
    def compact(self, mine: bool, keep: int) -> None:
        before = self.store.refresh().generation
        store = self.store if mine else self.other
        if not self.expected() and store.refresh().delta.changed:
            with pytest.raises(MaxsearchError, match="every product of the store was deleted"):
                store.compact(keep=keep)
            return
        after = store.compact(keep=keep).generation
        if after != before:
            self.beneath[after], self.since[after] = self.beneath[before], dict(self.since[before])
        self.forget()

    @rule(catalogue=catalogues, newest=st.booleans(), keep=st.integers(0, 2))
    def publish(self, catalogue: dict[str, str], newest: bool, keep: int) -> None:
        self.index += 1
        before = self.store.refresh().generation
        index = make_index(self.folder / f"index{self.index}", catalogue)
        after = self.store.publish(index, as_of=1e12 if newest else None, keep=keep).generation
        # Without --as-of all that the log retains is applied: at least what is not in the catalogue of `before`.
        self.beneath[after] = catalogue
        self.since[after] = {} if newest else self.retained(before)
        self.forget()

    def retained(self, before: str) -> dict[str, str | None]:
        oldest = min(self.since, key=lambda name: (-len(self.since[name]), name))
        return {**self.since[oldest], **self.since[before]}

    @rule()
    def roll_back(self) -> None:
        names = sorted(self.since)
        place = names.index(self.store.refresh().generation) - 1
        if place < 0:
            with pytest.raises(UsageError, match="has no generation before"):
                self.store.roll_back()
        else:
            assert self.store.roll_back().generation == names[place]

    @rule(keep=st.integers(0, 2))
    def prune(self, keep: int) -> None:
        StoreFolder(self.folder / "store").prune(keep)
        self.forget()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "store")

    @precondition(lambda self: self.folder.exists())
    @invariant()
    def holds_what_was_written(self) -> None:
        self.store.refresh()
        assert contents(self.store.snapshot()) == self.expected()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
