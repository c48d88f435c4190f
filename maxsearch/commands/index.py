"""The sub-command `index`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from maxsearch.commands.flags import Mapping, OptionalPath, columns_of


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
