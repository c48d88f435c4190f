"""A store that is open: searched through snapshots, written to through its log, compacted into new generations."""

import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import locked
from maxsearch.manifest import MANIFEST
from maxsearch.serving.index import LoadedIndex, open_index
from maxsearch.serving.store.compaction import compacted
from maxsearch.serving.store.delta import Delta
from maxsearch.serving.store.generations import KEEP, Pointer, StoreFolder
from maxsearch.serving.store.log import WriteLog
from maxsearch.serving.store.publish import publish_folder
from maxsearch.serving.store.snapshot import Snapshot
from maxsearch.serving.store.writes import Upsert, Write, net, require_upserts

COMPACTION = "compaction"


class Store:
    """One process's view of a store. Safe to use from several threads; other processes may use the same store.

    A snapshot that was taken stays as it is, whatever happens to the store. What `upsert` and `delete` return from is
    on disk, and in every later snapshot of this process; another process sees it when it calls `refresh`.
    """

    def __init__(self, folder: Path, *, checksums: bool = True) -> None:
        self._folder, self._checksums = StoreFolder(folder), checksums
        self._log = WriteLog(self._folder.log)
        self._mutex = threading.RLock()
        self._opened: tuple[object, LoadedIndex] | None = None
        self._snapshot: Snapshot | None = None
        self._time = 0.0
        self._pointer = self._folder.pointer()
        self.refresh()

    @classmethod
    def open(cls, folder: Path, *, checksums: bool = True) -> "Store":
        """Opens a store: its current generation, and the writes that this lacks.

        Args:
          folder: the store.
          checksums: also compare the SHA-256 of each file of a generation when it is opened.

        Raises:
          MaxsearchError: no store, or one that was damaged.
        """
        return cls(folder, checksums=checksums)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder.folder

    def close(self) -> None:
        """Closes the log; snapshots stay of use."""
        with self._mutex:
            self._log.close()

    def snapshot(self) -> Snapshot:
        """The latest state that this process knows."""
        assert self._snapshot is not None
        return self._snapshot

    def refresh(self) -> Snapshot:
        """Takes up what other processes published and wrote.

        Raises:
          MaxsearchError: what they wrote is damaged; the snapshot stays the one before.
        """
        with self._mutex:
            try:
                pointer, index, anew, records = self._read()
                delta = Delta.empty(index) if anew or self._snapshot is None else self._snapshot.delta
                writes = [Write.unpack(record) for record in records]
                self._time = max([self._time, *(write.time for write in writes)])
                # What is void may be of another model, whose vectors this index cannot hold.
                delta = delta.after([one for one in net(writes) if one.sequence > pointer.served.contains], index)
                delta = replace(delta, sequence=max(delta.sequence, pointer.sequence))
            except BaseException:
                self._log.close()  # what was read of it and not taken up is read again
                raise
            self._pointer, self._snapshot = pointer, Snapshot(pointer.current, index, delta)
            return self._snapshot

    def upsert(self, upserts: Sequence[Upsert], model: str) -> int:
        """Puts products in, each in the place of one with its id: all of them, or none.

        Args:
          upserts: the products with their vectors.
          model: fingerprint of the model that embedded them.

        Returns:
          The write's sequence number; it is on disk.

        Raises:
          MaxsearchError: the vectors are of another model than the generation's, or a product cannot be held.
        """
        return self._write(Write(0, 0.0, model, tuple(upserts)))

    def delete(self, ids: Iterable[str]) -> int:
        """Takes products out; ids that the store does not have are remembered too.

        Returns:
          The write's sequence number; it is on disk.
        """
        return self._write(Write(0, 0.0, "", (), tuple(dict.fromkeys(ids))))

    def publish(self, folder: Path, *, as_of: float | None = None, keep: int = KEEP) -> Snapshot:
        """Copies an index folder into the store and serves it; see `publish_folder`."""
        publish_folder(self.folder, folder, as_of=as_of, keep=keep)
        return self.refresh()

    def roll_back(self, name: str | None = None) -> Snapshot:
        """Serves an earlier generation; see `StoreFolder.roll_back`."""
        self._folder.roll_back(name)
        return self.refresh()

    def compact(self, *, keep: int = KEEP) -> Snapshot:
        """Makes a generation of the current one and the writes since, and serves it; all else goes on meanwhile.

        Args:
          keep: how many generations are kept beside the new one.

        Raises:
          UsageError: another compaction is running.
          MaxsearchError: no product would be left, another generation was published meanwhile, or the recall is below
            what the generation was built to have.
        """
        work = self.folder / COMPACTION
        with locked(work, flag="the compaction of --store"):
            try:
                snapshot, base = self.refresh(), self._pointer.served
                if snapshot.delta.changed:
                    self._folder.add(
                        lambda draft: compacted(snapshot, draft, work / "vectors.npy"),
                        made_by="compact",
                        base=base,
                        contains=snapshot.delta.sequence,
                        keep=keep,
                    )
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return self.refresh()

    def _write(self, write: Write) -> int:
        if not write.upserts and not write.deletes:
            raise UsageError("the write holds no product: name at least one")
        self.refresh()  # before others wait: it takes long when another generation is to be opened
        with self._mutex, self._folder.lock():
            snapshot = self.refresh()
            if write.upserts:
                snapshot.index.require_model(write.model)
                require_upserts(write.upserts, snapshot.index.manifest["dim"])
            self._time = max(self._time, time.time())
            write = replace(write, sequence=snapshot.delta.sequence + 1, time=self._time)
            try:
                self._log.append(write.pack())
                self._snapshot = replace(snapshot, delta=snapshot.delta.after([write], snapshot.index))
            except BaseException:
                self._log.close()  # whether the write happened is read from the log again
                raise
            return write.sequence

    def _read(self) -> tuple[Pointer, LoadedIndex, bool, list[bytes]]:
        """The pointer, its index, and the records that have come, or all of them when the index or the log is another.

        The pointer is read again after the log: when a new generation came in between, the log may lack records that
        the older one needs.
        """
        while True:
            pointer = self._folder.pointer()
            try:
                index = self._index(pointer.current)
            except (OSError, MaxsearchError):
                if self._folder.pointer() == pointer:
                    raise
                continue  # it was removed while it was read
            if self._snapshot is None or index is not self._snapshot.index:
                self._log.close()
            anew, records = self._log.read()
            if self._folder.pointer() == pointer:
                return pointer, index, anew, records
            self._log.close()

    def _index(self, name: str) -> LoadedIndex:
        """A generation, opened again when it was tuned."""
        folder = self._folder.path(name)
        found = (folder / MANIFEST).stat()
        key = (name, found.st_ino, found.st_mtime_ns)
        if self._opened is None or self._opened[0] != key:
            self._opened = key, open_index(folder, checksums=self._checksums)
        return self._opened[1]


def open_snapshot(folder: Path) -> Snapshot:
    """A store as it is now, or an index folder outside a store.

    Raises:
      MaxsearchError: neither stands there, or it was damaged.
    """
    if not StoreFolder(folder).exists:
        return Snapshot.of_folder(folder)
    store = Store.open(folder)
    store.close()
    return store.snapshot()
