"""A catalogue embedded by a model and ranked in one pass over its file."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from maxsearch.data.catalogue import BadRecord, product_columns, read_products
from maxsearch.data.records import Product
from maxsearch.data.tables.read import Columns, row_count
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.rankers import Ranker, Task, VectorRanking
from maxsearch.evaluation.retrieval import Ranking
from maxsearch.evaluation.runs import require_trec_identifier
from maxsearch.evaluation.training_data import keys_of
from maxsearch.progress import Progress

OURS = "ours"
TEXT_ONLY = "ours, text only"
IMAGE_ONLY = "ours, image only"


@runtime_checkable
class Encoded(Protocol):
    """A batch of products with their fused, title and image vectors."""

    @property
    def products(self) -> Sequence[Product]:
        """The batch in the order it was given."""
        ...

    @property
    def p(self) -> Float32[np.ndarray, "N D"]:
        """Fused vectors."""
        ...

    @property
    def t(self) -> Float32[np.ndarray, "N D"]:
        """Title vectors."""
        ...

    @property
    def v(self) -> Float32[np.ndarray, "N D"]:
        """Image vectors."""
        ...

    @property
    def weights(self) -> Float32[np.ndarray, "N 2"]:
        """How much title and image weigh in the fused vectors."""
        ...


@runtime_checkable
class ProductEncoder(Protocol):
    """What is evaluated: a model that embeds queries and products into one space."""

    @property
    def image_edge(self) -> int:
        """Longest side of a picture in pixels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the model."""
        ...

    def encode_queries(self, queries: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """One vector per query."""
        ...

    def encode_products(self, products: Iterable[Product]) -> Iterable[Encoded]:
        """Batches of products with their vectors, in order."""
        ...


@runtime_checkable
class Scored(Protocol):
    """What a ranker found; see `Ranker`."""

    def ranking(self) -> Ranking:
        """The best products of each query."""
        ...

    def scores(self, pairs: Int[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """The score of each (position of the query, position of the judged product)."""
        ...


@dataclass
class Catalogue:
    """What stays of the ranked products.

    Attributes:
      ids: product identifiers by catalogue position.
      titles: their titles, each with the further texts behind it.
      pictured: 1 for each product with a picture, else 0.
      attributes: by name, the attributes that are asked for.
      weights: how much title and image weigh; empty when that is not asked for.
      id_keys, title_keys, image_keys: 64-bit keys of what tells products apart; empty when they are not asked for.
      rejected: number of unusable rows by code.
      first_rejected: row and reason of the first unusable row by code.
    """

    ids: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    pictured: bytearray = field(default_factory=bytearray)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    weights: list[Float32[np.ndarray, "N 2"]] = field(default_factory=list)
    id_keys: array = field(default_factory=lambda: array("Q"))
    title_keys: array = field(default_factory=lambda: array("Q"))
    image_keys: array = field(default_factory=lambda: array("Q"))
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, products: Sequence[Product], *, keyed: bool) -> None:
        """Takes the next products.

        Args:
          products: in the order of the catalogue.
          keyed: whether their keys are kept.
        """
        for product in products:
            self.ids.append(product.product_id)
            self.titles.append(" ".join(filter(None, (product.title, *product.texts))))
            self.pictured.append(product.image is not None)
            for name, values in self.attributes.items():
                values.append(product.attributes.get(name, ""))
            if keyed:
                identity, title, image = keys_of(product)
                self.id_keys.append(identity)
                self.title_keys.append(title)
                self.image_keys.append(image)


@dataclass(frozen=True)
class ProductsFile:
    """Where the catalogue comes from.

    Attributes:
      path: the products file, in any format that `prepare` reads.
      columns: column per field (`--map`).
      image_dir: folder of the pictures when the image column holds paths.
      max_bad_fraction: share of the rows that may be unusable.
    """

    path: Path
    columns: Columns
    image_dir: Path | None
    max_bad_fraction: float


def rank_catalogue(
    file: ProductsFile,
    encoder: ProductEncoder,
    task: Task,
    baselines: Sequence[Ranker] = (),
    *,
    parts: bool,
    trec_identifiers: bool,
    weights: bool = False,
    attributes: Sequence[str] = (),
    keyed: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Scored], Catalogue]:
    """Embeds a catalogue in one pass over its file, in which every ranker sees it.

    Args:
      file: the catalogue.
      encoder: the model.
      task: what is asked.
      baselines: further rankers, each of a name of its own.
      parts: whether the title vectors alone and the image vectors alone are ranked too, where any product has them.
      trec_identifiers: whether every product identifier must fit into a TREC run.
      weights: whether the modality weights are kept.
      attributes: those that are kept.
      keyed: whether 64-bit keys of identifiers, titles and pictures are kept.
      progress: where to report.

    Returns:
      what was found by name ("ours", "ours, text only", "ours, image only", then the baselines), and the catalogue.

    Raises:
      UsageError, MaxsearchError: the file cannot be read, is empty, or has too many unusable rows.
    """
    # A missing column is told before anything is embedded.
    product_columns(file.path, file.columns)
    for baseline in baselines:
        baseline.start(task)
    vectors = encoder.encode_queries(task.queries)
    vectors_of: dict[str, Callable[[Encoded], Float32[np.ndarray, "N D"]]] = {OURS: lambda batch: batch.p}
    if parts:
        vectors_of[TEXT_ONLY] = lambda batch: batch.t
        vectors_of[IMAGE_ONLY] = lambda batch: batch.v
    ours = {name: VectorRanking(task, vectors) for name in vectors_of}
    catalogue = Catalogue(attributes={name: [] for name in attributes})
    for batch in encoder.encode_products(usable(file, encoder.image_edge, catalogue, progress)):
        products = batch.products
        if trec_identifiers:
            for product in products:
                require_trec_identifier(product.product_id, what="product")
        catalogue.add(products, keyed=keyed)
        if weights:
            catalogue.weights.append(batch.weights)
        identifiers = [product.product_id for product in products]
        for name, ranker in ours.items():
            ranker.add(identifiers, vectors_of[name](batch))
        for baseline in baselines:
            baseline.add(products)
    _require_usable(file, catalogue)
    if not any(catalogue.titles):
        ours.pop(TEXT_ONLY, None)
    if not any(catalogue.pictured):
        ours.pop(IMAGE_ONLY, None)
    return {**ours, **{baseline.name: baseline for baseline in baselines}}, catalogue


def usable(
    file: ProductsFile,
    edge: int,
    catalogue: Catalogue,
    progress: Progress | None = None,
    what: str = "embedding products",
) -> Iterator[Product]:
    """The products of a catalogue that can be ranked, in order; the others are counted in `catalogue`.

    Args:
      file: the catalogue.
      edge: longest side of a picture in pixels.
      catalogue: where unusable rows are counted.
      progress: where to report.
      what: is being done, for the report.
    """
    rows: Iterable[tuple[int, Product | BadRecord]] = read_products(
        file.path, columns=file.columns, image_dir=file.image_dir, edge=edge
    )
    if progress is not None:
        rows = progress.track(rows, what, row_count(file.path))
    for row, product in rows:
        if isinstance(product, BadRecord):
            catalogue.rejected[product.code] += 1
            catalogue.first_rejected.setdefault(product.code, (row, product.reason))
        else:
            yield product


def _require_usable(file: ProductsFile, catalogue: Catalogue) -> None:
    bad = catalogue.rejected.total()
    total = bad + len(catalogue.ids)
    if bad > file.max_bad_fraction * total:
        code, count = catalogue.rejected.most_common(1)[0]
        row, reason = catalogue.first_rejected[code]
        raise MaxsearchError(
            f"{bad} of {total} rows of the products file {file.path} cannot be used, {count} of them for {code} "
            f"(row {row} {reason}): mend the file or raise --max-bad-fraction {file.max_bad_fraction:g}"
        )
    if not catalogue.ids:
        raise MaxsearchError(f"the products file {file.path} holds no product: give a file with rows")
