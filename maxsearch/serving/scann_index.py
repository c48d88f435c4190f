"""ScaNN: a tree of partitions, quantised scores, and an exact reordering of the best.

How much to search is chosen at build time, by measuring recall against the exact search on the catalogue's own vectors.
ScaNN ends the process on a vector that is not finite, so vectors are checked before they come here. It unpickles a file
of ids if there is one, so none is written and none is read.
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from maxsearch.errors import MaxsearchError
from maxsearch.serving.nearest import Nearest, Rows, Scores, no_results

PROBE_DEPTH = 100
TARGET_RECALL = 0.99
FIRST_LEAVES = 8
REORDERED = (300, 1000, 3000)
MIN_ITEMS = 1000
"""Below this there are too few items to train partitions and codebooks on."""

ASSETS = "scann_assets.pbtxt"
PICKLED_IDS = "scann_docids.pkl"


@dataclass(frozen=True)
class ScannSettings:
    """What a search needs beside the files.

    Attributes:
      leaves: number of partitions.
      leaves_to_search: partitions searched for up to `PROBE_DEPTH` results.
      reordered: candidates whose scores are computed exactly, for up to `PROBE_DEPTH` results.
      recall: recall at `PROBE_DEPTH` that was measured with them.
    """

    leaves: int
    leaves_to_search: int
    reordered: int
    recall: float


def scann_available() -> bool:
    """Whether ScaNN can be imported here."""
    try:
        import scann  # noqa: F401
    except ImportError:
        return False
    return True


class ScannNearest:
    """Approximate search; see `Nearest`. Safe to call from several threads."""

    def __init__(self, searcher: Any, settings: ScannSettings) -> None:
        self._searcher = searcher
        self._settings = settings
        self._count = int(searcher.size())

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """See `Nearest`. A query whose partitions hold fewer than `k` items is searched again in all of them."""
        rows, scores = no_results(len(queries), k)
        wanted = min(k, self._count)
        all_leaves, effort = self._settings.leaves, max(1.0, wanted / PROBE_DEPTH)
        leaves = min(math.ceil(self._settings.leaves_to_search * effort), all_leaves)
        reordered = min(math.ceil(self._settings.reordered * effort), self._count)
        rows[:, :wanted], scores[:, :wanted] = self._search(queries, wanted, reordered, leaves)
        short = np.flatnonzero((rows[:, :wanted] < 0).any(axis=1))
        if len(short) and leaves < all_leaves:
            rows[short, :wanted], scores[short, :wanted] = self._search(queries[short], wanted, reordered, all_leaves)
        return rows, scores

    def _search(self, queries: Float32[np.ndarray, "Q D"], k: int, reordered: int, leaves: int) -> tuple[Rows, Scores]:
        if len(queries) == 0:
            return no_results(0, k)
        found, scores = self._searcher.search_batched(
            queries,
            final_num_neighbors=k,
            pre_reorder_num_neighbors=reordered,
            leaves_to_search=leaves,
        )
        padding = np.isnan(scores)  # short results are padded with row 0 and NaN
        rows = np.where(padding, -1, found.astype(np.int64))
        scores = np.where(padding, -np.inf, scores).astype(np.float32)
        order = np.lexsort((rows, -scores))
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def build_scann(
    vectors: Float32[np.ndarray, "N D"],
    folder: Path,
    vectors_file: Path,
    *,
    queries: Float32[np.ndarray, "Q D"],
    exact: Nearest,
) -> ScannSettings:
    """Builds an index and writes it to `folder`, which may be moved together with `vectors_file`.

    Args:
      vectors: unit vectors of the items, all finite, at least `MIN_ITEMS`.
      folder: where to write; it exists and is empty.
      vectors_file: the same vectors as an .npy file; the index refers to it instead of holding a copy.
      queries: unit vectors to measure recall with.
      exact: the search that says what is right.

    Returns:
      The settings to search with: the least work, by steps, that reaches `TARGET_RECALL`, or the most there is.
    """
    from scann import scann_ops_pybind

    count = len(vectors)
    leaves = min(int(2 * math.sqrt(count)), count // 16)
    builder = (
        scann_ops_pybind.builder(vectors, 10, "dot_product")
        .tree(
            leaves,
            min(FIRST_LEAVES, leaves),
            training_sample_size=min(count, max(100_000, 100 * leaves)),
            spherical=True,
            random_init=False,
            soar_lambda=1.5,
            overretrieve_factor=2.0,
        )
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(REORDERED[0])
    )
    builder.set_n_training_threads(os.cpu_count() or 1)
    with _quiet_log():
        searcher = builder.build()
        searcher.serialize(str(folder), relative_path=True)
    _share_vectors(folder, vectors_file)
    return _measure(searcher, leaves, queries, exact)


def open_scann(folder: Path, settings: ScannSettings) -> ScannNearest:
    """Opens what `build_scann` wrote.

    Raises:
      MaxsearchError: ScaNN is not installed, or cannot read the files.
    """
    if not scann_available():
        raise MaxsearchError(
            f"the index {folder.parent} is of kind scann and ScaNN is not installed here: "
            "pip install scann, or build the index again with --kind exact"
        )
    from scann import scann_ops_pybind

    if (folder / PICKLED_IDS).exists():
        raise MaxsearchError(
            f"{folder / PICKLED_IDS} was not written by maxsearch and could run code when opened: "
            "remove it, or build the index again with `maxsearch index build`"
        )
    if not (folder / ASSETS).is_file():
        raise MaxsearchError(
            f"the index {folder.parent} has no {folder.name}/{ASSETS}: build it again with `maxsearch index build`"
        )
    try:
        return ScannNearest(scann_ops_pybind.load_searcher(str(folder)), settings)
    except (RuntimeError, ValueError) as error:
        raise MaxsearchError(
            f"ScaNN cannot read {folder} ({str(error).splitlines()[0]}): "
            "build the index again with `maxsearch index build`"
        ) from None


def score_recall(found: Scores, truth: Scores, tolerance: float = 1e-5) -> float:
    """Share of the true top-K that was found, judged by score: products with equal vectors are interchangeable."""
    reached = (found >= truth.min(axis=1, keepdims=True) - tolerance).sum(axis=1)
    return float(np.minimum(reached, truth.shape[1]).sum() / truth.size)


def probe_rows(count: int, probes: int = 256) -> Int64[np.ndarray, " P"]:
    """Rows spread evenly over the catalogue, at most `probes` of them."""
    return np.unique(np.linspace(0, count - 1, min(count, probes)).astype(np.int64))


def _measure(searcher: Any, leaves: int, queries: Float32[np.ndarray, "Q D"], exact: Nearest) -> ScannSettings:
    _, truth = exact.search(queries, PROBE_DEPTH)
    width = min(FIRST_LEAVES, leaves)
    while True:
        for reordered in REORDERED:
            settings = ScannSettings(leaves, width, reordered, recall=1.0)
            _, scores = ScannNearest(searcher, settings).search(queries, PROBE_DEPTH)
            settings = replace(settings, recall=round(score_recall(scores, truth), 4))
            if settings.recall >= TARGET_RECALL:
                return settings
        if width == leaves:
            return settings
        width = min(2 * width, leaves)


def _share_vectors(folder: Path, vectors_file: Path) -> None:
    copy = folder / "dataset.npy"
    assets = (folder / ASSETS).read_text(encoding="utf-8")
    if assets.count(f'"{copy.name}"') != 1 or not copy.is_file():
        return  # another layout of ScaNN's: the index then holds its own copy of the vectors
    shared = Path(os.path.relpath(vectors_file, folder)).as_posix()
    (folder / ASSETS).write_text(assets.replace(f'"{copy.name}"', f'"{shared}"'), encoding="utf-8")
    copy.unlink()


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keeps the C++ library's log lines off stderr; shows them when the block fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
