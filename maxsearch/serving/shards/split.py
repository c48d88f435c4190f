"""From an index to shards, without embedding anything again; and from shards to shards of another number.

Letters: N products, D vector size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import directory_in_place, flush_folder, locked
from maxsearch.manifest import write_manifest
from maxsearch.serving.filters.columns import VARIANT, Columns
from maxsearch.serving.hybrid.lexical import build_lexical, open_lexical
from maxsearch.serving.hybrid.words import document
from maxsearch.serving.index import ITEMS
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import Item, items_table, write_items
from maxsearch.serving.pictures import packed
from maxsearch.serving.scann_index import MIN_ITEMS
from maxsearch.serving.shards.folder import GENERATION, KEEP, MOST_SHARDS, Sharded, ShardedFolder, shard_of
from maxsearch.serving.shards.state import ShardState
from maxsearch.serving.shop.view import fields_of
from maxsearch.serving.store.log import replace_log
from maxsearch.serving.store.snapshot import Snapshot
from maxsearch.serving.store.store import open_snapshot
from maxsearch.serving.store.writes import Write, net
from maxsearch.serving.vectors import VectorWriter

BLOCK = 4096


@dataclass(frozen=True)
class Catalogue:
    """The living products of one snapshot, or of the snapshots of all shards, in the order of their numbers.

    Attributes:
      snapshots: where they are.
      of, rows: of each product, which snapshot and which row there [N].
      contains: of each shard that it was read from, the last write that it holds; empty when it was none.
    """

    snapshots: tuple[Snapshot, ...]
    of: Int64[np.ndarray, " N"]
    rows: Int64[np.ndarray, " N"]
    contains: tuple[int, ...] = ()

    @classmethod
    def open(cls, source: Path) -> "Catalogue":
        """Opens an index folder, a store or a folder of shards.

        Raises:
          MaxsearchError: it is none of them, was damaged, or holds no product.
        """
        folder = ShardedFolder(source)
        if folder.exists:
            common = folder.read(folder.current())
            states = [ShardState.open(folder, common, shard) for shard in range(common.shards)]
            snapshots = tuple(state.view().snapshot for state in states)
            numbers = [state.view_numbers() for state in states]
            contains = tuple(one.delta.sequence for one in snapshots)
        else:
            snapshots, contains = (open_snapshot(source),), ()
            numbers = [np.arange(len(one.index.items) + len(one.delta.vectors)) for one in snapshots]
        alive = [np.flatnonzero(np.concatenate([~one.delta.dead, one.delta.live])) for one in snapshots]
        of = np.concatenate([np.full(len(rows), number, np.int64) for number, rows in enumerate(alive)])
        order = np.argsort(np.concatenate([n[rows] for n, rows in zip(numbers, alive, strict=True)]), kind="stable")
        if not len(order):
            raise MaxsearchError(f"every product of {source} was deleted: build an index that holds at least one")
        return cls(snapshots, of[order], np.concatenate(alive)[order], contains)

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self) -> list[str]:
        """The id of every product."""
        every = [
            [*one.index.ids, *(one.delta.item(row).product_id for row in range(len(one.delta.vectors)))]
            for one in self.snapshots
        ]
        return [every[of][row] for of, row in zip(self.of.tolist(), self.rows.tolist(), strict=True)]

    def items(self, places: Int64[np.ndarray, " n"]) -> list[Item]:
        """The products at these places, in their order."""
        found: list[Item | None] = [None] * len(places)
        for number, one in enumerate(self.snapshots):
            mine = np.flatnonzero(self.of[places] == number)
            for place, item in zip(mine.tolist(), one.take(self.rows[places[mine]].tolist()), strict=True):
                found[place] = item
        return [item for item in found if item is not None]

    def vectors(self, places: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n D"]:
        """Their vectors."""
        found = np.empty((len(places), self.snapshots[0].index.manifest["dim"]), np.float32)
        for number, one in enumerate(self.snapshots):
            mine = np.flatnonzero(self.of[places] == number)
            found[mine] = one.vectors(self.rows[places[mine]])
        return found

    def pictures(self, places: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        """Their packed pictures."""
        for of, row in zip(self.of[places].tolist(), self.rows[places].tolist(), strict=True):
            yield packed(self.snapshots[of].images(row))

    def tables(self, places: Int64[np.ndarray, " n"]) -> Iterator[pa.Table]:
        """Their items, a block at a time."""
        return (items_table(self.items(block)) for block in blocks(places))

    def documents(self) -> Iterator[str]:
        """What the words of every product are read from."""
        for block in blocks(np.arange(len(self))):
            yield from (document(item.title, item.texts, {}, ()) for item in self.items(block))


def blocks(places: Int64[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " b"]]:
    """The places, BLOCK at a time."""
    return (places[start : start + BLOCK] for start in range(0, len(places), BLOCK))


def split(source: Path, shards: int, out: Path, *, as_of: float | None = None, keep: int = KEEP) -> Sharded:
    """Splits a built index into shards: a new generation of the folder, which is served from then on.

    What was written to the generation before is taken along, unless the source is that folder itself, whose writes it
    then holds. A split that is killed leaves what is served as it was; the next one clears away what it left.

    Args:
      source: an index folder, a store, or a folder of shards.
      shards: how many.
      out: the folder of shards; it is made when absent.
      as_of: the source holds all writes to `out` up to this time, in seconds since 1970.
      keep: how many older generations are kept.

    Raises:
      UsageError: a number of shards that is none or leaves one empty, another folder stands at `out`, or another split
        of it is running.
      MaxsearchError: no index, one that was damaged, or of another model than writes that would be taken along.
    """
    if not 1 <= shards <= MOST_SHARDS:
        raise UsageError(f"--shards {shards} is no number of shards: give one from 1 to {MOST_SHARDS}")
    if keep < 0:
        raise UsageError(f"--keep {keep} is no number of generations: give 0 or more")
    folder = ShardedFolder(out)
    folder.require_ours()
    with locked(out, flag="--out"):
        if folder.exists and (had := folder.read(folder.current()).shards) != shards:
            raise UsageError(
                f"--out {out} is served in {had} shards and --shards is {shards}: give {had}, or a new folder"
            )
        catalogue = Catalogue.open(source)
        of = np.array([shard_of(product_id, shards) for product_id in catalogue.ids()], np.int64)
        orders = [np.flatnonzero(of == shard) for shard in range(shards)]
        if not all(map(len, orders)):
            raise UsageError(
                f"--shards {shards} would leave a shard of the {len(of):,} products without any: give a smaller number"
            )
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        with directory_in_place(folder.path(name)) as draft:
            common = write(catalogue, orders, draft, name)
        publish(folder, common, catalogue.contains if out.resolve() == source.resolve() else None, as_of, keep)
    return common


def write(catalogue: Catalogue, orders: Sequence[Int64[np.ndarray, " _"]], draft: Path, name: str) -> Sharded:
    """Writes a generation into an empty folder."""
    index = catalogue.snapshots[0].index
    write_items(draft / ITEMS, catalogue.tables(np.arange(len(catalogue))))
    # Types are told once for all shards: what one lacks, another has.
    columns = Columns.of_items(draft / ITEMS, known=index.columns.kinds)
    (draft / ITEMS).unlink()
    lexical = index.lexical is not None
    base = replace(index.options, lexical=False, known={k: v for k, v in columns.kinds.items() if k != VARIANT})
    for shard, order in enumerate(orders):
        part = draft / f"shard-{shard:03}"
        part.mkdir()
        np.save(draft / f"order-{shard:03}.npy", order)
        joined = draft / "vectors.npy"
        with VectorWriter(joined, index.manifest["dim"]) as writer:
            for block in blocks(order):
                writer.extend(catalogue.vectors(block))
        options = base
        if len(order) < MIN_ITEMS and options.kind == "scann":
            options = replace(options, kind="auto")
        write_index(
            part,
            catalogue.tables(order),
            joined,
            index.probes(),
            index.model_fingerprint,
            options,
            pictures=catalogue.pictures(order) if index.pictures is not None else None,
        )
        joined.unlink(missing_ok=True)
    if lexical:
        with TemporaryDirectory(dir=draft) as whole:
            build_lexical(catalogue.documents(), Path(whole) / "lexical")
            folders = [draft / f"lexical-{shard:03}" for shard in range(len(orders))]
            for part in folders:
                part.mkdir()
            open_lexical(Path(whole) / "lexical", checksums=False).split(orders, folders)
    fields = {
        "generation": name,
        "shards": len(orders),
        "count": len(catalogue),
        "dim": index.manifest["dim"],
        "model_fingerprint": index.model_fingerprint,
        "products": [len(order) for order in orders],
        "lexical": lexical,
        "kinds": {field: kind.value for field, kind in columns.kinds.items()},
        "fields": [asdict(one) for one in fields_of(columns)],
    }
    return Sharded.of(write_manifest(draft, GENERATION, fields))


def publish(
    folder: ShardedFolder, common: Sharded, contained: Sequence[int] | None, as_of: float | None, keep: int
) -> None:
    """Takes the writes along that the generation lacks, and serves it.

    Args:
      folder: where the generation stands.
      common: the generation.
      contained: of each shard of the generation before, the last write that this one holds; None when it holds none.
      as_of: it holds all writes up to this time.
      keep: how many older generations are kept.
    """
    name = common.generation
    before = folder.read(folder.current()) if folder.exists else None
    shards = range(0) if before is None else range(before.shards)
    with folder.writing("" if before is None else before.generation, shards):
        if before is not None and folder.current() != before.generation:
            raise MaxsearchError(f"{folder.folder}: another generation was published meanwhile: run the command again")
        lacking: list[Write] = []
        for shard in shards:
            assert before is not None
            least = 0 if contained is None else contained[shard]
            lacking += [
                one
                for one in net(ShardState.writes(folder.log(before.generation, shard)))
                if one.sequence > least and (as_of is None or one.time > as_of)
            ]
        other = [one for one in lacking if one.upserts and one.model != common.fingerprint]
        if other:
            raise MaxsearchError(
                f"{sum(len(one.upserts) for one in other):,} products, such as "
                f"{other[0].upserts[0].item.product_id!r}, were upserted with another model than "
                f"{common.fingerprint[:12]} of the index, which lacks them: split an index that holds them and say how "
                "new that is with --as-of, or upsert them again once it is served"
            )
        # A product is always of one shard, so the order of its own writes is kept.
        lacking.sort(key=lambda one: one.time)
        for shard in range(common.shards):
            log = folder.log(name, shard)
            log.parent.mkdir(parents=True, exist_ok=True)
            mine = [part for one in lacking if (part := of_shard(one, shard, common.shards)) is not None]
            replace_log(log, (replace(one, sequence=at).pack() for at, one in enumerate(mine, 1)))
        flush_folder(folder.folder)
        folder.flip(name, keep)


def of_shard(write: Write, shard: int, shards: int) -> Write | None:
    """The part of a write that concerns a shard."""
    upserts = tuple(one for one in write.upserts if shard_of(one.item.product_id, shards) == shard)
    deletes = tuple(one for one in write.deletes if shard_of(one, shards) == shard)
    return replace(write, upserts=upserts, deletes=deletes) if upserts or deletes else None
