from pathlib import Path

import numpy as np
import pytest

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving.build import build_index
from maxsearch.serving.search import Hit, search
from maxsearch.serving.store.snapshot import Snapshot
from tests.serving_fakes import CATALOGUE, FakeEncoder


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder.make()


@pytest.fixture
def index(tmp_path: Path, encoder: FakeEncoder) -> Snapshot:
    build_index(encoder, CATALOGUE, tmp_path / "index")
    return Snapshot.of_folder(tmp_path / "index")


def test_hits_are_ranked_by_inner_product(index: Snapshot, encoder: FakeEncoder) -> None:
    hits = search(index, encoder, "navy blue casual shoes", k=3)
    (batch,) = encoder.encode_products(CATALOGUE)
    scores = dict(
        zip(index.index.ids, (batch.p @ encoder.encode_queries(["navy blue casual shoes"])[0]).tolist(), strict=True)
    )
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    assert [(hit.rank, hit.product_id) for hit in hits] == list(enumerate(ranked, 1))
    assert [hit.score for hit in hits] == pytest.approx([scores[product] for product in ranked], abs=1e-6)
    assert hits[0] == Hit(1, "p4", "navy blue casual shoes", hits[0].score, {"colour": "navy"})
    assert isinstance(hits[0].score, float)


def test_more_results_than_products_gives_every_product_once(index: Snapshot, encoder: FakeEncoder) -> None:
    hits = search(index, encoder, "shirt", k=10**9)
    assert sorted(hit.product_id for hit in hits) == ["p1", "p2", "p3", "p4", "p5"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(index: Snapshot, encoder: FakeEncoder, k: int) -> None:
    with pytest.raises(UsageError, match=f"-k must be at least 1, not {k}"):
        search(index, encoder, "shoes", k=k)


@pytest.mark.parametrize("query", ["", " \t\n", "\u3000"])
def test_an_empty_query_is_refused(index: Snapshot, encoder: FakeEncoder, query: str) -> None:
    with pytest.raises(UsageError, match="the query is empty: type what the shopper is looking for"):
        search(index, encoder, query)


def test_another_model_is_refused_by_fingerprint(index: Snapshot, encoder: FakeEncoder) -> None:
    other = FakeEncoder.make(seed=1)
    expected = (
        f"was built with model {encoder.fingerprint[:12]} and this model is {other.fingerprint[:12]}: "
        "use the model it was built with, or build the index again with `maxsearch index build`"
    )
    with pytest.raises(MaxsearchError, match=expected) as error:
        search(index, other, "shoes")
    assert str(index.index.folder) in str(error.value)
    assert error.value.exit_code == 1


def test_a_query_vector_that_is_not_finite_is_refused(index: Snapshot, encoder: FakeEncoder) -> None:
    class Broken(FakeEncoder):
        def encode_queries(self, queries: object) -> np.ndarray:
            return np.full((1, self.dim), np.nan, np.float32)

    broken = Broken(encoder.params, encoder.config, encoder.tokenizer)
    with pytest.raises(MaxsearchError, match="the model gives the query 'shoes' a vector that is not finite"):
        search(index, broken, "shoes")
