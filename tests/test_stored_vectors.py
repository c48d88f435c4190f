from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving import vectors as vectors_module
from maxsearch.serving.build import build_index
from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.nearest import ExactNearest
from maxsearch.serving.recall import recall_of
from maxsearch.serving.vectors import StoredVectors, store_vectors, to_int8
from tests.serving_fakes import CATALOGUE, FakeEncoder
from tests.test_index import clustered, edit, many

values = st.floats(-1, 1, width=32, allow_subnormal=False)


def stored(folder: Path, vectors: np.ndarray, kind: str) -> StoredVectors:
    np.save(folder / "source.npy", vectors)
    return store_vectors(folder / "source.npy", folder, kind)


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=values))
def test_int8_is_within_half_a_step_and_the_same_when_coded_again(vectors: np.ndarray) -> None:
    codes, scales = to_int8(vectors)
    decoded = codes * scales[:, None]
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(decoded - vectors) <= largest / 127 * 0.5001 + 1e-30).all()
    np.testing.assert_array_equal(to_int8(decoded.astype(np.float32))[0], codes)


@pytest.mark.parametrize(("kind", "loss"), [("float32", 0.0), ("bfloat16", 2**-8), ("int8", 1 / 127)])
def test_vectors_are_decoded_and_searched_in_blocks(
    tmp_path: Path, kind: str, loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = clustered(100, 16, 0, 0.9), clustered(5, 16, 1, 0.9)
    vectors[7] = vectors[3]
    monkeypatch.setattr(vectors_module, "BLOCK", 33)
    found = stored(tmp_path, vectors, kind)
    assert found.shape == (100, 16) and len(found) == 100
    np.testing.assert_allclose(found[:], vectors, atol=loss)
    np.testing.assert_array_equal(found[np.array([9, 2])], found[:][[9, 2]])
    np.testing.assert_array_equal(np.concatenate([block for _, block in found.blocks()]), found[:])
    for k in (1, 10, 100, 120):
        rows, scores = found.exact().search(queries, k)
        expected_rows, expected = ExactNearest(found[:]).search(queries, k)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert (np.diff(scores[:, : min(k, 100)], axis=1) <= 0).all()
        assert [set(one) for one in rows.tolist()] == [set(one) for one in expected_rows.tolist()]
        assert recall_of(rows[:, : min(k, 100)], queries, found, expected[:, : min(k, 100)]) == 1
    for row in rows.tolist():
        assert row.index(3) < row.index(7)  # equal scores by row


def test_the_manifest_tells_what_small_vectors_lose(tmp_path: Path) -> None:
    sizes, losses = [], []
    for kind in ("float32", "bfloat16", "int8"):
        manifest = build_index(FakeEncoder.make(), many(2000), tmp_path / kind, IndexOptions(vectors=kind))
        assert manifest["vectors"]["kind"] == kind
        losses.append(1 - manifest["vectors"]["recall"]["recall@10"])
        sizes.append(manifest["files"]["vectors.npy"]["bytes"])
        assert manifest["recall"]["recall@10"] == manifest["vectors"]["recall"]["recall@10"]  # an exact search
    assert sizes[0] > 1.9 * sizes[1] > 3.6 * sizes[2]
    assert losses[0] == 0 < losses[2] < 0.1
    assert "scales.npy" in manifest["files"]
    index = open_index(tmp_path / "int8")
    assert index.options == IndexOptions(vectors="int8")
    rows, scores = index.nearest.search(index.probes()[:3], 5)
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", index.vectors[rows], index.probes()[:3]), atol=1e-6)


def test_options_and_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--vectors must be one of float32, bfloat16, int8, not 'int4'"):
        IndexOptions(vectors="int4")
    with pytest.raises(UsageError, match="--min-recall 95 is no recall: give a number above 0 and up to 1"):
        IndexOptions(min_recall=95.0)
    build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    edit(tmp_path / "index", vectors={"kind": "int8"})
    with pytest.raises(MaxsearchError, match=r"cannot be read .*holds float32 of shape .* not int8 vectors"):
        open_index(tmp_path / "index")
    edit(tmp_path / "index", vectors={"kind": "int4"})
    with pytest.raises(MaxsearchError, match="has vectors of kind 'int4', which this maxsearch does not know"):
        open_index(tmp_path / "index")
