"""The sub-commands: their flags, and the call that each one is. The doc strings are the help texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from maxsearch.config import Config
from maxsearch.errors import UsageError

MAP_FIELDS = ("product_id", "title", "image", "variant", "query", "weight", "query_id", "grade")

Mapping = Annotated[tuple[str, ...], arg(metavar="FIELD=COLUMN ...")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH")]
ConfigFlags = Annotated[Config, arg(name="")]
OptionalInt = Annotated[int | None, arg(metavar="INT")]


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A signal ended the command early, everything is saved, and the same command goes on from there."""


@dataclass(frozen=True)
class Prepare:
    """Turn a catalogue and its clicks into verified, checksummed training shards."""

    products: Path
    """The catalogue: CSV, TSV, JSONL or Parquet with product_id, title, image (bytes, or paths below --image-dir)."""
    interactions: Path
    """What shoppers did: a table with query, product_id and an optional weight."""
    out: Path
    """The dataset folder to write; an older dataset there is replaced as a whole."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=productDisplayName weight=clicks."""
    image_edge: int = 224
    """Longest side of a stored picture in pixels; larger ones are shrunk, smaller ones are left alone."""
    max_bad_fraction: float = 0.01
    """Share of a file's rows that may be unusable before the command fails."""
    shard_records: int = 8192
    """Records in a shard."""

    def run(self) -> None:
        from maxsearch.data.prepare import PrepareOptions, prepare
        from maxsearch.progress import Progress

        options = PrepareOptions(
            products=self.products,
            interactions=self.interactions,
            out=self.out,
            image_dir=self.image_dir,
            columns=columns_of(self.map),
            image_edge=self.image_edge,
            max_bad_fraction=self.max_bad_fraction,
            shard_records=self.shard_records,
        )
        manifest = prepare(options, Progress())
        products, interactions, rejected = (manifest[name] for name in ("products", "interactions", "rejected"))
        print(
            f"{self.out}: {products['count']:,} products, {interactions['count']:,} interactions of "
            f"{interactions['queries']:,} queries, {rejected['products'] + rejected['interactions']:,} rows rejected"
        )
        for code, count in rejected["by_reason"].items():
            print(f"  {code}: {count:,} (see {self.out / rejected['file']})")


@dataclass(frozen=True)
class Train:
    """Train a preset on a prepared dataset; the same command resumes a run that was stopped."""

    preset: Annotated[Positional[str], arg(metavar="PRESET")]
    """A preset's name, or a Python file with get_config(). Its values are the defaults of the flags below."""
    data: str
    """A folder that `maxsearch prepare` wrote, or tfds:NAME[:SPLIT]."""
    run_folder: Annotated[Path, arg(name="run")]
    """The run's folder: config, tokenizer, checkpoints and metrics."""
    steps: OptionalInt = None
    """Updates to make in all; by default the preset's."""
    minutes: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Minutes to train in all; the schedule of the learning rate is fitted to the measured pace."""
    checkpoint_every: OptionalInt = None
    """Updates between two checkpoints."""
    log_every: OptionalInt = None
    """Updates between two lines of metrics."""
    config: ConfigFlags = field(default_factory=Config)

    def run(self) -> None:
        from maxsearch.training.loop import train

        if self.steps is not None and self.minutes is not None:
            raise UsageError("--steps and --minutes exclude each other: give one")
        if self.minutes is not None and not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise UsageError(f"--minutes must be a number above 0, not {self.minutes}")
        given = {"steps": self.steps, "checkpoint_every": self.checkpoint_every, "log_every": self.log_every}
        changes = {name: value for name, value in given.items() if value is not None}
        config = replace(self.config, train=replace(self.config.train, **changes))
        result = train(config, self.data, self.run_folder, minutes=self.minutes)
        if result.stopped:
            raise Stopped(f"stopped at step {result.step}, checkpoint saved")
        if result.step == result.resumed_from:
            print(f"{self.run_folder} is complete at step {result.step}; for more, raise --steps or --minutes")
        else:
            print(f"{self.run_folder}: {result.step} steps in {result.seconds / 60:.1f} min")


@dataclass(frozen=True)
class Evaluate:
    """Rank a catalogue for judged queries, beside BM25 and chance."""

    products: Path
    """The catalogue, in any format that `prepare` reads."""
    queries: Path
    """Test queries: a table with query_id and query, BEIR's queries.jsonl, or TREC topics (id, tab, text)."""
    qrels: Path
    """Judgments: a table with query_id, product_id and grade, or BEIR's or TREC's qrels."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run to evaluate, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model to evaluate, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint to evaluate."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    k: Annotated[int, arg(aliases=["-k"])] = 100
    """Ranks per query."""
    relevant_grade: int = 1
    """Lowest grade that counts as relevant for recall and MRR."""
    compare: Annotated[tuple[Path, ...], arg(metavar="RUN_FILE ...")] = ()
    """TREC run files for the same table."""
    save_run: OptionalPath = None
    """Where to write the ranking as a TREC run."""
    out: OptionalPath = None
    """Where to write the figures as JSON."""
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""
    seed: int = 0
    """Of the bootstrap and the random ranking."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.evaluation.evaluate import EvaluateOptions, evaluate
        from maxsearch.evaluation.table import print_table
        from maxsearch.files import write_json
        from maxsearch.progress import Progress

        options = EvaluateOptions(
            products=self.products,
            queries=self.queries,
            qrels=self.qrels,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            k=self.k,
            relevant_grade=self.relevant_grade,
            save_run=self.save_run,
            compare=self.compare,
            max_bad_fraction=self.max_bad_fraction,
            seed=self.seed,
        )
        if (self.run_folder is None) == (self.model is None):
            raise UsageError("give the model to evaluate with either --run or --model")
        if self.step is not None and self.run_folder is None:
            raise UsageError("--step names a checkpoint of a run: give --run, or leave --step out")
        if self.out is not None and self.out.is_dir():
            raise UsageError(f"--out {self.out} is a folder: give the name of a file")
        if self.model is not None:
            encoder = Encoder.from_model(self.model)
        else:
            assert self.run_folder is not None
            encoder = Encoder.from_run(self.run_folder, self.step)
        evaluation = evaluate(options, encoder, Progress())
        print_table(evaluation)
        if self.out is not None:
            write_json(self.out, evaluation.to_json())


@dataclass(frozen=True)
class Export:
    """Write a run's averaged parameters as safetensors, config and tokenizer, and check that they read back."""

    run_folder: Annotated[Path, arg(name="run")]
    """The run."""
    out: Path
    """The model folder to write; an older model there is replaced as a whole."""
    step: OptionalInt = None
    """Which checkpoint; the latest by default."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.serving.export import export

        encoder = Encoder.from_run(self.run_folder, self.step)
        manifest = export(encoder, self.out, reload=Encoder.from_model, step=encoder.step)
        size = sum(entry["bytes"] for entry in manifest["files"].values())
        print(f"{self.out}: model {manifest['fingerprint'][:12]} of step {encoder.step}, {size / 1e6:.1f} MB")


@dataclass(frozen=True)
class Index:
    """`index build`: embed a catalogue and write a searchable index."""

    action: Positional[Literal["build"]]
    """What to do."""
    model: Path
    """The exported model."""
    out: Path
    """The index folder to write; an older index there is replaced as a whole."""
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
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.progress import Progress
        from maxsearch.serving.catalogue import catalogue
        from maxsearch.serving.index import build_index

        encoder = Encoder.from_model(self.model)
        products = catalogue(
            products=self.products,
            data=self.data,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            edge=encoder.image_edge,
            max_bad_fraction=self.max_bad_fraction,
        )
        manifest = build_index(encoder, products, self.out, kind=self.kind, progress=Progress())
        print(
            f"{self.out}: {manifest['count']:,} products, {manifest['index']['kind']} index, "
            f"{manifest['dim']} dimensions"
        )


@dataclass(frozen=True)
class Search:
    """Search an index."""

    query: Annotated[Positional[str], arg(metavar="QUERY")]
    """What the shopper types."""
    index: Path = Path("index")
    """The index folder."""
    model: Path = Path("model")
    """The exported model that built it."""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """How many products."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object per product instead of a table."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.serving.index import open_index
        from maxsearch.serving.results import print_hits
        from maxsearch.serving.search import search

        print_hits(
            search(open_index(self.index), Encoder.from_model(self.model), self.query, self.k), as_json=self.json
        )


@dataclass(frozen=True)
class Quickstart:
    """Draw a catalogue of a few thousand products and take it through every step, to search results."""

    out: Path = Path("quickstart")
    """Folder for data/, run/, model/, index/ and results.json."""
    products: int = 3000
    """Products to draw."""
    steps: OptionalInt = None
    """Updates to make; by default those of the preset."""
    seed: int = 0
    """Of the catalogue and the training."""

    def run(self) -> None:
        from maxsearch.quickstart import quickstart

        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        quickstart(self.out, products=self.products, steps=self.steps, seed=self.seed)


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """The --map flag as a dict."""
    from maxsearch.data.tables import parse_mapping

    return parse_mapping(pairs, MAP_FIELDS)
