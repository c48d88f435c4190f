"""The sub-command `embed`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, loaded_encoder, require_one_model


@dataclass(frozen=True)
class Embed:
    """Write the vectors of products or queries as .npy or Parquet. Interrupted, the same command goes on."""

    out: Path
    """The file to write, ending in .npy (identifiers go to NAME.ids.txt) or .parquet."""
    products: OptionalPath = None
    """The catalogue, in any format that `prepare` reads."""
    queries: OptionalPath = None
    """Queries, as `evaluate` reads them; beside --products they go to NAME.queries.npy or .parquet."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run to embed with, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=productDisplayName."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    vectors: Literal["p", "t", "v", "all"] = "p"
    """Of products: fused, title only, image only, or (Parquet) all three and the weights of title and image."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the vectors; bfloat16 in .npy only, to be read with .view(ml_dtypes.bfloat16)."""
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""

    def run(self) -> None:
        from maxsearch.embeddings.embed import EmbedOptions, embed
        from maxsearch.progress import Progress

        options = EmbedOptions(
            out=self.out,
            products=self.products,
            queries=self.queries,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            vectors=self.vectors,
            dtype=self.dtype,
            max_bad_fraction=self.max_bad_fraction,
        )
        require_one_model(self.run_folder, self.model, self.step, None)
        encoder = loaded_encoder(self.run_folder, self.model, self.step, None)
        for path, count in embed(options, encoder, encoder.image_edge, Progress()).items():
            print(f"{path}: {count:,} vectors of {encoder.dim} dimensions, {self.dtype}")
