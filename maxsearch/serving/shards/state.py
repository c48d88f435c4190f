"""One generation of one shard, open: its index, the writes since, and the numbers that its rows have among all shards.

A row of the generation has the number that its product had in the whole catalogue, so that products with equal scores
stand in the order that they have without shards. A product that came later has a number behind those, by its place
in the shard's log: it is the same in every replica of the shard, and after a restart.

Letters: N rows.
"""

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from maxsearch.errors import MaxsearchError
from maxsearch.files import locked
from maxsearch.serving.hybrid.lexical import open_lexical
from maxsearch.serving.index import LoadedIndex, open_index
from maxsearch.serving.shards.folder import Sharded, ShardedFolder
from maxsearch.serving.shop.view import Generation, View
from maxsearch.serving.store.delta import Delta
from maxsearch.serving.store.log import WriteLog
from maxsearch.serving.store.snapshot import Snapshot
from maxsearch.serving.store.writes import Upsert, Write, net, require_upserts


class MovedError(Exception):
    """The generation is not served any more, or is gone."""


@dataclass(frozen=True)
class Seen:
    """A state of a shard, as a search sees it.

    Attributes:
      view: what is searched.
      numbers: of its rows among all shards, ascending [N].
    """

    view: View
    numbers: Int64[np.ndarray, " N"]

    @property
    def sequence(self) -> int:
        """Of the last write that it holds."""
        return self.view.snapshot.delta.sequence

    def rows(self, numbers: Int64[np.ndarray, " n"]) -> list[int]:
        """The rows that have these numbers."""
        return np.searchsorted(self.numbers, numbers).tolist()


class ShardState:
    """One generation of a shard; safe for several threads, and for other processes that write to the same shard."""

    def __init__(self, folder: ShardedFolder, common: Sharded, shard: int, index: LoadedIndex) -> None:
        self.common = common
        self._folder, self._shard = folder, shard
        order = np.load(folder.path(common.generation) / f"order-{shard:03}.npy", allow_pickle=False)
        self._log = WriteLog(folder.log(common.generation, shard))
        self._mutex = threading.RLock()
        self._later: list[int] = []  # numbers of the rows of the delta
        self._time = 0.0
        self._upserts = 0  # in the log, those that were void before they were read too
        snapshot = Snapshot(common.generation, index, Delta.empty(index))
        generation = Generation.of(snapshot)
        self._seen = Seen(View.of(snapshot, generation), order)
        self._order = order
        self.refresh()

    @classmethod
    def open(cls, folder: ShardedFolder, common: Sharded, shard: int) -> "ShardState":
        """Opens a shard after checking its files.

        Raises:
          MovedError: the generation is gone.
          MaxsearchError: it was damaged.
        """
        path = folder.path(common.generation)
        try:
            index = open_index(path / f"shard-{shard:03}")
            if common.lexical:
                index = replace(index, lexical=open_lexical(path / f"lexical-{shard:03}"))
            return cls(folder, common, shard, index)
        except (OSError, MaxsearchError):
            if common.generation not in folder.names():
                raise MovedError(common.generation) from None
            raise

    @staticmethod
    def writes(path: Path) -> list[Write]:
        """All that a shard's log holds."""
        log = WriteLog(path)
        try:
            return [Write.unpack(record) for record in log.read()[1]]
        finally:
            log.close()

    def seen(self, at_least: int = 0) -> Seen:
        """The latest state that is known here, or one that holds at least the write of this sequence number."""
        seen = self._seen
        return seen if seen.sequence >= at_least else self.refresh()

    def view(self) -> View:
        """The view of the latest state."""
        return self._seen.view

    def view_numbers(self) -> Int64[np.ndarray, " N"]:
        """The numbers of its rows."""
        return self._seen.numbers

    def refresh(self) -> Seen:
        """Takes up what others wrote.

        Raises:
          MovedError: the generation is gone.
          MaxsearchError: the log is damaged; the state stays the one before.
        """
        with self._mutex:
            try:
                anew, records = self._log.read()
            except MaxsearchError:
                if self.common.generation not in self._folder.names():
                    raise MovedError(self.common.generation) from None
                raise
            if anew and self._seen.sequence:
                snapshot = replace(self._seen.view.snapshot, delta=Delta.empty(self._index))
                self._later, self._upserts = [], 0
                self._seen = Seen(View.of(snapshot, self._seen.view.generation), self._order)
            if records:
                self._take_up([Write.unpack(record) for record in records])
            return self._seen

    def write(self, upserts: tuple[Upsert, ...], deletes: tuple[str, ...]) -> int:
        """Puts products in and takes products out; on disk when it returns.

        Returns:
          How many of the deleted were there.

        Raises:
          MovedError: another generation is served.
          MaxsearchError: a product cannot be held.
        """
        generation = self.common.generation
        require_upserts(upserts, self.common.dim)
        with self._mutex, locked(self._log_folder, flag="--store", wait=True):
            if self._folder.current() != generation:
                raise MovedError(generation)
            snapshot = self.refresh().view.snapshot
            count = sum(snapshot.row(product_id) is not None for product_id in set(deletes))
            model = self.common.fingerprint if upserts else ""
            self._time = max(self._time, time.time())
            write = Write(snapshot.delta.sequence + 1, self._time, model, upserts, tuple(dict.fromkeys(deletes)))
            try:
                self._log.append(write.pack())
            except BaseException:
                self._log.close()  # whether the write happened is read from the log again
                raise
            self._take_up([write])
            return count

    @property
    def _index(self) -> LoadedIndex:
        return self._seen.view.snapshot.index

    @property
    def _log_folder(self) -> Path:
        return self._folder.log(self.common.generation, self._shard).parent

    def _take_up(self, writes: list[Write]) -> None:
        places = {}
        for write in writes:
            for one in write.upserts:
                places[write.sequence, one.item.product_id] = self._upserts
                self._upserts += 1
            self._time = max(self._time, write.time)
        kept = net(writes)
        view = self._seen.view
        snapshot = replace(view.snapshot, delta=view.snapshot.delta.after(kept, self._index))
        snapshot = replace(snapshot, delta=replace(snapshot.delta, sequence=writes[-1].sequence))
        self._later += [
            self.common.count + places[write.sequence, one.item.product_id] * self.common.shards + self._shard
            for write in kept
            for one in write.upserts
        ]
        numbers = np.concatenate([self._order, np.array(self._later, np.int64)])
        self._seen = Seen(View.of(snapshot, view.generation), numbers)
