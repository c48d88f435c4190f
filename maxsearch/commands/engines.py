"""The actions of `index` that take a generation to other systems. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from maxsearch.commands.flags import OptionalPath
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Push:
    """Push an index or a store's current state into Milvus, test it there, and serve it under an alias."""

    uri: str
    """http://HOST:19530 of a Milvus server, or a Milvus-Lite database, a path that ends in .db; a token is read from
    MILVUS_TOKEN."""
    alias: str = "maxsearch"
    """What services search by; it points to one generation, and turns to the next as a whole."""
    index: OptionalPath = None
    """The index folder or store to push."""
    index_type: Literal["HNSW", "IVF_FLAT", "SCANN", "FLAT"] = "HNSW"
    """How Milvus indexes the vectors; FLAT is exact, and Milvus-Lite has no SCANN."""
    min_recall: float = 0.95
    """Recall at 10 against exact search that the search is widened to reach; below it nothing is served."""
    attributes: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Attributes that filters may name; all of them, up to 56, without it."""
    keep: int = 2
    """How many collections are kept beside the one that is served."""
    rollback: bool = False
    """Push nothing: serve the generation that was pushed before the one that is served."""
    to: Annotated[str | None, arg(metavar="GENERATION")] = None
    """Push nothing: serve this generation."""

    def run(self) -> None:
        from maxsearch.progress import Progress
        from maxsearch.serving.engines.milvus.client import connect
        from maxsearch.serving.engines.milvus.collections import go_back
        from maxsearch.serving.engines.milvus.options import MilvusOptions
        from maxsearch.serving.engines.milvus.push import PushOptions, push
        from maxsearch.serving.store.store import open_snapshot

        if sum((self.index is not None, self.rollback, self.to is not None)) != 1:
            raise UsageError("say what to serve with one of --index, --rollback and --to")
        options = PushOptions(self.alias, self.index_type, self.min_recall, self.keep, self.attributes)
        snapshot = None if self.index is None else open_snapshot(self.index)
        client = connect(MilvusOptions(uri=self.uri, alias=self.alias))
        if snapshot is None:
            pushed = go_back(client, self.alias, self.to)
        else:
            pushed = push(client, snapshot, options, Progress())
        facts = pushed.facts
        print(
            f"{self.alias} at {self.uri}: generation {facts.generation}, {facts.products:,} products, {facts.index}, "
            f"recall@10 {facts.recall:.4f}, collection {pushed.name}"
        )


@dataclass(frozen=True)
class Vertex:
    """Write an index or a store's current state as files that Vertex AI Vector Search imports."""

    out: Path
    """The folder to write; an older import there is replaced."""
    index: Path = Path("index")
    """The index folder or store."""
    uri: str = "gs://BUCKET/batch"
    """Where the folder `batch` will be uploaded to, for the file that the index is created with."""
    file_mebibytes: int = 256
    """Size at which the next file is begun."""

    def run(self) -> None:
        from maxsearch.progress import Progress
        from maxsearch.serving.engines.vertex import write_vertex
        from maxsearch.serving.store.store import open_snapshot

        manifest = write_vertex(
            open_snapshot(self.index),
            self.out,
            uri=self.uri,
            file_mebibytes=self.file_mebibytes,
            progress=Progress(),
        )
        print(
            f"{self.out}: {manifest['count']:,} products of {manifest['dim']} dimensions in {manifest['parts']:,} files"
        )
