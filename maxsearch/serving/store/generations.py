"""The folder of a store: generations that never change, the log of writes, and the file that points to what is served.

    STORE/CURRENT             the generation that is served, and what is known of each (JSON, replaced as a whole)
    STORE/generations/NAME/   an index folder
    STORE/writes.log          the writes that some generation lacks

A write is in a generation when its sequence number is not above the generation's `contains`; the others are applied to
it, in order, wherever it is served. So it does not matter which generation is made when, or gone back to: what was
acknowledged is either in it or applied to it. A generation that is built of a catalogue contains no write of the store,
unless its builder says how new the catalogue is.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import clear_drafts, directory_in_place, flush_folder, locked, read_json, write_json
from maxsearch.serving.store.log import WriteLog, replace_log
from maxsearch.serving.store.writes import Write, net

CURRENT = "CURRENT"
GENERATIONS = "generations"
LOG = "writes.log"
WORK = ("parts", "compaction")
"""Folders in a store where generations are made."""
KIND, SCHEMA = "maxsearch-store", 1
REMEDY = "build one with `maxsearch index build --store`"
KEEP = 2


@dataclass(frozen=True)
class Generation:
    """What a store knows of a generation.

    Attributes:
      name: of its folder: when it was begun, in UTC.
      model: fingerprint of the model that its vectors are of.
      contains: sequence number of the last write that it contains.
      root: that of the catalogue that it was made of, through any number of compactions.
      made_by: `build`, `publish` or `compact`.
      products: how many it holds.
    """

    name: str
    model: str
    contains: int
    root: int
    made_by: str
    products: int


@dataclass(frozen=True)
class Pointer:
    """The content of CURRENT.

    Attributes:
      current: name of the generation that is served.
      sequence: of the last write when it was written; the log may know later ones.
      generations: those that are kept, oldest first.
    """

    current: str
    sequence: int
    generations: tuple[Generation, ...]

    @property
    def served(self) -> Generation:
        """The generation that is served."""
        return next(one for one in self.generations if one.name == self.current)


class StoreFolder:
    """What is done to a store on disk; see the top of this file. Any number of processes may, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / LOG

    @property
    def exists(self) -> bool:
        """Whether a store stands there."""
        return (self.folder / CURRENT).is_file()

    def require_ours(self) -> None:
        """Refuses to make a store of a folder that holds something else.

        Raises:
          UsageError: it does.
        """
        ours = (GENERATIONS, LOG, *WORK)
        if self.folder.is_dir() and not self.exists:
            if all(path.name in ours or path.name.startswith(".") for path in self.folder.iterdir()):
                return  # empty, or a store whose first generation was not finished
        elif self.exists or not self.folder.exists():
            return
        raise UsageError(f"--store {self.folder} exists and is no store: name a new folder")

    def path(self, name: str) -> Path:
        """The folder of a generation."""
        return self.folder / GENERATIONS / name

    def pointer(self) -> Pointer:
        """Reads CURRENT.

        Raises:
          MaxsearchError: there is none, or it was altered.
        """
        if not self.exists:
            raise MaxsearchError(f"no store at {self.folder}: {REMEDY}")
        value = read_json(self.folder / CURRENT, what="pointer of the store", remedy=REMEDY)
        try:
            if value["kind"] != KIND or value["schema_version"] != SCHEMA:
                raise ValueError(f"it is {value['kind']!r} of schema version {value['schema_version']!r}")
            generations = tuple(Generation(**one) for one in value["generations"])
            pointer = Pointer(value["current"], value["sequence"], generations)
            if pointer.current not in {one.name for one in generations}:
                raise ValueError(f"it points to {pointer.current!r}, which it does not list")
        except (KeyError, TypeError, ValueError) as error:
            raise MaxsearchError(
                f"{self.folder / CURRENT} is not what this maxsearch wrote ({error}): put it back from a copy, "
                f"or {REMEDY}"
            ) from None
        return pointer

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Waits until no other process writes to the store, and keeps them out."""
        with locked(self.folder, flag="--store", wait=True):
            yield

    def writes(self) -> list[Write]:
        """All that the log holds."""
        log = WriteLog(self.log)
        try:
            return [Write.unpack(record) for record in log.read()[1]]
        finally:
            log.close()

    def add(
        self,
        make: Callable[[Path], dict[str, Any]],
        *,
        made_by: str,
        as_of: float | None = None,
        base: Generation | None = None,
        contains: int = 0,
        keep: int = KEEP,
    ) -> Generation:
        """Makes a generation and serves it.

        Args:
          make: writes an index into an empty folder and returns its manifest.
          made_by: `build`, `publish` or `compact`.
          as_of: writes up to this time, in seconds since 1970, are in the catalogue that it was built of.
          base: the generation that a compaction went out from.
          contains: the last write that a compaction took in.
          keep: how many generations are kept beside it.

        Raises:
          MaxsearchError: it is of another model than writes that would be applied to it, or another generation came to
            be served during a compaction.
        """
        require_keep(keep)
        self.require_ours()
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        with ExitStack() as stack:
            with directory_in_place(self.path(name)) as draft:
                manifest = make(draft)
                for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
                    flush_folder(folder)
                # From here to the end of the flip nobody else changes the store.
                stack.enter_context(self.lock())
                pointer = self.pointer() if self.exists else None
                if pointer is None and not self.log.exists():
                    replace_log(self.log, ())
                if base is not None and (pointer is None or pointer.current != base.name):
                    raise MaxsearchError(
                        f"another generation of the store {self.folder} was published during the compaction, which was "
                        "given up: run `maxsearch index compact` again"
                    )
                writes = self.writes()
                if as_of is not None:
                    contains = max((one.sequence for one in writes if one.time <= as_of), default=0)
                root = contains if base is None else base.root
                generation = Generation(name, manifest["model_fingerprint"], contains, root, made_by, manifest["count"])
                require_same_model(generation, writes)
            flush_folder(self.folder / GENERATIONS)
            flush_folder(self.folder)
            kept = () if pointer is None else pointer.generations
            sequence = 0 if pointer is None else pointer.sequence
            self._settle(Pointer(name, sequence, (*kept, generation)), keep)
        return generation

    def roll_back(self, name: str | None = None) -> Generation:
        """Serves an earlier generation, with the writes that it lacks applied to it.

        Args:
          name: which; the one before that which is served when None.

        Raises:
          UsageError: there is no such generation, or none before.
          MaxsearchError: it is of another model than writes that would be applied to it.
        """
        with self.lock():
            pointer = self.pointer()
            names = [one.name for one in pointer.generations]
            if name is not None and name not in names:
                raise UsageError(f"the store {self.folder} has no generation {name!r}: it has {', '.join(names)}")
            place = names.index(pointer.current) - 1 if name is None else names.index(name)
            if place < 0:
                raise UsageError(
                    f"the store {self.folder} has no generation before {pointer.current}: "
                    "see `maxsearch index list`, or keep more with --keep"
                )
            target, writes = pointer.generations[place], self.writes()
            require_same_model(target, writes)
            self._flip(replace(pointer, current=target.name, sequence=_last(pointer, writes)))
        return target

    def prune(self, keep: int) -> Pointer:
        """Removes all generations but the one served and the `keep` latest others, and writes that all contain."""
        require_keep(keep)
        with self.lock():
            return self._settle(self.pointer(), keep)

    def _settle(self, pointer: Pointer, keep: int) -> Pointer:
        """Points to what is kept, then removes the rest. A kill in between leaves files that the next one removes."""
        others = [one for one in pointer.generations if one.name != pointer.current]
        dropped = {one.name for one in others[: max(0, len(others) - keep)]}
        writes = self.writes()
        pointer = Pointer(
            pointer.current,
            _last(pointer, writes),
            tuple(one for one in pointer.generations if one.name not in dropped),
        )
        self._flip(pointer)
        floor = min(one.root for one in pointer.generations)
        needed = [write for write in net(writes) if write.sequence > floor]
        if needed != writes:
            replace_log(self.log, (write.pack() for write in needed))
        names = {one.name for one in pointer.generations}
        for begun in (*self.folder.glob(f".{LOG}.*"), *self.folder.glob(f".{CURRENT}.*")):
            begun.unlink(missing_ok=True)
        clear_drafts(self.folder / GENERATIONS)
        for path in (self.folder / GENERATIONS).iterdir():
            if path.name not in names and not path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
        return pointer

    def _flip(self, pointer: Pointer) -> None:
        generations = [asdict(one) for one in pointer.generations]
        value = {
            "kind": KIND,
            "schema_version": SCHEMA,
            "current": pointer.current,
            "sequence": pointer.sequence,
            "generations": generations,
        }
        write_json(self.folder / CURRENT, value)
        flush_folder(self.folder)


def require_keep(keep: int) -> None:
    """Refuses a number of generations to keep that is none."""
    if keep < 0:
        raise UsageError(f"--keep {keep} is no number of generations: give 0 or more")


def require_same_model(generation: Generation, writes: list[Write]) -> None:
    """Refuses to serve a generation whose model did not embed the products that would be applied to it.

    Raises:
      MaxsearchError: there are such products.
    """
    other = [
        one
        for write in net(writes)
        if write.sequence > generation.contains and write.model != generation.model
        for one in write.upserts
    ]
    if other:
        raise MaxsearchError(
            f"{len(other):,} products, such as {other[0].item.product_id!r}, were upserted with another model than "
            f"{generation.model[:12]} of the generation, and it does not contain them: build it of a catalogue that "
            "does and say how new that is with --as-of, or upsert them again once it is served"
        )


def _last(pointer: Pointer, writes: list[Write]) -> int:
    return max(pointer.sequence, *(write.sequence for write in writes), 0)
