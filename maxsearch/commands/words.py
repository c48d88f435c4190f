"""The sub-command `words`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Words:
    """Tell which words an aligner sees in pictures, and how often they name the products' attributes."""

    products: Path
    """The catalogue, in any format that `prepare` reads, with the attributes as columns."""
    attributes: Annotated[tuple[str, ...], arg(metavar="COLUMN ...")]
    """Attributes that the words should name, such as colour article_type."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run with an aligner, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint."""
    alignments: OptionalPath = None
    """alignments.jsonl of a synthetic catalogue, for the pointing game."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""
    out: OptionalPath = None
    """Where to write the figures as JSON."""

    def run(self) -> None:
        """Reads, explains, prints and writes."""
        from maxsearch.encode import Encoder
        from maxsearch.explain.pointing import read_alignments
        from maxsearch.explain.words import picture_words
        from maxsearch.explain.words_table import print_report
        from maxsearch.files import write_json
        from maxsearch.serving.catalogue import catalogue

        if (self.run_folder is None) == (self.model is None):
            raise UsageError("give the model to explain with either --run or --model")
        if self.step is not None and self.run_folder is None:
            raise UsageError("--step names a checkpoint of a run: give --run, or leave --step out")
        if self.out is not None and self.out.is_dir():
            raise UsageError(f"--out {self.out} is a folder: give the name of a file")
        alignments = None if self.alignments is None else read_alignments(self.alignments)
        if self.model is not None:
            encoder = Encoder.from_model(self.model)
        else:
            assert self.run_folder is not None
            encoder = Encoder.from_run(self.run_folder, self.step)
        products = catalogue(
            products=self.products,
            data=None,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            edge=encoder.image_edge,
            max_bad_fraction=self.max_bad_fraction,
        )
        report = picture_words(encoder, products, self.attributes, alignments=alignments)
        print_report(report)
        if self.out is not None:
            write_json(self.out, report)
