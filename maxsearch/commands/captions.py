"""The sub-command `captions`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, loaded_encoder
from maxsearch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from maxsearch.evaluation.product_vectors import Source


@dataclass(frozen=True)
class Captions:
    """Rank pictures for captions and captions for pictures, as COCO and Flickr30k are evaluated."""

    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run to evaluate, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model to evaluate, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint to evaluate."""
    source: Annotated[Literal["coco", "flickr30k"] | None, arg(metavar="NAME")] = None
    """A public dataset in place of --products and --captions: coco or flickr30k."""
    path: OptionalPath = None
    """The folder of your download of --source."""
    split: str = "test"
    """The split of --source."""
    source_options: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = ()
    """What else to choose of --source: --source-options splits=karpathy."""
    products: OptionalPath = None
    """The pictures, as products in any format that `prepare` reads."""
    captions: OptionalPath = None
    """A table with image_id, which is the product_id, and caption; a picture may come several times."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map caption=text product_id=image_id."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    text_encoder: Literal["query", "title"] = "query"
    """The tower that reads the captions."""
    image: Literal["v", "p"] = "v"
    """The vectors of pictures: v of the picture alone, p fused with the title where there is one."""
    captions_per_image: int = 5
    """How many of a picture's captions are used, the first ones; 0 for all."""
    folds: int = 1
    """Parts that the pictures are cut into, each ranked on its own: 5 for COCO's 5-fold 1K."""
    out: OptionalPath = None
    """Where to write the figures as JSON."""
    max_bad_fraction: float = 0.01
    """Share of the products' rows that may be unusable."""
    seed: int = 0
    """Of the bootstrap."""

    def run(self) -> None:
        from maxsearch.evaluation.captions import CaptionOptions, evaluate_captions
        from maxsearch.evaluation.protocol_tables import captions_json, print_captions
        from maxsearch.files import write_json
        from maxsearch.progress import Progress

        options = CaptionOptions(
            text_encoder=self.text_encoder,
            image=self.image,
            captions_per_image=self.captions_per_image,
            folds=self.folds,
            seed=self.seed,
        )
        source, captions = self._given()
        encoder = loaded_encoder(self.run_folder, self.model, self.step, self.out)
        figures = evaluate_captions(source, captions, encoder, options, Progress())
        print_captions(figures)
        if self.out is not None:
            write_json(self.out, captions_json(figures))

    def _given(self) -> "tuple[Source, Iterable[tuple[str, str]]]":
        """Where the pictures come from, and each caption with its picture."""
        from maxsearch.data.layouts import open_layout
        from maxsearch.evaluation.captions import read_captions
        from maxsearch.evaluation.product_vectors import Source

        columns = columns_of(self.map)
        if self.source is None:
            if self.path is not None or self.source_options:
                raise UsageError("--path and --source-options belong to a public dataset: name it with --source too")
            if self.products is None or self.captions is None:
                raise UsageError("there is nothing to rank: give --products and --captions, or --source and --path")
            # Read at once: an error in the captions is told before a model is loaded.
            captions = list(read_captions(self.captions, columns))
            return Source(self.products, columns, self.image_dir, self.max_bad_fraction), captions
        if self.products is not None or self.captions is not None:
            raise UsageError("--source stands in place of --products and --captions: give one or the other")
        if self.path is None:
            raise UsageError(f"--source {self.source} is read from your own download: name its folder with --path")
        download = open_layout(self.source, self.path, self.split, self.source_options)
        assert download.judgments is not None
        captions = [(image, " ".join(text.split())) for _, text, image, _ in download.judgments()]
        image_dir = self.image_dir or download.image_dir
        return Source(download.products, columns, image_dir, self.max_bad_fraction), captions
