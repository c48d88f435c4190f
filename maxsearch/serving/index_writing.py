"""What an index folder is made of, written and measured; see `index` for what reads it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.manifest import write_manifest
from maxsearch.serving.filters.columns import ATTRIBUTES, VARIANT, Columns
from maxsearch.serving.hybrid.lexical import build_lexical
from maxsearch.serving.hybrid.words import document
from maxsearch.serving.index import EXACT_BELOW, INDEX, ITEMS, LEXICAL, PROBES, SCANN, IndexOptions, open_nearest
from maxsearch.serving.items import write_items
from maxsearch.serving.pictures import write_pictures
from maxsearch.serving.recall import fitted, measured, truth_of
from maxsearch.serving.scann_index import MIN_ITEMS, ScannSettings, build_scann, open_scann, scann_available
from maxsearch.serving.vectors import VECTORS, StoredVectors, store_vectors


def write_index(
    draft: Path,
    tables: Iterable[pa.Table],
    source: Path,
    probes: Float32[np.ndarray, "P D"],
    fingerprint: str,
    options: IndexOptions,
    *,
    pictures: Iterable[bytes] | None = None,
) -> dict[str, Any]:
    """Writes an index into an empty folder, measures it, and ends with its manifest.

    Args:
      draft: the folder; it may be moved afterwards.
      tables: the items, as tables of `SCHEMA` one after the other.
      source: float32 unit vectors [N, D] of the same items, all finite, as an .npy file on the folder's file system;
        it may be gone afterwards.
      probes: queries to measure recall with.
      fingerprint: of the model that the vectors are of.
      options: how to make it.
      pictures: packed pictures of the same items, where they are known.

    Returns:
      The manifest.

    Raises:
      UsageError: too few products for ScaNN, or a schema that names an attribute no product has.
      MaxsearchError: the recall is below what the options ask for.
    """
    np.save(draft / PROBES, probes)
    count, dim = write_items(draft / ITEMS, tables), probes.shape[1]
    kind = _choose_kind(options.kind, count)
    columns = Columns.of_items(draft / ITEMS, options.schema, options.known)
    columns.write(draft / ATTRIBUTES)
    if options.lexical:
        build_lexical(documents(draft / ITEMS), draft / LEXICAL)
    keeps_pictures = options.pictures and pictures is not None
    if keeps_pictures:
        assert pictures is not None
        write_pictures(draft, pictures)
    stored = store_vectors(source, draft, options.vectors)
    # Float32 vectors were moved into the draft.
    true = stored if stored.kind == "float32" else StoredVectors("float32", np.load(source, mmap_mode="r"))
    truth = truth_of(true, probes)
    index = {
        "kind": kind,
        "asked": options.kind,
        "target_recall": options.target_recall,
        "min_recall": options.min_recall,
    }
    recall = described = measured(stored.exact(), true, probes, truth)
    if kind == "scann":
        (draft / SCANN).mkdir()
        leaves = build_scann(true.codes, draft / SCANN, draft / VECTORS, stored.kind)
        trial = open_scann(draft / SCANN, ScannSettings(leaves, ()), stored)
        own = truth if stored is true else truth_of(stored, probes)
        efforts = fitted(trial, stored, leaves, probes, own, options.target_recall)
        index |= {"leaves": leaves, "efforts": [asdict(effort) for effort in efforts]}
        recall = measured(open_nearest(draft, index, stored), true, probes, truth)
    if options.min_recall is not None and recall["recall@10"] < options.min_recall:
        raise MaxsearchError(
            f"the index finds {recall['recall@10']:.4f} of the true first 10 of {len(probes)} queries and --min-recall "
            f"asks for {options.min_recall:g}, so it was not published: raise --target-recall, choose --vectors "
            "float32, or lower --min-recall"
        )
    fields = {
        "model_fingerprint": fingerprint,
        "count": count,
        "dim": dim,
        "vectors": {"kind": stored.kind, "recall": described},
        "recall": {**recall, "queries": len(probes)},
        "index": index,
        "schema": {name: kind.value for name, kind in columns.kinds.items() if name != VARIANT},
        "pictures": keeps_pictures,
        "lexical": options.lexical,
    }
    return write_manifest(draft, INDEX, fields)


def documents(items: Path) -> Iterator[str]:
    """What the words of each item are read from: its title and further texts."""
    for batch in pq.ParquetFile(items).iter_batches(columns=["title", "texts"]):
        for title, texts in zip(batch.column("title"), batch.column("texts"), strict=True):
            yield document(title.as_py(), texts.as_py(), {}, ())


def _choose_kind(kind: str, count: int) -> str:
    if kind == "scann" and count < MIN_ITEMS:
        raise UsageError(
            f"--kind scann needs at least {MIN_ITEMS:,} products and there are {count:,}: pass --kind exact"
        )
    if kind == "auto":
        return "scann" if count >= EXACT_BELOW and scann_available() else "exact"
    return kind
