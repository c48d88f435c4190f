"""The sub-command `same-style`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, loaded_encoder
from maxsearch.errors import UsageError

if TYPE_CHECKING:
    from maxsearch.evaluation.product_vectors import Source


@dataclass(frozen=True)
class SameStyle:
    """Rank a catalogue for its own products, as eSSPR evaluates same-style products."""

    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run to evaluate, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model to evaluate, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint to evaluate."""
    products: OptionalPath = None
    """The catalogue, in any format that `prepare` reads."""
    pairs: OptionalPath = None
    """A table with left_id, the query, and right_id, a product of the same style."""
    group: Annotated[tuple[str, ...], arg(metavar="COLUMN ...")] = ()
    """In place of --pairs: products that share the values of these columns are of one style; `variant` is the variant
    group."""
    esspr: OptionalPath = None
    """In place of --products and --pairs: the folder of your download of eSSPR."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map left_id=trigger_id right_id=recall_id."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    directions: Annotated[tuple[str, ...], arg(metavar="DIRECTION ...")] = (
        "m-m",
        "t-t",
        "v-v",
        "t-m",
        "v-m",
        "t-v",
        "v-t",
    )
    """What ranks what, of m (fused), t (text) and v (pictures): t-m has a product's text rank the others' fused
    vectors."""
    most_queries: int = 10_000
    """How many products are queries at most, drawn evenly; 0 for all."""
    out: OptionalPath = None
    """Where to write the figures as JSON."""
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""
    seed: int = 0
    """Of the bootstrap and the draw."""

    def run(self) -> None:
        from maxsearch.evaluation.protocol_tables import print_same_style, same_style_json
        from maxsearch.evaluation.same_style import SameStyleOptions, evaluate_same_style
        from maxsearch.files import write_json
        from maxsearch.progress import Progress

        options = SameStyleOptions(self.directions, self.group, self.most_queries, self.seed)
        source, pairs = self._given()
        encoder = loaded_encoder(self.run_folder, self.model, self.step, self.out)
        figures = evaluate_same_style(source, pairs, encoder, options, Progress())
        print_same_style(figures)
        if self.out is not None:
            write_json(self.out, same_style_json(figures))

    def _given(self) -> "tuple[Source, list[tuple[str, str]] | None]":
        """The catalogue, and the pairs of identifiers where they are given."""
        from maxsearch.data.layouts import open_layout
        from maxsearch.evaluation.product_vectors import Source
        from maxsearch.evaluation.same_style import read_pairs

        columns = columns_of(self.map)
        if self.esspr is not None:
            if self.products is not None or self.pairs is not None or self.group:
                raise UsageError("--esspr stands in place of --products, --pairs and --group: give one or the other")
            every, judged = (open_layout("esspr", self.esspr, split) for split in ("all", "test"))
            assert judged.judgments is not None
            told = [(left, right) for left, _, right, grade in judged.judgments() if grade]
            image_dir = self.image_dir or every.image_dir
            return Source(every.products, columns, image_dir, self.max_bad_fraction), told
        if self.products is None:
            raise UsageError("there is no catalogue: give --products, or --esspr")
        # Read at once: an error in the pairs is told before a model is loaded.
        pairs = None if self.pairs is None else list(read_pairs(self.pairs, columns))
        return Source(self.products, columns, self.image_dir, self.max_bad_fraction), pairs
