"""A catalogue embedded by a model and ranked in one pass over its file."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from maxsearch.data.catalogue import BadRecord, product_columns, read_products
from maxsearch.data.records import Product
from maxsearch.data.tables import Columns, row_count
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.retrieval import Ranking, TopK
from maxsearch.evaluation.runs import require_trec_identifier
from maxsearch.evaluation.weights import require_attribute
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


@dataclass
class Catalogue:
    """What stays of the ranked products.

    Attributes:
      ids: product identifiers by catalogue position.
      titles: their titles, each with the further texts behind it.
      images: number of products with a picture.
      values, weights: of the attribute by which modality weights are asked for, and the weights; empty when they are
        not.
      rejected: number of unusable rows by code.
      first_rejected: row and reason of the first unusable row by code.
    """

    ids: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    images: int = 0
    values: list[str] = field(default_factory=list)
    weights: list[Float32[np.ndarray, "N 2"]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: dict[str, tuple[int, str]] = field(default_factory=dict)


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
    queries: Sequence[str],
    k: int,
    *,
    parts: bool,
    trec_identifiers: bool,
    weights_by: str | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Ranking], Catalogue]:
    """Embeds a catalogue in one pass and ranks it for every query.

    Args:
      file: the catalogue.
      encoder: the model.
      queries: query texts.
      k: ranks per query, cut to the size of the catalogue.
      parts: whether the title vectors alone and the image vectors alone are ranked too, where any product has them.
      trec_identifiers: whether every product identifier must fit into a TREC run.
      weights_by: the attribute whose values are kept beside the modality weights; None keeps neither.
      progress: where to report.

    Returns:
      the rankings by name ("ours", "ours, text only", "ours, image only"), and the catalogue.

    Raises:
      UsageError, MaxsearchError: the file cannot be read, is empty, or has too many unusable rows.
    """
    # A missing column is told before anything is embedded.
    columns = product_columns(file.path, file.columns)
    if weights_by is not None:
        require_attribute(file.path, columns, weights_by)
    vectors = encoder.encode_queries(queries)
    vectors_of: dict[str, Callable[[Encoded], Float32[np.ndarray, "N D"]]] = {OURS: lambda batch: batch.p}
    if parts:
        vectors_of[TEXT_ONLY] = lambda batch: batch.t
        vectors_of[IMAGE_ONLY] = lambda batch: batch.v
    best = {name: TopK(vectors, k) for name in vectors_of}
    catalogue = Catalogue()
    for batch in encoder.encode_products(usable(file, encoder.image_edge, catalogue, progress)):
        for product in batch.products:
            if trec_identifiers:
                require_trec_identifier(product.product_id, what="product")
            catalogue.ids.append(product.product_id)
            catalogue.titles.append(" ".join(filter(None, (product.title, *product.texts))))
            catalogue.images += product.image is not None
        if weights_by is not None:
            catalogue.values += [product.attributes.get(weights_by, "") for product in batch.products]
            catalogue.weights.append(batch.weights)
        for name, top in best.items():
            top.add(vectors_of[name](batch))
    _require_usable(file, catalogue)
    if not any(catalogue.titles):
        best.pop(TEXT_ONLY, None)
    if not catalogue.images:
        best.pop(IMAGE_ONLY, None)
    return {name: top.ranking() for name, top in best.items()}, catalogue


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
