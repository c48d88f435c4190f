"""The sub-command `index`: its flags, and the calls that they are. The doc strings are the help texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg, subcommand

from maxsearch.commands.engines import Push, Vertex
from maxsearch.commands.flags import Mapping, OptionalPath, columns_of
from maxsearch.commands.stores import Compact, Delete, List, Prune, Publish, Rollback, Shard, Upsert, time_of
from maxsearch.errors import UsageError

OptionalRecall = Annotated[float | None, arg(metavar="RECALL")]


@dataclass(frozen=True)
class Build:
    """Embed a catalogue into an index folder, or a new generation of a store; a killed build goes on when run again."""

    model: Path
    """The exported model."""
    out: OptionalPath = None
    """The index folder to write; an older index there is replaced as a whole."""
    store: OptionalPath = None
    """The store to publish to, in place of --out."""
    products: OptionalPath = None
    """The catalogue, in any format that `prepare` reads."""
    data: OptionalPath = None
    """A prepared dataset whose products are indexed, in place of --products."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=productDisplayName."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    kind: Literal["auto", "exact", "scann"] = "auto"
    """auto is exact below 20,000 products or where ScaNN is not installed."""
    vectors: Literal["float32", "bfloat16", "int8"] = "float32"
    """What vectors are kept as; the manifest says what that loses."""
    target_recall: float = 0.99
    """Recall that a ScaNN search is made to reach, against exact search of the same vectors."""
    schema: Annotated[str, arg(metavar="ATTRIBUTE:TYPE,...")] = ""
    """Types of attributes for filters, price:float,in_stock:bool; the others are told from values."""
    pictures: bool = True
    """Keep the products' pictures, for the search page, re-ranking and explanations."""
    lexical: bool = True
    """Index the products' words, for hybrid search."""
    min_recall: OptionalRecall = None
    """Recall at 10 against exact search of float32 vectors below which nothing is written."""
    queries: OptionalPath = None
    """Shoppers' queries that recall is measured with; titles of the catalogue without it."""
    share: Annotated[str | None, arg(metavar="I/N")] = None
    """Only embed the I-th of N shares, on a file system that all hosts see; a build without it then joins them."""
    as_of: Annotated[str | None, arg(metavar="TIME")] = None
    """With --store: the catalogue holds all writes up to this time (ISO 8601, UTC where it names no zone)."""
    keep: int = 2
    """With --store: how many older generations are kept."""
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.progress import Progress
        from maxsearch.serving.build import build_index, embed_share, work_folder
        from maxsearch.serving.catalogue import catalogue
        from maxsearch.serving.embedding import Share
        from maxsearch.serving.filters.kinds import parse_schema
        from maxsearch.serving.index import IndexOptions, open_index
        from maxsearch.serving.store.generations import StoreFolder
        from maxsearch.serving.store.publish import PARTS, build_generation

        if (self.out is None) == (self.store is None):
            raise UsageError("name where the index goes with either --out or --store")
        if self.as_of is not None and self.store is None:
            raise UsageError("--as-of speaks of the writes to a store: give --store, or leave --as-of out")
        as_of = time_of(self.as_of)
        options = IndexOptions(
            self.kind,
            self.vectors,
            self.target_recall,
            self.min_recall,
            schema=parse_schema(self.schema) if self.schema else {},
            pictures=self.pictures,
            lexical=self.lexical,
        )
        share = None if self.share is None else Share.parse(self.share)
        encoder = Encoder.from_model(self.model)
        products = catalogue(
            products=self.products,
            data=self.data,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            edge=encoder.image_edge,
            max_bad_fraction=self.max_bad_fraction,
        )
        progress = Progress()
        if share is not None:
            work = work_folder(self.out) if self.out is not None else Path(str(self.store)) / PARTS
            embedded = embed_share(encoder, products, work, share, progress=progress)
            print(f"{work}: share {self.share} of {embedded.count:,} products, in {len(embedded.parts):,} parts")
            return
        queries = None if self.queries is None else encoder.encode_queries(texts_of(self.queries))
        if self.out is not None:
            manifest = build_index(encoder, products, self.out, options, queries=queries, progress=progress)
            where = str(self.out)
        else:
            assert self.store is not None
            generation = build_generation(
                encoder, products, self.store, options, queries=queries, as_of=as_of, keep=self.keep, progress=progress
            )
            manifest = open_index(StoreFolder(self.store).path(generation.name), checksums=False).manifest
            where = f"{self.store}: generation {generation.name}"
        print(describe(where, manifest))


@dataclass(frozen=True)
class Tune:
    """Measure a ScaNN index at many settings, and keep the fastest that reaches a recall."""

    index: Path = Path("index")
    """The index folder, or a store, whose current generation is meant."""
    model: OptionalPath = None
    """The exported model that built it, to embed --queries with."""
    queries: OptionalPath = None
    """Shoppers' queries: a table with query_id and query, BEIR's or TREC's; those of the build without it."""
    target_recall: float = 0.95
    """Recall at -k to reach, against exact search of the same vectors."""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """How many results searches will ask for; more are asked for with the settings of the build."""
    out: OptionalPath = None
    """Where to write all settings with their recall and speed, as JSON."""

    def run(self) -> None:
        from maxsearch.files import write_json
        from maxsearch.serving.store.store import open_snapshot
        from maxsearch.serving.tuning import print_tuning, tune

        if self.queries is not None and self.model is None:
            raise UsageError("--queries are embedded by the model that built the index: give --model too")
        if self.out is not None and self.out.is_dir():
            raise UsageError(f"--out {self.out} is a folder: give the name of a file")
        index = open_snapshot(self.index).index
        if self.queries is None:
            vectors = index.probes()
        else:
            from maxsearch.encode import Encoder

            assert self.model is not None
            encoder = Encoder.from_model(self.model)
            index.require_model(encoder.fingerprint)
            vectors = encoder.encode_queries(texts_of(self.queries))
        tuning = tune(index, vectors, target_recall=self.target_recall, k=self.k)
        print_tuning(tuning)
        if self.out is not None:
            write_json(self.out, tuning)


@dataclass(frozen=True)
class Index:
    """Make an index, tune it, change what a store serves, and take it to other systems."""

    action: OmitArgPrefixes[
        Annotated[Build, subcommand("build")]
        | Annotated[Tune, subcommand("tune")]
        | Annotated[Publish, subcommand("publish")]
        | Annotated[Shard, subcommand("shard")]
        | Annotated[Rollback, subcommand("rollback")]
        | Annotated[List, subcommand("list")]
        | Annotated[Upsert, subcommand("upsert")]
        | Annotated[Delete, subcommand("delete")]
        | Annotated[Compact, subcommand("compact")]
        | Annotated[Prune, subcommand("prune")]
        | Annotated[Push, subcommand("push")]
        | Annotated[Vertex, subcommand("vertex")]
    ]
    """What to do."""

    def run(self) -> None:
        self.action.run()


def texts_of(path: Path) -> Sequence[str]:
    """The queries of a file."""
    from maxsearch.evaluation.judgments import read_queries

    texts = [text for text in read_queries(path, {}).values() if text.strip()]
    if not texts:
        raise UsageError(f"every query of --queries {path} is empty: give at least one with a text")
    return texts


def describe(where: str, manifest: dict[str, Any]) -> str:
    """What was built, in a line."""
    said = f"{where}: {manifest['count']:,} products, {manifest['index']['kind']} index, {manifest['dim']} dimensions"
    if manifest["index"]["kind"] == "scann" or manifest["vectors"]["kind"] != "float32":
        recall = manifest["recall"]
        said += f", {manifest['vectors']['kind']}, recall@10 {recall['recall@10']:.4f}"
    return said
