"""Pushes a generation into Milvus: a collection is made, filled, indexed and tested, and only then served."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Int64

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.progress import Progress
from maxsearch.serving.engines.milvus.client import milvus
from maxsearch.serving.engines.milvus.collections import Pushed, collections_of, drop_older, point
from maxsearch.serving.engines.milvus.records import records
from maxsearch.serving.engines.milvus.schema import (
    READY,
    ROW,
    VECTOR,
    Facts,
    attribute_indexes,
    collection_schema,
    fields_of,
    index_type,
    vector_indexes,
)
from maxsearch.serving.recall import recall_of
from maxsearch.serving.store.generations import GENERATIONS
from maxsearch.serving.store.snapshot import Snapshot
from maxsearch.serving.vectors import StoredVectors

BATCH = 1000
"""Products per insert: some megabytes, where a server takes 64."""
ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
DEPTH = 10
FIRST_WIDTH = 16
TOLERANCE = 1e-3
SELF_TESTED = 20


@dataclass(frozen=True)
class PushOptions:
    """How a generation is pushed.

    Attributes:
      alias: names what is served.
      index: type of the index of vectors.
      min_recall: recall at 10 against exact search that the search is widened to reach; nothing is served below it.
      keep: how many collections beside the served one are kept.
      attributes: those that filters may name; all of them when empty.

    Raises:
      UsageError: a value that is none of these.
    """

    alias: str
    index: str = "HNSW"
    min_recall: float = 0.95
    keep: int = 2
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not ALIAS.fullmatch(self.alias):
            raise UsageError(f"--alias {self.alias!r} is no name that Milvus takes: use letters, digits and _")
        index_type(self.index, 1)
        if not 0 < self.min_recall <= 1:
            raise UsageError(f"--min-recall {self.min_recall:g} is no recall: give a number above 0 and up to 1")
        if self.keep < 0:
            raise UsageError(f"--keep {self.keep} is no number of collections: give 0 or more")


def push(client: Any, snapshot: Snapshot, options: PushOptions, progress: Progress | None = None) -> Pushed:
    """Makes a generation what an alias serves; one that is in Milvus already is served again, without a second copy.

    A push that was killed leaves a collection that is not READY: the same push begins it anew, any other drops it. One
    push at a time for an alias.

    Args:
      client: of `connect`.
      snapshot: an index, or a store with its writes.
      options: how.
      progress: told how far it is.

    Raises:
      UsageError: what the catalogue holds does not fit into Milvus.
      MaxsearchError: the collection misses products or recall; the alias points where it did.
    """
    if not len(snapshot):
        raise UsageError("the index holds no product: there is nothing to push")
    with milvus("tell its version"):
        lite = "lite" in str(client.get_server_version()).lower()
    if lite and options.index == "SCANN":
        raise UsageError("Milvus-Lite has no SCANN and would scan every vector: give --index-type HNSW or IVF_FLAT")
    facts = facts_of(snapshot, options)
    name = name_of(facts, options)
    before = {one.name: one for one in collections_of(client, options.alias)}.get(name)
    if before is not None and before.facts.state == READY:
        facts = before.facts
        if facts.recall < options.min_recall:
            raise MaxsearchError(_misses(name, facts.recall, options.min_recall))
        with milvus(f"load {name}"):
            client.load_collection(name)
    else:
        facts = _fill(client, name, snapshot, facts, options, lite=lite, progress=progress or Progress())
    point(client, options.alias, name)
    drop_older(client, options.alias, options.keep)
    return Pushed(name, facts)


def generation_of(snapshot: Snapshot) -> str:
    """A name that no other content has: a store's generation and its last write, or an index folder and its digest."""
    if snapshot.delta.changed:
        return f"{snapshot.generation}+{snapshot.delta.sequence}"
    if snapshot.index.folder.parent.name == GENERATIONS:
        return snapshot.generation
    files = json.dumps(snapshot.index.manifest["files"], sort_keys=True)
    return f"{snapshot.generation}-{hashlib.sha256(files.encode()).hexdigest()[:12]}"


def name_of(facts: Facts, options: PushOptions) -> str:
    """The name of a collection: no two that differ in content share one."""
    parts = [options.alias, re.sub("[^A-Za-z0-9]", "_", facts.generation), options.index.lower()]
    if options.attributes:
        parts.append(hashlib.sha256(json.dumps(sorted(facts.fields)).encode()).hexdigest()[:8])
    return "_".join(parts)


def facts_of(snapshot: Snapshot, options: PushOptions) -> Facts:
    """The facts of a collection that is about to be made."""
    lexical = snapshot.index.lexical
    return Facts(
        alias=options.alias,
        generation=generation_of(snapshot),
        model=snapshot.model_fingerprint,
        dim=snapshot.index.manifest["dim"],
        products=len(snapshot),
        pushed=datetime.now(UTC).isoformat(),
        fields=fields_of(snapshot.index.columns.kinds, options.attributes),
        words=None if lexical is None else lexical.settings,
        index=options.index,
    )


def _fill(
    client: Any, name: str, snapshot: Snapshot, facts: Facts, options: PushOptions, *, lite: bool, progress: Progress
) -> Facts:
    rows = snapshot.live()

    def batches() -> Iterator[list[dict[str, Any]]]:
        for start in range(0, len(rows), BATCH):
            chosen = rows[start : start + BATCH]
            numbers = range(start, start + len(chosen))
            yield records(snapshot.take(chosen.tolist()), snapshot.vectors(chosen), numbers, facts)

    with milvus(f"make the collection {name}"):
        if client.has_collection(name):
            client.drop_collection(name)
        client.create_collection(name, schema=collection_schema(facts), properties=facts.property())
    total = -(-len(rows) // BATCH)
    for batch in progress.track(batches(), f"insert {len(rows):,} products, {BATCH:,} at a time", total):
        with milvus(f"take products into {name}"):
            client.insert(name, batch)
    for _ in progress.track([name], "index"):
        with milvus(f"index {name}"):
            client.flush(name)
            client.create_index(name, attribute_indexes(facts, lite=lite), sync=False)  # a filter works without one
            client.create_index(name, vector_indexes(facts))
            client.load_collection(name)
    facts = tested(client, name, snapshot, facts, rows, options.min_recall)
    with milvus(f"mark {name} as tested"):
        client.alter_collection_properties(name, facts.property())
    return facts


def tested(
    client: Any, name: str, snapshot: Snapshot, facts: Facts, rows: Int64[np.ndarray, " n"], min_recall: float
) -> Facts:
    """Counts a collection, asks it for products by their own vectors, and widens its search until it finds enough.

    Returns:
      The facts with the least width, by doubling, that reaches the recall.

    Raises:
      MaxsearchError: it fails.
    """
    with milvus(f"count {name}"):
        count = count_of(client, name, consistency="Strong")
    if count != len(rows):
        raise MaxsearchError(f"{name} holds {count:,} products and {len(rows):,} were pushed: push again")
    vectors = snapshot.index.vectors
    if snapshot.delta.changed:
        vectors = StoredVectors("float32", snapshot.vectors(rows))
    probes = snapshot.index.probes()
    depth = min(DEPTH, len(rows))
    truth = vectors.exact().search(probes, depth)[1]
    kind = index_type(facts.index, facts.products)
    width, recall = min(FIRST_WIDTH, kind.widest), 0.0
    while True:
        found = _nearest(client, name, facts, probes, depth, width)
        recall = round(recall_of(found, probes, vectors, truth), 4)
        if recall >= min_recall or width >= kind.widest:
            break
        width = min(2 * width, kind.widest)
    if recall < min_recall:
        raise MaxsearchError(_misses(name, recall, min_recall))
    own = vectors[np.linspace(0, len(rows) - 1, min(SELF_TESTED, len(rows))).astype(np.int64)]
    best = vectors[np.maximum(_nearest(client, name, facts, own, 1, width)[:, 0], 0)]
    if ((best * own).sum(axis=1) < (own * own).sum(axis=1) * (1 - TOLERANCE)).any():
        raise MaxsearchError(f"{name} does not find a product by its own vector: push again with another --index-type")
    return facts.ready(width, recall)


def count_of(client: Any, name: str, *, consistency: str, timeout: float | None = None) -> int:
    """How many products a collection holds."""
    found = client.query(name, output_fields=["count(*)"], consistency_level=consistency, timeout=timeout)
    return int(found[0]["count(*)"])


def _nearest(client: Any, name: str, facts: Facts, queries: np.ndarray, k: int, width: int) -> Int64[np.ndarray, "Q K"]:
    with milvus(f"search {name}"):
        found = client.search(
            name,
            queries.tolist(),
            anns_field=VECTOR,
            limit=k,
            output_fields=[ROW],
            search_params=facts.search_params(k, width),
            consistency_level="Strong",
        )
    rows = np.full((len(queries), k), -1, np.int64)
    for place, hits in enumerate(found):
        rows[place, : len(hits)] = [hit["entity"][ROW] for hit in hits]
    return rows


def _misses(name: str, recall: float, wanted: float) -> str:
    return (
        f"{name} has a recall@{DEPTH} of {recall:.4f} against exact search, below --min-recall {wanted:g}, and is not "
        "served: give another --index-type, or ask for less"
    )
