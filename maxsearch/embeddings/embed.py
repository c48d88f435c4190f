"""Embeds products or queries into a file, part by part: a run that was interrupted goes on where it was."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.data.catalogue import product_columns
from maxsearch.data.records import Product
from maxsearch.data.tables.read import Columns, row_count
from maxsearch.embeddings.formats import require_format, write_npy, write_parquet
from maxsearch.embeddings.parts import Parts, Vectors
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.judgments import read_queries
from maxsearch.files import locked
from maxsearch.progress import Progress
from maxsearch.serving.catalogue import catalogue
from maxsearch.serving.encoder import EmbeddingModel

PART = 8192
"""Rows of a part: what may have to be embedded again, and what is in memory at once."""

VECTORS = {"p": ("p",), "t": ("t",), "v": ("v",), "all": ("p", "t", "v", "weights")}


@dataclass(frozen=True)
class EmbedOptions:
    """What to embed, and where to.

    Attributes:
      out: the file, ending in .npy or .parquet. Of products and queries together, queries go to NAME.queries beside it.
      products: the catalogue, in any format that `prepare` reads; None for queries alone.
      queries: the queries, as `read_queries` reads them.
      columns: column per field (`--map`).
      image_dir: folder of the pictures when the image column holds paths.
      vectors: a key of VECTORS.
      dtype: a key of formats.DTYPES.
      max_bad_fraction: share of the catalogue's rows that may be unusable.
    """

    out: Path
    products: Path | None = None
    queries: Path | None = None
    columns: Columns = field(default_factory=dict)
    image_dir: Path | None = None
    vectors: str = "p"
    dtype: str = "float32"
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.products is None and self.queries is None:
            raise UsageError("give what to embed with --products, --queries or both")
        if self.products is None and self.vectors != "p":
            raise UsageError(f"--vectors {self.vectors} is of products, and --queries alone are given: leave it out")
        require_format(self.out, len(VECTORS[self.vectors]), self.dtype)

    @property
    def queries_out(self) -> Path:
        """Where queries go."""
        return self.out if self.products is None else self.out.with_suffix(f".queries{self.out.suffix}")


def embed(
    options: EmbedOptions, encoder: EmbeddingModel, edge: int, progress: Progress | None = None
) -> dict[Path, int]:
    """Embeds what is asked for.

    Args:
      options: what, and where to.
      encoder: the model.
      edge: longest side of a picture in pixels.
      progress: where to report.

    Returns:
      Rows of each file that was written.

    Raises:
      UsageError, MaxsearchError: a file cannot be read, holds too many unusable rows, or the model's vectors are not
        finite.
    """
    # What is wrong with the queries is told before any product is embedded.
    texts = None if options.queries is None else read_queries(options.queries, options.columns)
    written = {}
    if options.products is not None:
        written[options.out] = embed_products(options, options.products, encoder, edge, progress)
    if options.queries is not None and texts is not None:
        written[options.queries_out] = embed_queries(options, options.queries, texts, encoder)
    return written


def embed_products(
    options: EmbedOptions, source: Path, encoder: EmbeddingModel, edge: int, progress: Progress | None
) -> int:
    """Embeds the catalogue; returns its number of rows."""
    product_columns(source, options.columns)
    rows: Iterable[Product] = catalogue(
        products=source,
        data=None,
        columns=options.columns,
        image_dir=options.image_dir,
        edge=edge,
        max_bad_fraction=options.max_bad_fraction,
    )
    if progress is not None:
        rows = progress.track(rows, "embedding products", row_count(source))
    names = VECTORS[options.vectors]

    def embedded(rest: Iterator[Product]) -> Iterator[tuple[list[str], Vectors]]:
        for batch in encoder.encode_products(rest):
            yield [product.product_id for product in batch.products], {x: getattr(batch, x) for x in names}

    settings = source_settings(source, options) | {"vectors": options.vectors}
    return written_in_parts(options, options.out, "product_id", settings, encoder, iter(rows), embedded)


def embed_queries(options: EmbedOptions, source: Path, texts: Mapping[str, str], encoder: EmbeddingModel) -> int:
    """Embeds the queries that have text; returns their number."""
    asked = [(name, text) for name, text in texts.items() if text]
    if len(asked) < len(texts):
        print(f"left out {len(texts) - len(asked)} queries of {source} without text", file=sys.stderr)

    def embedded(rest: Iterator[tuple[str, str]]) -> Iterator[tuple[list[str], Vectors]]:
        while chunk := list(islice(rest, PART)):
            yield [name for name, _ in chunk], {"q": encoder.encode_queries([text for _, text in chunk])}

    settings = source_settings(source, options)
    return written_in_parts(options, options.queries_out, "query_id", settings, encoder, iter(asked), embedded)


def source_settings(source: Path, options: EmbedOptions) -> dict[str, Any]:
    """What says that an interrupted embedding was of the same rows."""
    facts = source.stat() if source.is_file() else None
    return {
        "source": str(source.absolute()),
        "bytes": facts and facts.st_size,
        "changed": facts and facts.st_mtime_ns,
        "columns": {name: list(x) if isinstance(x, tuple) else x for name, x in options.columns.items()},
        "image_dir": options.image_dir and str(options.image_dir.absolute()),
    }


def written_in_parts(
    options: EmbedOptions,
    out: Path,
    key: str,
    settings: dict[str, Any],
    encoder: EmbeddingModel,
    rows: Iterator[Any],
    embedded: Callable[[Iterator[Any]], Iterator[tuple[list[str], Vectors]]],
) -> int:
    """Embeds the rows that earlier parts lack, and makes one file of all parts.

    Returns:
      The number of rows.
    """
    folder = out.with_name(f".{out.name}.parts")
    with locked(folder, flag="--out"):
        parts = Parts(folder, settings | {"model": encoder.fingerprint})
        if len(parts):
            print(f"{out}: goes on after {len(parts):,} rows of an earlier run", file=sys.stderr)
        for ids, vectors in in_parts(embedded(rest_of(rows, parts, folder)), first=len(parts)):
            parts.append(ids, vectors)
        if not len(parts):
            raise MaxsearchError(f"there is nothing to embed for {out}: the file holds no usable row")
        facts = {
            "model_fingerprint": encoder.fingerprint,
            "count": len(parts),
            "dim": encoder.dim,
            "dtype": options.dtype,
            "source": settings["source"],
            "vectors": settings.get("vectors", "q"),
        }
        if out.suffix == ".npy":
            write_npy(out, parts.read(), len(parts), options.dtype, facts)
        else:
            write_parquet(out, key, parts.read(), options.dtype, facts)
        shutil.rmtree(folder)
    return facts["count"]


def rest_of(rows: Iterator[Any], parts: Parts, folder: Path) -> Iterator[Any]:
    """The rows behind those that earlier parts hold.

    Raises:
      MaxsearchError: the earlier ones are no longer there, in that order.
    """
    for expected in parts.ids():
        row = next(rows, None)
        found = None if row is None else row.product_id if isinstance(row, Product) else row[0]
        if found != expected:
            raise MaxsearchError(
                f"the rows changed since they were embedded in part: {found!r} stands where {expected!r} stood; "
                f"remove {folder} to begin again"
            )
    yield from rows


def in_parts(batches: Iterator[tuple[list[str], Vectors]], first: int) -> Iterator[tuple[list[str], Vectors]]:
    """Batches put together to PART rows or more.

    Args:
      batches: identifiers and vectors.
      first: how many rows came before, for the message.

    Raises:
      MaxsearchError: a vector is not finite.
    """
    ids: list[str] = []
    held: list[Vectors] = []
    for names, vectors in batches:
        for columns in vectors.values():
            bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
            if len(bad):
                raise MaxsearchError(
                    f"the model gives {names[bad[0]]!r} (row {first + len(ids) + bad[0] + 1:,}) a vector that is not "
                    "finite: use a model from an earlier training step"
                )
        ids += names
        held.append(vectors)
        if len(ids) >= PART:
            yield ids, joined(held)
            first += len(ids)
            ids, held = [], []
    if ids:
        yield ids, joined(held)


def joined(parts: list[Vectors]) -> Vectors:
    """Vectors of several batches, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
