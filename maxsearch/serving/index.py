"""An index folder: the items of a catalogue, their vectors, and how to search them; made whole, then never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.manifest import FolderKind, read_manifest
from maxsearch.serving.filters.columns import ATTRIBUTES, Columns
from maxsearch.serving.filters.kinds import Kind
from maxsearch.serving.hybrid.lexical import BuiltLexical, open_lexical
from maxsearch.serving.items import Items
from maxsearch.serving.nearest import Nearest
from maxsearch.serving.pictures import Pictures
from maxsearch.serving.scann_index import (
    Effort,
    ScannSettings,
    open_scann,
    scann_available,
)
from maxsearch.serving.vectors import CODES, VECTORS, StoredVectors

ITEMS = "items.parquet"
PROBES = "probes.npy"
LEXICAL = "lexical"
SCANN = "scann"

KINDS = ("auto", "exact", "scann")
EXACT_BELOW = 20_000
"""Up to this many products, scoring all of them takes about as long as a tree would."""

INDEX = FolderKind(
    name="maxsearch-index",
    what="index",
    schema_version=2,
    remedy="build it with `maxsearch index build`",
    required=(VECTORS, ITEMS, PROBES, ATTRIBUTES),
    fields={
        "model_fingerprint": str,
        "count": int,
        "dim": int,
        "vectors": dict,
        "recall": dict,
        "index": dict,
        "schema": dict,
        "pictures": bool,
        "lexical": bool,
    },
)


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made of vectors.

    Attributes:
      kind: `exact`, `scann`, or `auto`: exact below `EXACT_BELOW` products or where ScaNN is not installed.
      vectors: what they are kept as: `float32`, `bfloat16` or `int8`.
      target_recall: the recall against exact search of the same vectors that a ScaNN search is made to reach.
      min_recall: recall at 10 against exact search of float32 vectors, below which there is no index; None to take any.
      schema: the types of attributes; those of the others are told from their values.
      known: types that were told so for an earlier index of these products.
      pictures: whether the products' pictures are kept.
      lexical: whether the products' words are indexed, for hybrid search.

    Raises:
      UsageError: a value that is none of these, or ScaNN asked for where it is not installed.
    """

    kind: str = "auto"
    vectors: str = "float32"
    target_recall: float = 0.99
    min_recall: float | None = None
    schema: Mapping[str, Kind] = field(default_factory=dict)
    known: Mapping[str, Kind] = field(default_factory=dict)
    pictures: bool = True
    lexical: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"--kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.kind == "scann" and not scann_available():
            raise UsageError(
                "--kind scann needs ScaNN, which is not installed here: pip install scann, or pass --kind exact"
            )
        if self.vectors not in CODES:
            raise UsageError(f"--vectors must be one of {', '.join(CODES)}, not {self.vectors!r}")
        for flag, value in (("--target-recall", self.target_recall), ("--min-recall", self.min_recall)):
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{flag} {value:g} is no recall: give a number above 0 and up to 1")


@dataclass(frozen=True)
class LoadedIndex:
    """An opened index: items by row, their vectors (mapped from the file, decoded when asked for), and the search.

    Attributes and words come typed and indexed for filters and hybrid search; pictures and words only where the index
    keeps them.
    """

    folder: Path
    manifest: dict[str, Any]
    items: Items
    vectors: StoredVectors
    nearest: Nearest
    columns: Columns
    pictures: Pictures | None
    lexical: BuiltLexical | None

    @cached_property
    def ids(self) -> list[str]:
        """Product ids by row."""
        return self.items.ids()

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows by product id."""
        return {product_id: row for row, product_id in enumerate(self.ids)}

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that embedded the catalogue."""
        return self.manifest["model_fingerprint"]

    @property
    def options(self) -> IndexOptions:
        """What it was built with, for the next one of its kind."""
        described = self.manifest["index"]
        return IndexOptions(
            described["asked"],
            self.manifest["vectors"]["kind"],
            described["target_recall"],
            described["min_recall"],
            known={name: Kind(kind) for name, kind in self.manifest["schema"].items()},
            pictures=self.manifest["pictures"],
            lexical=self.manifest["lexical"],
        )

    def probes(self) -> Float32[np.ndarray, "P D"]:
        """The queries that recall was measured with."""
        return np.load(self.folder / PROBES, allow_pickle=False)

    def require_model(self, fingerprint: str) -> None:
        """Refuses another model than the one that embedded the catalogue.

        Raises:
          MaxsearchError: the fingerprints differ.
        """
        if fingerprint != self.model_fingerprint:
            raise MaxsearchError(
                f"the index {self.folder} was built with model {self.model_fingerprint[:12]} "
                f"and this model is {fingerprint[:12]}: use "
                "the model it was built with, or build the index again with `maxsearch index build`"
            )


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
    kind = manifest["vectors"].get("kind")
    if kind not in CODES:
        raise MaxsearchError(
            f"the index {folder} has vectors of kind {kind!r}, which this maxsearch does not know: {INDEX.remedy}"
        )
    try:
        vectors = StoredVectors.read(folder, kind)
        items = Items.read(folder / ITEMS)
        pictures = Pictures(folder) if manifest["pictures"] else None
    except (ValueError, pa.ArrowException) as error:
        raise MaxsearchError(
            f"the index {folder} cannot be read ({str(error).splitlines()[0]}): {INDEX.remedy}"
        ) from None
    shape = (manifest["count"], manifest["dim"])
    if vectors.shape != shape or len(items) != shape[0]:
        raise MaxsearchError(
            f"the index {folder} holds vectors {vectors.shape} and {len(items)} items "
            f"where its manifest says {shape}: {INDEX.remedy}"
        )
    return LoadedIndex(
        folder,
        manifest,
        items,
        vectors,
        open_nearest(folder, manifest["index"], vectors),
        Columns.read(folder / ATTRIBUTES),
        pictures,
        open_lexical(folder / LEXICAL, checksums=False) if manifest["lexical"] else None,
    )


def open_nearest(folder: Path, index: dict[str, Any], vectors: StoredVectors) -> Nearest:
    """The search that the manifest's `index` describes.

    Raises:
      MaxsearchError: it is of no known kind, was altered, or ScaNN is needed and not installed.
    """
    kind = index.get("kind")
    if kind == "exact":
        return vectors.exact()
    if kind != "scann":
        raise MaxsearchError(
            f"the index {folder} is of kind {kind!r}, which this maxsearch does not know: {INDEX.remedy}"
        )
    try:
        settings = ScannSettings(index["leaves"], tuple(Effort(**effort) for effort in index["efforts"]))
    except (KeyError, TypeError) as error:
        raise MaxsearchError(
            f"the manifest of the index {folder} has no whole settings ({error}), so it was altered: {INDEX.remedy}"
        ) from None
    return open_scann(folder / SCANN, settings, vectors)
