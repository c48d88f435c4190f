"""The sub-command `words`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, loaded_encoder, require_one_model


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
        from maxsearch.explain.pointing import read_alignments
        from maxsearch.explain.words import picture_words
        from maxsearch.explain.words_table import print_report
        from maxsearch.files import write_json
        from maxsearch.serving.catalogue import catalogue

        require_one_model(self.run_folder, self.model, self.step, self.out)
        alignments = None if self.alignments is None else read_alignments(self.alignments)
        encoder = loaded_encoder(self.run_folder, self.model, self.step, self.out)
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
