"""ScaNN: a tree of partitions, quantised scores, and an exact reordering of the best.

How much to search is chosen by measuring recall against the exact search: see `maxsearch.serving.tuning`.
ScaNN ends the process on a vector that is not finite, so vectors are checked before they come here. It unpickles a file
of ids if there is one, so none is written and none is read.

Float32 and bfloat16 vectors are reordered by ScaNN, from the index's own file. Its int8 vectors have a scale for each
dimension where ours have one for each vector, so those are reordered here.
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
from jaxtyping import Float32

from maxsearch.errors import MaxsearchError
from maxsearch.serving.nearest import Rows, Scores, no_results
from maxsearch.serving.vectors import StoredVectors

MIN_ITEMS = 1000
"""Below this there are too few items to train partitions and codebooks on."""

ASSETS = "scann_assets.pbtxt"
PICKLED_IDS = "scann_docids.pkl"
COPIES = {"float32": "dataset.npy", "bfloat16": "bfloat16_dataset.npy"}
"""The files that ScaNN keeps vectors in."""


@dataclass(frozen=True)
class Effort:
    """How much to search for up to `depth` results.

    Attributes:
      depth: most results that it was measured for.
      leaves_to_search: partitions searched; 0 scores every item instead.
      reordered: candidates whose scores are computed exactly.
      recall: recall at `depth` that was measured with them.
    """

    depth: int
    leaves_to_search: int
    reordered: int
    recall: float


@dataclass(frozen=True)
class ScannSettings:
    """What a search needs beside the files.

    Attributes:
      leaves: number of partitions.
      efforts: how much to search, by rising depth, at least one.
    """

    leaves: int
    efforts: tuple[Effort, ...]

    def effort(self, k: int) -> Effort:
        """What to do for `k` results: beyond the deepest effort, that much more of it."""
        for effort in self.efforts:
            if k <= effort.depth:
                return effort
        more = k / effort.depth
        return replace(
            effort,
            leaves_to_search=min(math.ceil(effort.leaves_to_search * more), self.leaves),
            reordered=math.ceil(effort.reordered * more),
        )


def scann_available() -> bool:
    """Whether ScaNN can be imported here."""
    try:
        import scann  # noqa: F401
    except ImportError:
        return False
    return True


class ScannNearest:
    """Approximate search; see `Nearest`. Safe to call from several threads.

    Args:
      searcher: ScaNN's.
      settings: how much to search.
      vectors: the items' vectors.
    """

    def __init__(self, searcher: Any, settings: ScannSettings, vectors: StoredVectors) -> None:
        self._searcher, self._settings, self._vectors = searcher, settings, vectors
        self._exact = vectors.exact()

    def search(self, queries: Float32[np.ndarray, "Q D"], k: int) -> tuple[Rows, Scores]:
        """See `Nearest`. A query whose partitions hold fewer than `k` items is searched again in all of them."""
        return self.search_with(queries, k, self._settings.effort(min(k, len(self._vectors))))

    def search_with(self, queries: Float32[np.ndarray, "Q D"], k: int, effort: Effort) -> tuple[Rows, Scores]:
        """See `Nearest`, with a given effort."""
        if effort.leaves_to_search == 0:
            return self._exact.search(queries, k)
        wanted, leaves = min(k, len(self._vectors)), self._settings.leaves
        reordered = min(max(effort.reordered, wanted), len(self._vectors))
        rows, scores = self._search(queries, wanted, reordered, effort.leaves_to_search)
        short = np.flatnonzero(rows[:, -1] < 0)
        if len(short) and effort.leaves_to_search < leaves:
            rows[short], scores[short] = self._search(queries[short], wanted, reordered, leaves)
        if wanted == k:
            return rows, scores
        padding = no_results(len(queries), k - wanted)
        return np.concatenate([rows, padding[0]], axis=1), np.concatenate([scores, padding[1]], axis=1)

    def _search(self, queries: Float32[np.ndarray, "Q D"], k: int, reordered: int, leaves: int) -> tuple[Rows, Scores]:
        if len(queries) == 0:
            return no_results(0, k)
        here = self._vectors.kind == "int8"
        found, scores = self._searcher.search_batched(
            queries,
            final_num_neighbors=reordered if here else k,
            pre_reorder_num_neighbors=reordered,
            leaves_to_search=leaves,
        )
        # Most results come whole and without ties, and a query alone takes so little that sorting again would show.
        if not here and (scores[:, 1:] < scores[:, :-1]).all() and not np.isnan(scores[:, -1]).any():
            return found.astype(np.int64), scores
        padding = np.isnan(scores)  # short results are padded with row 0 and NaN
        rows = np.where(padding, -1, found.astype(np.int64))
        if here:
            scores = np.stack([self._vectors[r] @ query for r, query in zip(rows, queries, strict=True)])
            padding = rows < 0
        scores = np.where(padding, -np.inf, scores).astype(np.float32)
        order = np.lexsort((rows, -scores))[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def build_scann(vectors: Float32[np.ndarray, "N D"], folder: Path, stored: Path, kind: str) -> int:
    """Builds an index and writes it to `folder`, which may be moved together with the stored vectors.

    Args:
      vectors: unit vectors of the items, all finite, at least `MIN_ITEMS`.
      folder: where to write; it exists and is empty.
      stored: the vectors' .npy file in the index; ScaNN refers to it instead of holding a copy, where it can.
      kind: what that file holds: `float32`, `bfloat16` or `int8`.

    Returns:
      The number of partitions.
    """
    from scann import scann_ops_pybind
    from scann.scann_ops.py.scann_builder import ReorderType

    count = len(vectors)
    leaves = min(int(2 * math.sqrt(count)), count // 16)
    builder = (
        scann_ops_pybind.builder(vectors, 10, "dot_product")
        .tree(
            leaves,
            1,
            training_sample_size=min(count, max(100_000, 100 * leaves)),
            spherical=True,
            random_init=False,
            soar_lambda=1.5,
            overretrieve_factor=2.0,
        )
        .score_ah(2, anisotropic_quantization_threshold=0.2)
    )
    if kind != "int8":
        builder = builder.reorder(100, ReorderType.BFLOAT16 if kind == "bfloat16" else ReorderType.FLOAT32)
    builder.set_n_training_threads(os.cpu_count() or 1)
    with _quiet_log():
        builder.build().serialize(str(folder), relative_path=True)
    if kind != "int8":
        _share_vectors(folder, folder / COPIES[kind], stored)
    return leaves


def open_scann(folder: Path, settings: ScannSettings, vectors: StoredVectors) -> ScannNearest:
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
        return ScannNearest(scann_ops_pybind.load_searcher(str(folder)), settings, vectors)
    except (RuntimeError, ValueError) as error:
        raise MaxsearchError(
            f"ScaNN cannot read {folder} ({str(error).splitlines()[0]}): "
            "build the index again with `maxsearch index build`"
        ) from None


def _share_vectors(folder: Path, copy: Path, stored: Path) -> None:
    assets = (folder / ASSETS).read_text(encoding="utf-8")
    if assets.count(f'"{copy.name}"') != 1 or not copy.is_file():
        return  # another layout of ScaNN's: the index then holds its own copy of the vectors
    shared = Path(os.path.relpath(stored, folder)).as_posix()
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
