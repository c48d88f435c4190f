"""The actions of `index` that change what a store serves. The doc strings are the help texts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from maxsearch.commands.flags import Mapping, OptionalPath, columns_of
from maxsearch.errors import UsageError

Ids = Annotated[Positional[tuple[str, ...]], arg(metavar="ID [ID2 ...]")]
Time = Annotated[str | None, arg(metavar="TIME")]


@dataclass(frozen=True)
class Publish:
    """Copy an index folder into a store and serve it, with the writes that it lacks applied."""

    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    """The index folder."""
    store: Path
    """The store; it is made when absent."""
    as_of: Time = None
    """The index's catalogue holds all writes to the store up to this time (ISO 8601, UTC where it names no zone)."""
    keep: int = 2
    """How many older generations are kept."""

    def run(self) -> None:
        from maxsearch.serving.store.publish import publish_folder

        generation = publish_folder(self.store, self.index, as_of=time_of(self.as_of), keep=self.keep)
        print(f"{self.store}: generation {generation.name}, {generation.products:,} products")


@dataclass(frozen=True)
class Shard:
    """Split a built index into shards for several machines, without embedding anything again.

    Run on a folder of shards that is served, it makes a new generation of it, with the writes since.
    """

    index: Path
    """An index folder, a store, or a folder of shards."""
    shards: int
    """How many shards."""
    out: Path
    """The folder of shards; it is made when absent."""
    as_of: Time = None
    """The index holds all writes to --out up to this time (ISO 8601, UTC where it names no zone)."""
    keep: int = 1
    """How many older generations are kept."""

    def run(self) -> None:
        from maxsearch.serving.shards.split import split

        made = split(self.index, self.shards, self.out, as_of=time_of(self.as_of), keep=self.keep)
        print(f"{self.out}: generation {made.generation}, {made.count:,} products in {made.shards} shards")


@dataclass(frozen=True)
class Rollback:
    """Serve an earlier generation, with the writes that it lacks applied."""

    store: Path
    """The store."""
    to: Annotated[str | None, arg(metavar="GENERATION")] = None
    """Which generation; the one before that which is served without it."""

    def run(self) -> None:
        from maxsearch.serving.store.generations import StoreFolder

        generation = StoreFolder(self.store).roll_back(self.to)
        print(f"{self.store}: generation {generation.name}, {generation.products:,} products")


@dataclass(frozen=True)
class List:
    """The generations of a store, oldest first, and how many writes wait for a compaction."""

    store: Path
    """The store."""

    def run(self) -> None:
        from maxsearch.serving.store.generations import StoreFolder

        folder = StoreFolder(self.store)
        pointer, writes = folder.pointer(), folder.writes()
        for one in pointer.generations:
            mark = "*" if one.name == pointer.current else " "
            lacks = sum(len(write.upserts) + len(write.deletes) for write in writes if write.sequence > one.contains)
            print(
                f"{mark} {one.name}  {one.products:>10,} products  {one.made_by:<8}  model {one.model[:12]}  "
                f"{lacks:,} upserts and deletes since"
            )


@dataclass(frozen=True)
class Upsert:
    """Embed products and put them into a store, each in the place of the one with its id."""

    store: Path
    """The store."""
    model: Path
    """The exported model that built its current generation."""
    products: Path
    """The products, in any format that `prepare` reads."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=productDisplayName."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    max_bad_fraction: float = 0.01
    """Share of the file's rows that may be unusable."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.serving.catalogue import catalogue
        from maxsearch.serving.store.store import Store
        from maxsearch.serving.store.writes import upserts_of

        store, encoder = Store.open(self.store), Encoder.from_model(self.model)
        store.snapshot().index.require_model(encoder.fingerprint)
        products = catalogue(
            products=self.products,
            data=None,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            edge=encoder.image_edge,
            max_bad_fraction=self.max_bad_fraction,
        )
        count = 0
        for batch in encoder.encode_products(products):
            store.upsert(upserts_of(batch), encoder.fingerprint)
            count += len(batch.products)
        print(f"{self.store}: {count:,} products put in, {len(store.snapshot()):,} in all")


@dataclass(frozen=True)
class Delete:
    """Take products out of a store by their ids."""

    ids: Ids
    """Ids of products."""
    store: Path
    """The store."""

    def run(self) -> None:
        from maxsearch.serving.store.store import Store

        store = Store.open(self.store)
        before = len(store.snapshot())
        store.delete(self.ids)
        after = len(store.snapshot())
        print(f"{self.store}: {before - after:,} products taken out, {after:,} left")


@dataclass(frozen=True)
class Compact:
    """Make a new generation of the current one and the writes since, without embedding anything again."""

    store: Path
    """The store."""
    keep: int = 2
    """How many older generations are kept."""

    def run(self) -> None:
        from maxsearch.serving.store.store import Store

        snapshot = Store.open(self.store).compact(keep=self.keep)
        print(f"{self.store}: generation {snapshot.generation}, {len(snapshot):,} products")


@dataclass(frozen=True)
class Prune:
    """Remove older generations of a store, and writes that no generation left needs."""

    store: Path
    """The store."""
    keep: int = 0
    """How many generations are kept beside the one that is served."""

    def run(self) -> None:
        from maxsearch.serving.store.generations import StoreFolder

        pointer = StoreFolder(self.store).prune(self.keep)
        print(f"{self.store}: {len(pointer.generations):,} generations")


def time_of(text: str | None) -> float | None:
    """Reads --as-of as seconds since 1970."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--as-of {text!r} is no time: give one such as 2026-11-20T03:00:00+01:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
