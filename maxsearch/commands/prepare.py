"""The sub-command `prepare`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, encoder_at
from maxsearch.data.tables.remote import is_url
from maxsearch.errors import UsageError

if TYPE_CHECKING:
    from maxsearch.data.layouts.layout import Download
    from maxsearch.prepare.run import Runner

OptionalTable = Annotated[str | None, arg(metavar="PATH")]


@dataclass(frozen=True)
class Prepare:
    """Turn a catalogue and its clicks into verified, checksummed training shards."""

    out: Annotated[str, arg(metavar="PATH")]
    """The dataset folder to write; an older dataset there is replaced as a whole. The fsspec URL of an empty folder
    (gs://, s3://) does too: copy the dataset from there to the disks of those who train on it."""
    products: OptionalTable = None
    """The catalogue: CSV, TSV, JSONL or Parquet with product_id, title, image (bytes, or paths below --image-dir), or a
    WebDataset .tar; one file, a quoted glob, a folder, hive-partitioned too, an fsspec URL of these, or a prepared
    folder."""
    interactions: OptionalTable = None
    """What shoppers did: a table, likewise, with query, product_id and an optional weight."""
    source: Annotated[str | None, arg(metavar="NAME")] = None
    """A public dataset in place of --products and --interactions: esci, sqid, wands, marqo-gs, esspr, coco or
    flickr30k."""
    path: OptionalPath = None
    """The folder of your download of --source."""
    split: str = "train"
    """The split of --source."""
    source_options: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = ()
    """What else to choose of --source: --source-options locale=jp version=large."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=productDisplayName weight=clicks. image and text may
    come again: --map image=front image=back text=brand text=description."""
    image_edge: int = 224
    """Longest side of a stored picture in pixels; larger ones are shrunk, smaller ones are left alone."""
    max_bad_fraction: float = 0.01
    """Share of a file's rows that may be unusable before the command fails."""
    shard_records: int = 8192
    """Records in a shard."""
    keywords: int = 2048
    """Size of the vocabulary of keywords, the frequent words of queries and titles; 0 makes none."""
    position_power: float = 1.0
    """How steeply attention falls with the position that --map position=COLUMN names: a click's weight is multiplied by
    position^power, the inverse of the propensity that it was looked at."""
    group_duplicates: tuple[Literal["image", "title"], ...] = ()
    """Makes products that share all of these one variant group, where the catalogue names none: the same front picture,
    pixel by pixel, the same title but for case, width and spaces."""
    splits: Annotated[tuple[str, ...], arg(metavar="PART=SHARE ...")] = ()
    """Holds out products, queries and pairs of them by a stable hash: --splits dev=0.05 test=0.05 writes OUT/train,
    OUT/dev and OUT/test, with clicks as judgments of seen and of new queries and products in the last two. Those of a
    --source are then left out."""
    workers: OptionalInt = None
    """Processes that decode pictures; by default one per core when there are many. 0 stays in this process."""
    tokenizer: Annotated[str | None, arg(metavar="FOLDER|train:N")] = None
    """Tokenises every query and text field once: with the fast tokenizer in a folder, or one of at most N tokens that
    is trained on these texts (train:8192). train then takes this tokenizer, and reads token ids from OUT/tokens; with
    --splits from OUT/train."""
    screen: OptionalPath = None
    """A run, or an exported model, that looks for pictures which do not fit title and category (suspects.jsonl)."""
    screen_by: Annotated[str | None, arg(metavar="COLUMN")] = None
    """The attribute column that holds the categories for --screen; by default clusters of titles."""
    on_mismatch: Literal["report", "mask", "relabel"] = "report"
    """What becomes of a suspect: nothing; its pictures are left out; or, where the --screen-by value and not the
    picture is wrong, that is replaced."""

    runner: Literal["embedded", "beam"] = "embedded"
    """Who does the work: this process, or an Apache Beam pipeline (pip install 'maxsearch[beam]'); the result is the
    same, byte by byte."""
    beam_options: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Beam's own options for --runner beam, without their dashes: --beam-options runner=FlinkRunner parallelism=8. By
    default Beam's local runner does the work in this process."""

    def run(self) -> None:
        from maxsearch.data.screening import Screening
        from maxsearch.prepare.run import PrepareOptions, prepare
        from maxsearch.prepare.splits import parse_splits
        from maxsearch.prepare.tokens import Tokenization
        from maxsearch.progress import Progress

        if self.screen is None and (self.screen_by is not None or self.on_mismatch != "report"):
            raise UsageError("--screen-by and --on-mismatch say how to screen: name the model with --screen too")

        if self.beam_options and self.runner != "beam":
            raise UsageError("--beam-options belong to Apache Beam: choose --runner beam too")
        if self.workers is not None and self.runner == "beam":
            raise UsageError("--workers belongs to --runner embedded: give --beam-options direct_num_workers=N")

        given = self._given()
        options = PrepareOptions(
            products=given.products,
            interactions=given.interactions,
            judgments=given.judgments,
            out=self.out if is_url(self.out) else Path(self.out),
            image_dir=self.image_dir or given.image_dir,
            columns=columns_of(self.map),
            image_edge=self.image_edge,
            max_bad_fraction=self.max_bad_fraction,
            shard_records=self.shard_records,
            keywords=self.keywords,
            position_power=self.position_power,
            group_duplicates=self.group_duplicates,
            splits=parse_splits(self.splits),
            workers=self.workers,
            tokenizer=Tokenization.parse(self.tokenizer) if self.tokenizer is not None else None,
            screening=Screening(encoder_at(self.screen), self.screen_by, self.on_mismatch) if self.screen else None,
        )
        manifest = prepare(options, Progress(), self._run_by())
        self._tell(manifest)

    def _tell(self, manifest: dict[str, Any]) -> None:
        """Prints what was written."""
        from maxsearch.data.judgment_files import JUDGMENTS
        from maxsearch.data.screening import findings
        from maxsearch.prepare.splits import TRAIN

        out, rejected = self.out.rstrip("/"), manifest["rejected"]
        unusable = f"{rejected['products'] + rejected['interactions']:,} rows rejected"
        trained = Path(out, TRAIN) if "splits" in manifest else Path(out)
        if "splits" in manifest:
            for part, counts in manifest["parts"].items():
                print(f"{out}/{part}: {counts['products']:,} products, {counts['interactions']:,} interactions")
                for kind, judged in counts["judgments"].items():
                    place = f"{out}/{part}/{JUDGMENTS}/{kind}"
                    print(f"  {judged['judgments']:,} judgments of {judged['queries']:,} queries in {place}")
            print(f"{out}: {unusable}")
        else:
            products, interactions = manifest["products"], manifest["interactions"]
            print(
                f"{out}: {products['count']:,} products, {interactions['count']:,} interactions of "
                f"{interactions['queries']:,} queries, {unusable}"
            )
        for code, count in rejected["by_reason"].items():
            print(f"  {code}: {count:,} (see {out}/{rejected['file']})")
        for code, count in rejected["images"].items():
            print(f"  {code}: {count:,} images left out of products that have others (see the same file)")
        if "judgments" in manifest:
            judgments = manifest["judgments"]
            print(f"  {judgments['judgments']:,} judgments of {judgments['queries']:,} queries in {out}/judgments")
        if self.tokenizer is not None:
            from maxsearch.data.dataset import read_manifest
            from maxsearch.data.tokens.table import TOKENS

            kept = read_manifest(trained)[TOKENS]
            print(f"  the texts of {trained}: {kept['texts']:,} of {kept['tokens']:,} tokens in {trained}/{TOKENS}")
        if self.screen is not None:
            print("\n".join(findings(trained, manifest["screening"])))

    def _run_by(self) -> "Runner":
        from maxsearch.prepare.beam.runner import run as run_beam
        from maxsearch.prepare.embedded.run import run as run_embedded

        return partial(run_beam, flags=self.beam_options) if self.runner == "beam" else run_embedded

    def _given(self) -> "Download":
        """The tables that the flags name."""
        from maxsearch.data.layouts import open_layout
        from maxsearch.data.layouts.layout import Download
        from maxsearch.data.tables.parts import table_at

        if self.source is None:
            if self.products is None or self.interactions is None:
                raise UsageError(
                    "there is nothing to prepare: give --products and --interactions, or --source and --path"
                )
            if self.path is not None or self.source_options:
                raise UsageError("--path and --source-options belong to a public dataset: name it with --source too")
            products, interactions = (
                table_at(self.products, "products file"),
                table_at(self.interactions, "interactions file"),
            )
            return Download(products, interactions)
        if self.products is not None or self.interactions is not None:
            raise UsageError("--source stands in place of --products and --interactions: give one or the other")
        if self.path is None:
            raise UsageError(f"--source {self.source} is read from your own download: name its folder with --path")
        return open_layout(self.source, self.path, self.split, self.source_options)
