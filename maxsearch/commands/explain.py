"""The sub-command `explain`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, loaded_encoder, require_one_model
from maxsearch.errors import UsageError

if TYPE_CHECKING:
    from maxsearch.data.records import Product

MOST_PAIRS = 200


@dataclass(frozen=True)
class Explain:
    """Tell why products have their scores: shares of title and image, and where the picture shows each word."""

    query: Annotated[tuple[str, ...], arg(metavar="TEXT ...")] = ()
    """What a shopper types; several queries in quotes."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run to explain, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint."""
    products: OptionalPath = None
    """The catalogue, in any format that `prepare` reads."""
    product: Annotated[tuple[str, ...], arg(metavar="ID ...")] = ()
    """Products of the catalogue, by id."""
    image: OptionalPath = None
    """A picture of your own, in place of --products and --product."""
    title: Annotated[str, arg(metavar="TEXT")] = ""
    """The title that belongs to --image."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    out: OptionalPath = None
    """Where to write an HTML page."""
    png: OptionalPath = None
    """Folder for one figure per query and product."""
    json: OptionalPath = None
    """Where to write everything as JSON."""
    alignments: OptionalPath = None
    """alignments.jsonl of a synthetic catalogue: plays the pointing game with --products, in place of a query."""
    most: int = 500
    """Products to play the pointing game with."""

    def run(self) -> None:
        """Reads, explains, prints and writes."""
        self._check()
        if self.alignments is not None:
            self._play()
            return
        from maxsearch.explain.explain import explain_queries
        from maxsearch.explain.summary import print_explanation
        from maxsearch.files import write_json

        encoder = loaded_encoder(self.run_folder, self.model, self.step, self.out)
        explanations, pictures = [], []
        for product in self._products(encoder.image_edge):
            told = explain_queries(encoder, self.query, product)
            explanations += told
            pictures += [self._picture(product, encoder)] * len(told)
        for one in explanations:
            print_explanation(one)
        if self.out is not None:
            from maxsearch.explain.page import write_page

            size = write_page(self.out, explanations, pictures)
            print(f"{self.out}: {size / 2**20:.1f} MB")
        if self.png is not None:
            from maxsearch.explain.figure import write_figures

            for path in write_figures(self.png, explanations, pictures):
                print(path)
        if self.json is not None:
            write_json(self.json, [one.to_json() for one in explanations])

    def _check(self) -> None:
        require_one_model(self.run_folder, self.model, self.step, self.out)
        if self.json is not None and self.json.is_dir():
            raise UsageError(f"--json {self.json} is a folder: give the name of a file")
        if self.png is not None and self.png.exists() and not self.png.is_dir():
            raise UsageError(f"--png {self.png} is a file: give the name of a folder")
        if self.alignments is not None:
            if self.products is None or self.query or self.product or self.image or self.out or self.png:
                raise UsageError("--alignments plays with the products of --products: give only these two and --json")
            if self.most < 1:
                raise UsageError(f"--most must be at least 1, not {self.most}")
            return
        if not self.query or not all(query.split() for query in self.query):
            raise UsageError("--query is empty: type what the shopper is looking for")
        if (self.image is None) == (self.products is None) or (self.products is None) != (not self.product):
            raise UsageError("give either --products FILE with --product ID, or --image FILE")
        if self.title and self.image is None:
            raise UsageError("--title belongs to --image: leave it out, or give a picture")
        if len(self.query) * len(self.product) > MOST_PAIRS:
            raise UsageError(
                f"{len(self.query)} queries by {len(self.product)} products are more than {MOST_PAIRS} pairs: "
                "ask for fewer"
            )

    def _products(self, edge: int) -> "list[Product]":
        from maxsearch.explain.find import find_products, product_of_image

        if self.image is not None:
            return [product_of_image(self.image, self.title, edge)]
        assert self.products is not None
        return find_products(
            self.products, self.product, columns=columns_of(self.map), image_dir=self.image_dir, edge=edge
        )

    def _picture(self, product: "Product", encoder: Any) -> Any:
        from maxsearch.explain.heat import shown_picture

        return None if product.image is None else shown_picture(product.image, encoder.config.model.image.size)

    def _play(self) -> None:
        from maxsearch.explain.pointing import play, read_alignments
        from maxsearch.explain.summary import print_pointing
        from maxsearch.files import write_json
        from maxsearch.serving.catalogue import catalogue

        assert self.alignments is not None
        known = read_alignments(self.alignments)
        encoder = loaded_encoder(self.run_folder, self.model, self.step, self.out)
        products = catalogue(
            products=self.products,
            data=None,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            edge=encoder.image_edge,
            max_bad_fraction=0.01,
        )
        figures = play(encoder, products, known, self.most)
        print_pointing(figures)
        if self.json is not None:
            write_json(self.json, figures)
