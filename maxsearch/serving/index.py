"""Embeds a catalogue once and keeps what a search needs: vectors, items, and the model's fingerprint."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import directory_in_place
from maxsearch.manifest import FolderKind, read_manifest, require_replaceable, write_manifest
from maxsearch.progress import Progress
from maxsearch.serving.encoder import EmbeddingModel
from maxsearch.serving.items import Items, ItemsWriter
from maxsearch.serving.nearest import ExactNearest, Nearest
from maxsearch.serving.scann_index import MIN_ITEMS, ScannSettings, build_scann, open_scann, probe_rows, scann_available
from maxsearch.serving.vectors import VectorWriter

VECTORS = "vectors.npy"
ITEMS = "items.parquet"
SCANN = "scann"

KINDS = ("auto", "exact", "scann")
EXACT_BELOW = 20_000
"""Up to this many products, scoring all of them takes about as long as a tree would."""

INDEX = FolderKind(
    name="maxsearch-index",
    what="index",
    schema_version=1,
    remedy="build it with `maxsearch index build`",
    required=(VECTORS, ITEMS),
    fields={"model_fingerprint": str, "count": int, "dim": int, "index": dict},
)


@dataclass(frozen=True)
class LoadedIndex:
    """An opened index: items by row, the vectors [N, D] (mapped from the file), and the search over them."""

    folder: Path
    manifest: dict[str, Any]
    items: Items
    vectors: Float32[np.ndarray, "N D"]
    nearest: Nearest

    @cached_property
    def ids(self) -> list[str]:
        """Product ids by row."""
        return self.items.ids()

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that embedded the catalogue."""
        return self.manifest["model_fingerprint"]

    def require_model(self, fingerprint: str) -> None:
        """Refuses another model than the one that embedded the catalogue.

        Raises:
          MaxsearchError: the fingerprints differ.
        """
        if fingerprint != self.model_fingerprint:
            raise MaxsearchError(
                f"the index {self.folder} was built with model {self.model_fingerprint[:12]} "
                f"and this model is {fingerprint[:12]}: search with "
                "the model it was built with, or build the index again with `maxsearch index build`"
            )


def build_index(
    encoder: EmbeddingModel,
    products: Iterable[Product],
    out: Path,
    *,
    kind: str = "auto",
    progress: Progress | None = None,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Embeds the products and writes an index folder, which appears whole or not at all.

    Memory stays bounded by a batch, the ids, and (for ScaNN) one copy of the vectors.

    Args:
      encoder: the model; its fingerprint goes into the manifest.
      products: the catalogue, with ids that differ.
      out: the folder; an older index folder there is replaced.
      kind: `exact`, `scann`, or `auto`: exact below `EXACT_BELOW` products or where ScaNN is not installed.
      progress: reports products read.
      batch_size: products embedded at a time.

    Returns:
      The manifest.

    Raises:
      UsageError: an unknown kind, ScaNN asked for where it is not installed or for too few products, or another
        folder stands at `out`.
      MaxsearchError: no products, an id that stands twice, or a vector that is not finite.
    """
    if kind not in KINDS:
        raise UsageError(f"--kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "scann" and not scann_available():
        raise UsageError(
            "--kind scann needs ScaNN, which is not installed here: pip install scann, or pass --kind exact"
        )
    require_replaceable(out, [INDEX])
    tracked = products if progress is None else progress.track(products, "embedding products")
    with directory_in_place(out) as draft:
        with VectorWriter(draft / VECTORS, encoder.dim) as vectors, ItemsWriter(draft / ITEMS) as items:
            for batch in encoder.encode_products(_with_own_ids(tracked), batch_size):
                _require_finite(batch.p, batch.products, first=vectors.count + 1)
                vectors.extend(batch.p)
                items.extend(batch.products)
        count = vectors.count
        if count == 0:
            raise MaxsearchError(
                "the catalogue holds no products to index: check the products file and its rejected rows"
            )
        chosen = _choose_kind(kind, count)
        index: dict[str, Any] = {"kind": chosen}
        if chosen == "scann":
            index |= asdict(_build_scann(draft, encoder))
        fields = {"model_fingerprint": encoder.fingerprint, "count": count, "dim": encoder.dim, "index": index}
        return write_manifest(draft, INDEX, fields)


def open_index(folder: Path, *, checksums: bool = True) -> LoadedIndex:
    """Opens an index folder after checking its files.

    Args:
      folder: what `build_index` wrote; it may have been moved.
      checksums: also compare each file's SHA-256; without it, only presence and size.

    Raises:
      MaxsearchError: no index folder, another schema version, a file that is missing or altered, or ScaNN is
        needed and not installed.
    """
    manifest = read_manifest(folder, INDEX, checksums=checksums)
    try:
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        items = Items.read(folder / ITEMS)
    except (ValueError, pa.ArrowException) as error:
        raise MaxsearchError(
            f"the index {folder} cannot be read ({str(error).splitlines()[0]}): {INDEX.remedy}"
        ) from None
    shape = (manifest["count"], manifest["dim"])
    if vectors.shape != shape or vectors.dtype != np.float32 or len(items) != shape[0]:
        raise MaxsearchError(
            f"the index {folder} holds vectors {vectors.shape} of {vectors.dtype} and {len(items)} items "
            f"where its manifest says {shape} of float32: {INDEX.remedy}"
        )
    return LoadedIndex(folder, manifest, items, vectors, _open_nearest(folder, manifest["index"], vectors))


def _with_own_ids(products: Iterable[Product]) -> Iterator[Product]:
    first: dict[str, int] = {}
    for position, product in enumerate(products, 1):
        earlier = first.setdefault(product.product_id, position)
        if earlier != position:
            raise MaxsearchError(
                f"product id {product.product_id!r} stands twice in the catalogue, "
                f"at products {earlier:,} and {position:,}: give each product an id of its own"
            )
        yield product


def _require_finite(vectors: Float32[np.ndarray, "n D"], products: list[Product], first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise MaxsearchError(
            f"the model gives product {products[bad[0]].product_id!r} (product {first + bad[0]:,} of the catalogue) "
            "a vector that is not finite: use a model from an earlier training step"
        )


def _choose_kind(kind: str, count: int) -> str:
    if kind == "scann" and count < MIN_ITEMS:
        raise UsageError(
            f"--kind scann needs at least {MIN_ITEMS:,} products and there are {count:,}: pass --kind exact"
        )
    if kind == "auto":
        return "scann" if count >= EXACT_BELOW and scann_available() else "exact"
    return kind


def _build_scann(draft: Path, encoder: EmbeddingModel) -> ScannSettings:
    vectors = np.load(draft / VECTORS, mmap_mode="r")
    # Titles through the query encoder lie where shoppers' queries lie; product vectors would be too easy.
    rows = probe_rows(len(vectors))
    titles = [item.title for item in Items.read(draft / ITEMS).take(rows.tolist()) if item.title.strip()]
    queries = np.asarray(encoder.encode_queries(titles)) if titles else np.array(vectors[rows])
    (draft / SCANN).mkdir()
    return build_scann(vectors, draft / SCANN, draft / VECTORS, queries=queries, exact=ExactNearest(vectors))


def _open_nearest(folder: Path, index: dict[str, Any], vectors: Float32[np.ndarray, "N D"]) -> Nearest:
    kind = index.get("kind")
    if kind == "exact":
        return ExactNearest(vectors)
    if kind != "scann":
        raise MaxsearchError(
            f"the index {folder} is of kind {kind!r}, which this maxsearch does not know: {INDEX.remedy}"
        )
    try:
        settings = ScannSettings(index["leaves"], index["leaves_to_search"], index["reordered"], index["recall"])
    except KeyError as error:
        raise MaxsearchError(
            f"the manifest of the index {folder} lacks {error}, so it was altered: {INDEX.remedy}"
        ) from None
    return open_scann(folder / SCANN, settings)
