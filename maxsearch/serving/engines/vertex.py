"""An index as files that Vertex AI Vector Search imports.

A folder of JSON Lines, one product a line (`id`, `embedding`, `restricts`, `numeric_restricts`, `crowding_tag`), as
"Input data format and structure" of Google's documentation has it: data files stand directly in the folder and end in
.json, at most 5,000 of them, and nothing else does. What the index is created with (dimensions, distance, tree) goes
into a file beside them, for it must not be uploaded with them.

    OUT/batch/part-00000.json   the products; upload this folder
    OUT/index.json              for `gcloud ai indexes create --metadata-file`
    OUT/manifest.json           checksums, and what the products were embedded with

Text, truth and lists become tokens that are allowed (`restricts`), a category path one token for each of its
beginnings, so that a query for "Apparel" finds "Apparel > Topwear"; numbers, dates (days since 1970) and times
(microseconds) become `numeric_restricts`. A missing value has no restrict. The group of variants is the crowding tag.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.errors import UsageError
from maxsearch.files import directory_in_place
from maxsearch.manifest import FolderKind, require_replaceable, write_manifest
from maxsearch.progress import Progress
from maxsearch.serving.filters.columns import VARIANT, Columns
from maxsearch.serving.filters.kinds import Kind, path_of, path_text
from maxsearch.serving.store.snapshot import Snapshot

BATCH, INDEX = "batch", "index.json"
AT_ONCE = 1000
MOST_FILES = 5000
MEBIBYTE = 1 << 20
LONGEST_ID = 1024
"""Bytes; a bound of ours, well above ids in use, for the documentation names none."""
LEAF, FRACTION, NEIGHBOURS = 1000, 0.05, 150
NUMERIC = {Kind.INT: "value_int", Kind.DATE: "value_int", Kind.TIME: "value_int", Kind.FLOAT: "value_double"}

VERTEX = FolderKind(
    name="maxsearch-vertex",
    what="Vertex import",
    schema_version=1,
    remedy="write it again with `maxsearch index vertex`",
    required=(INDEX,),
    fields={"model_fingerprint": str, "generation": str, "count": int, "dim": int, "namespaces": dict},
)


def write_vertex(
    snapshot: Snapshot,
    out: Path,
    *,
    uri: str = "gs://BUCKET/batch",
    file_mebibytes: int = 256,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the import files of an index; a folder that is there whole or not at all.

    Args:
      snapshot: an index, or a store with its writes.
      out: the folder; an older import there is replaced.
      uri: where the folder `batch` will be uploaded to.
      file_mebibytes: size at which the next file is begun.
      progress: told how far it is.

    Returns:
      The manifest.

    Raises:
      UsageError: another folder stands at `out`, or an id, a name or the number of files is none that Vertex takes.
    """
    if not uri.startswith("gs://"):
        raise UsageError(f"--uri {uri} is no folder of Cloud Storage: give one such as gs://BUCKET/batch")
    if file_mebibytes < 1:
        raise UsageError(f"--file-mebibytes {file_mebibytes} holds no product: give 1 or more")
    if not len(snapshot):
        raise UsageError("the index holds no product: there is nothing to write")
    kinds = snapshot.index.columns.kinds
    require_names(kinds)
    require_replaceable(out, [VERTEX])
    dim = snapshot.index.manifest["dim"]
    with directory_in_place(out) as draft:
        (draft / BATCH).mkdir()
        files = _write_parts(lines(snapshot), draft / BATCH, file_mebibytes * MEBIBYTE, len(snapshot), progress)
        (draft / INDEX).write_text(json.dumps(metadata(dim, len(snapshot), uri), indent=2) + "\n", encoding="utf-8")
        return write_manifest(
            draft,
            VERTEX,
            {
                "model_fingerprint": snapshot.model_fingerprint,
                "generation": snapshot.generation,
                "count": len(snapshot),
                "dim": dim,
                "parts": files,
                "namespaces": {name: kind.value for name, kind in kinds.items() if name != VARIANT},
            },
        )


def metadata(dim: int, count: int, uri: str) -> dict[str, Any]:
    """What an index is created with: inner products of unit vectors, a tree with hashing, shards by size."""
    size = "SHARD_SIZE_SMALL" if 4 * dim * count < 1 << 30 else "SHARD_SIZE_MEDIUM"
    return {
        "contentsDeltaUri": uri,
        "config": {
            "dimensions": dim,
            "approximateNeighborsCount": NEIGHBOURS,
            "distanceMeasureType": "DOT_PRODUCT_DISTANCE",
            "featureNormType": "UNIT_L2_NORM",
            "shardSize": size,
            "algorithmConfig": {
                "treeAhConfig": {"leafNodeEmbeddingCount": LEAF, "fractionLeafNodesToSearch": FRACTION}
            },
        },
    }


def lines(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Every product as a record, in the order of its rows.

    Raises:
      UsageError: an id that Vertex does not take.
    """
    kinds = snapshot.index.columns.kinds
    live = snapshot.live()
    for start in range(0, len(live), AT_ONCE):
        rows = live[start : start + AT_ONCE]
        items = snapshot.take(rows.tolist())
        columns = Columns.of_attributes([one.attributes for one in items], [one.variant for one in items], kinds)
        typed = {name: columns.plain(name) for name in kinds}
        for place, (item, vector) in enumerate(zip(items, snapshot.vectors(rows), strict=True)):
            yield record(item.product_id, vector, {name: typed[name][place] for name in kinds}, kinds)


def record(product_id: str, vector: np.ndarray, values: dict[str, Any], kinds: dict[str, Kind]) -> dict[str, Any]:
    """One product.

    Args:
      product_id: its id.
      vector: its vector, float32; it is written in as many digits as bring it back.
      values: its attributes and variant group as `Columns.plain` gives them, None where it has none.
      kinds: their types.
    """
    if not product_id or len(product_id.encode()) > LONGEST_ID or not product_id.isprintable():
        raise UsageError(
            f"the product id {product_id[:100]!r} is none for Vertex: give ids of 1 to {LONGEST_ID:,} bytes, without "
            "line breaks and other control characters"
        )
    found: dict[str, Any] = {"id": product_id, "embedding": [float(str(number)) for number in vector]}
    restricts, numeric = [], []
    for name, value in values.items():
        if value is None or name == VARIANT:
            continue
        if kinds[name] in NUMERIC:
            numeric.append({"namespace": name, NUMERIC[kinds[name]]: value})
        else:
            restricts.append({"namespace": name, "allow": tokens(value, kinds[name])})
    if restricts:
        found["restricts"] = restricts
    if numeric:
        found["numeric_restricts"] = numeric
    if values.get(VARIANT):
        found["crowding_tag"] = values[VARIANT]
    return found


def tokens(value: Any, kind: Kind) -> list[str]:
    """The tokens of a value that is no number."""
    match kind:
        case Kind.BOOL:
            return ["true" if value else "false"]
        case Kind.LIST:
            return sorted(set(value))
        case Kind.PATH:
            parts = path_of(value)
            return [path_text(parts[: depth + 1]) for depth in range(len(parts))]
        case _:
            return [value]


def require_names(kinds: dict[str, Kind]) -> None:
    """Refuses names of attributes that cannot be namespaces.

    Raises:
      UsageError: one is empty, or holds control characters.
    """
    for name in kinds:
        if not name.strip() or not name.isprintable():
            raise UsageError(
                f"the attribute {name[:100]!r} cannot be a namespace of Vertex: give it a name of printable characters"
            )


def _write_parts(
    records: Iterator[dict[str, Any]], folder: Path, most_bytes: int, count: int, progress: Progress | None
) -> int:
    """Writes files of about that size, and returns how many."""
    files, size, stream = 0, 0, None
    try:
        for one in (progress or Progress()).track(records, f"write {count:,} products", count):
            if stream is None or size >= most_bytes:
                if stream is not None:
                    stream.close()
                if files == MOST_FILES:
                    raise UsageError(
                        f"the products fill more than {MOST_FILES:,} files, which Vertex does not take: give a larger "
                        "--file-mebibytes"
                    )
                stream, size = (folder / f"part-{files:05}.json").open("wb"), 0
                files += 1
            size += stream.write(json.dumps(one, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    finally:
        if stream is not None:
            stream.close()
    return files
