"""The folder of a sharded store: generations that never change, the writes since, and the file that points to one.

    FOLDER/SHARDS                               the generation that is served, and those that are kept (JSON)
    FOLDER/generations/NAME/                    a manifest with checksums, and of each shard:
        shard-000/                              an index folder
        lexical-000/                            its words, with the statistics of the whole catalogue
        order-000.npy                           the rows of the whole catalogue that are its own
    FOLDER/writes/NAME/shard-000/writes.log     the writes to a shard since

A product belongs to the shard that the hash of its id names, whatever its variant group: so that a write concerns one
log. Whoever writes to a shard holds its lock and sees whether its generation is still served; whoever publishes holds
all of them, and takes the writes along.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import clear_drafts, flush_folder, locked, read_json, write_json
from maxsearch.manifest import FolderKind, read_manifest
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.shop.answer import Field

CURRENT, GENERATIONS, WRITES, LOG = "SHARDS", "generations", "writes", "writes.log"
KIND, SCHEMA = "maxsearch-shards", 1
REMEDY = "make one with `maxsearch index shard`"
KEEP = 1
MOST_SHARDS = 512

GENERATION = FolderKind(
    name="maxsearch-shards-generation",
    what="sharded generation",
    schema_version=1,
    remedy=REMEDY,
    required=(),
    fields={
        "generation": str,
        "shards": int,
        "count": int,
        "dim": int,
        "model_fingerprint": str,
        "products": list,
        "lexical": bool,
        "kinds": dict,
        "fields": list,
    },
)


def shard_of(product_id: str, shards: int) -> int:
    """The shard that a product belongs to; the same on every machine and for ever."""
    return int.from_bytes(hashlib.blake2b(product_id.encode(), digest_size=8).digest(), "big") % shards


@dataclass(frozen=True)
class Sharded:
    """What all shards of a generation have in common.

    Attributes:
      generation: its name.
      shards: how many.
      count: products of all when it was made.
      dim: size of the vectors.
      fingerprint: of the model.
      lexical: whether words are indexed.
      kinds: type per attribute that filters may name.
      fields: the same for shoppers, the most useful first.
    """

    generation: str
    shards: int
    count: int
    dim: int
    fingerprint: str
    lexical: bool
    kinds: dict[str, Kind]
    fields: tuple[Field, ...]

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> "Sharded":
        """Reads a manifest of kind GENERATION."""
        return cls(
            manifest["generation"],
            manifest["shards"],
            manifest["count"],
            manifest["dim"],
            manifest["model_fingerprint"],
            manifest["lexical"],
            {name: Kind(kind) for name, kind in manifest["kinds"].items()},
            tuple(Field(**one) for one in manifest["fields"]),
        )

    def require_model(self, fingerprint: str, folder: Path) -> None:
        """Refuses another model than the one that embedded the products.

        Raises:
          MaxsearchError: the fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise MaxsearchError(
                f"the shards {folder} are of model {self.fingerprint[:12]} and this model is {fingerprint[:12]}: use "
                "the model that they were built with, or split another index"
            )


class ShardedFolder:
    """What is done to a sharded store on disk; see the top of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether a sharded store stands there."""
        return (self.folder / CURRENT).is_file()

    def require_ours(self) -> None:
        """Refuses to write into a folder that holds something else.

        Raises:
          UsageError: it does.
        """
        if self.exists or not self.folder.exists():
            return
        ours = (GENERATIONS, WRITES)
        if not self.folder.is_dir() or any(
            path.name not in ours and not path.name.startswith(".") for path in self.folder.iterdir()
        ):
            raise UsageError(f"--out {self.folder} exists and holds no shards: name a new folder")

    def names(self) -> list[str]:
        """The generations that are kept, that which is served last.

        Raises:
          MaxsearchError: no sharded store, or its pointer was altered.
        """
        if not self.exists:
            raise MaxsearchError(f"no shards at {self.folder}: {REMEDY}")
        value = read_json(self.folder / CURRENT, what="pointer of the shards", remedy=REMEDY)
        found = value.get("generations") if isinstance(value, dict) and value.get("kind") == KIND else None
        if not isinstance(found, list) or not found or value.get("schema_version") != SCHEMA:
            raise MaxsearchError(f"{self.folder / CURRENT} is not what this maxsearch wrote: {REMEDY}")
        return [str(name) for name in found]

    def current(self) -> str:
        """The generation that is served; raises as `names` does."""
        return self.names()[-1]

    def path(self, name: str) -> Path:
        """The folder of a generation."""
        return self.folder / GENERATIONS / name

    def read(self, name: str, *, checksums: bool = False) -> Sharded:
        """What the shards of a generation have in common.

        Raises:
          MaxsearchError: it is gone or was damaged.
        """
        return Sharded.of(read_manifest(self.path(name), GENERATION, checksums=checksums))

    def log(self, name: str, shard: int) -> Path:
        """The writes to a shard."""
        return self.folder / WRITES / name / f"shard-{shard:03}" / LOG

    @contextmanager
    def writing(self, name: str, shards: range) -> Iterator[None]:
        """Keeps everyone else from writing to these shards of a generation."""
        with ExitStack() as stack:
            for shard in shards:
                stack.enter_context(locked(self.log(name, shard).parent, flag="--store", wait=True))
            yield

    def flip(self, name: str, keep: int = KEEP) -> None:
        """Serves a generation and forgets all but the `keep` before it."""
        older = self.names() if self.exists else []
        kept = [*older[len(older) - keep :], name] if keep else [name]
        write_json(self.folder / CURRENT, {"kind": KIND, "schema_version": SCHEMA, "generations": kept})
        flush_folder(self.folder)
        clear_drafts(self.folder / GENERATIONS)
        for part in (GENERATIONS, WRITES):
            for path in (self.folder / part).iterdir():
                if path.name not in kept and not path.name.startswith("."):
                    shutil.rmtree(path, ignore_errors=True)
