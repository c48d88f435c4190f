"""All vectors of a catalogue in memory, for protocols in which products are the queries too."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from maxsearch.data.catalogue import BadRecord, read_products
from maxsearch.data.records import Product
from maxsearch.data.tables.files import Columns
from maxsearch.data.tables.parts import TableSource
from maxsearch.data.tables.read import row_count
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.embedded import ProductEncoder
from maxsearch.progress import Progress


@dataclass(frozen=True)
class Source:
    """Where products come from.

    Attributes:
      products: in any format that `prepare` reads.
      columns: column per field (`--map`).
      image_dir: folder of the pictures when the image column holds paths.
      max_bad_fraction: share of the rows that may be unusable.
    """

    products: TableSource
    columns: Columns
    image_dir: Path | None
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class ProductVectors:
    """What is kept of a catalogue, by position.

    Attributes:
      ids: product identifiers.
      vectors: N vectors by kind: "p" fused, "t" of the text, "v" of the pictures.
      titled, pictured: which products have text, and which a picture.
      groups: the values of the columns that were asked for; of length 0 when none was.
      rejected: number of unusable rows by code.
    """

    ids: list[str]
    vectors: dict[str, Float32[np.ndarray, "N D"]]
    titled: Bool[np.ndarray, " N"]
    pictured: Bool[np.ndarray, " N"]
    groups: list[tuple[str, ...]]
    rejected: dict[str, int]


def product_vectors(
    source: Source,
    encoder: ProductEncoder,
    kinds: Sequence[str],
    *,
    group: Sequence[str] = (),
    progress: Progress | None = None,
) -> ProductVectors:
    """Embeds a catalogue and keeps the vectors: 4 D bytes a product for each kind.

    Args:
      source: the catalogue.
      encoder: the model.
      kinds: of "p", "t" and "v".
      group: attributes whose values are kept; "variant" is the product's variant group.
      progress: where to report.

    Raises:
      UsageError, MaxsearchError: the catalogue cannot be read, is empty, or has too many unusable rows; or a vector is
        not finite.
    """
    rejected: Counter[str] = Counter()
    first: dict[str, str] = {}

    def usable() -> Iterator[Product]:
        rows: Iterable[tuple[int, Product | BadRecord]] = read_products(
            source.products, columns=source.columns, image_dir=source.image_dir, edge=encoder.image_edge
        )
        if progress is not None:
            rows = progress.track(rows, "embedding products", row_count(source.products))
        for row, product in rows:
            if isinstance(product, BadRecord):
                rejected[product.code] += 1
                first.setdefault(product.code, f"row {row} {product.reason}")
            else:
                yield product

    ids: list[str] = []
    groups: list[tuple[str, ...]] = []
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    titled: list[bool] = []
    pictured: list[bool] = []
    for batch in encoder.encode_products(usable()):
        for product in batch.products:
            ids.append(product.product_id)
            titled.append(bool(product.title or any(product.texts)))
            pictured.append(product.image is not None)
            values = {"variant": product.variant, **product.attributes}
            groups.append(tuple(values.get(name, "") for name in group))
        for kind, kept in parts.items():
            kept.append(np.asarray(getattr(batch, kind), np.float32))
    _require_usable(source, len(ids), rejected, first)
    vectors = {kind: np.concatenate(kept) for kind, kept in parts.items()}
    for kind, whole in vectors.items():
        require_finite(whole, f"{kind} vectors of the products")
    return ProductVectors(
        ids, vectors, np.array(titled, bool), np.array(pictured, bool), groups, dict(sorted(rejected.items()))
    )


def require_finite(vectors: Float32[np.ndarray, "N D"], what: str) -> None:
    """Refuses the vectors of a broken model.

    Raises:
      MaxsearchError: one holds NaN or infinity.
    """
    if not np.isfinite(vectors).all():
        raise MaxsearchError(
            f"the {what} hold NaN or infinity: the model is broken; evaluate an earlier checkpoint or train again"
        )


def _require_usable(source: Source, sound: int, rejected: Counter[str], first: dict[str, str]) -> None:
    bad = rejected.total()
    if bad > source.max_bad_fraction * (bad + sound):
        code, count = rejected.most_common(1)[0]
        raise MaxsearchError(
            f"{bad} of {bad + sound} rows of the products file {source.products} cannot be used, {count} of them for "
            f"{code} ({first[code]}): mend the file or raise --max-bad-fraction {source.max_bad_fraction:g}"
        )
    if not sound:
        raise MaxsearchError(f"the products file {source.products} holds no product: give a file with rows")
