"""The systems that `serve.py` compares: how each is built, and its searches over a grid of its settings.

A system is a family and how it was built, such as `float32` (ours), `faiss-ivfpq/64` (codes of 64 four-bit values),
`faiss-hnsw/32` and `hnswlib/16` (links per item).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.index_writing import write_index
from maxsearch.serving.items import Item, items_table
from maxsearch.serving.scann_index import Effort, ScannNearest
from maxsearch.serving.tuning import WIDTHS

OURS = ("float32", "bfloat16", "int8")
PEERS = ("faiss-ivfpq/64", "faiss-ivfpq/128", "faiss-hnsw/32", "hnswlib/16", "hnswlib/32")
EF_CONSTRUCTION = 200
REORDERED = (30, 50, 100, 200, 400, 1000)
EF = (10, 16, 24, 36, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600)

Search = Callable[[np.ndarray, int], np.ndarray]
Sweep = Iterator[tuple[dict[str, int], Search]]
"""Settings that search ever more, and the search with each: rows [Q, K] of queries [Q, D]."""


def installed(system: str) -> bool:
    """Whether it can be built here."""
    try:
        __import__("scann" if system in OURS else family(system).partition("-")[0])
    except ImportError:
        return False
    return True


def family(system: str) -> str:
    """Its name without how it is built."""
    return system.partition("/")[0]


def build(system: str, work: Path, place: Path, threads: int) -> None:
    """Writes the system's index of `vectors.npy` into the folder `place`."""
    vectors = np.load(work / "vectors.npy", mmap_mode="r")
    count, dim = vectors.shape
    size = int(system.partition("/")[2] or 0)
    if system in OURS:
        source = place.with_suffix(".npy")
        source.hardlink_to(work / "vectors.npy")  # a float32 index takes its source over
        blocks = (range(start, min(start + 10_000, count)) for start in range(0, count, 10_000))
        tables = (items_table(Item(str(row), "", "", {}) for row in block) for block in blocks)
        options = IndexOptions("scann", system, lexical=False)
        write_index(place, tables, source, np.load(work / "probes.npy"), "benchmark", options)
        source.unlink(missing_ok=True)
    elif family(system) == "hnswlib":
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=dim)
        graph.init_index(max_elements=count, ef_construction=EF_CONSTRUCTION, M=size)
        graph.add_items(vectors, num_threads=threads)
        graph.save_index(str(place / "index"))
    else:
        import faiss

        faiss.omp_set_num_threads(threads)
        lists = int(2 * count**0.5)
        kind = f"HNSW{size}" if family(system) == "faiss-hnsw" else f"IVF{lists},PQ{size}x4fs,RFlat"
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        if family(system) == "faiss-hnsw":
            index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(np.ascontiguousarray(vectors[: max(100_000, 100 * lists)]))
        index.add(np.ascontiguousarray(vectors))
        faiss.write_index(index, str(place / "index"))


def sweeps(system: str, place: Path, dim: int, threads: int) -> Iterator[Sweep]:
    """The searches of a built system; within a sweep each costs more than the one before."""
    if system in OURS:
        nearest = open_index(place, checksums=False).nearest
        assert isinstance(nearest, ScannNearest)
        yield from (_scann(nearest, reordered) for reordered in REORDERED)
    elif family(system) == "hnswlib":
        yield _hnswlib(place, dim, threads)
    elif family(system) == "faiss-hnsw":
        yield _faiss_hnsw(place, threads)
    else:
        yield from (_faiss_ivf(place, threads, reordered) for reordered in REORDERED)


def _scann(nearest: ScannNearest, reordered: int) -> Sweep:
    for width in WIDTHS:
        effort = Effort(10, width, reordered, 1.0)
        yield (
            {"leaves_to_search": width, "reordered": reordered},
            lambda queries, k, effort=effort: nearest.search_with(queries, k, effort)[0],
        )


def _hnswlib(place: Path, dim: int, threads: int) -> Sweep:
    import hnswlib

    graph = hnswlib.Index(space="ip", dim=dim)
    graph.load_index(str(place / "index"))
    graph.set_num_threads(threads)

    def search(queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        graph.set_ef(max(ef, k))
        return graph.knn_query(queries, k)[0].astype(np.int64)

    for ef in EF:
        yield {"ef": ef}, lambda queries, k, ef=ef: search(queries, k, ef)


def _faiss_hnsw(place: Path, threads: int) -> Sweep:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.read_index(str(place / "index"))
    for ef in EF:
        index.hnsw.efSearch = ef
        yield {"ef": ef}, lambda queries, k: index.search(queries, k)[1]


def _faiss_ivf(place: Path, threads: int, reordered: int) -> Sweep:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.read_index(str(place / "index"))

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        index.k_factor = max(1.0, reordered / k)
        return index.search(queries, k)[1]

    for width in WIDTHS:
        faiss.extract_index_ivf(index.base_index).nprobe = width
        yield {"nprobe": width, "reordered": reordered}, search
