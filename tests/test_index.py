import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving import index_writing
from maxsearch.serving import nearest as nearest_module
from maxsearch.serving.build import build_index
from maxsearch.serving.index import IndexOptions, open_index
from maxsearch.serving.items import Item
from maxsearch.serving.nearest import ExactNearest, largest
from maxsearch.serving.recall import fitted, recall_of, truth_of
from maxsearch.serving.scann_index import ScannSettings, build_scann, open_scann
from maxsearch.serving.vectors import VectorWriter, store_vectors
from tests.serving_fakes import CATALOGUE, FakeBatch, FakeEncoder, folder_bytes, unit

needs_scann = pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info >= (3, 14), reason="ScaNN has no wheel here"
)


def clustered(count: int, dim: int, seed: int, noise: float) -> np.ndarray:
    centres = np.random.default_rng(0).normal(size=(300, dim))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(300, size=count)] + noise * rng.normal(size=(count, dim)))


def many(count: int) -> list[Product]:
    words = ["red", "blue", "navy", "leather", "cotton", "casual", "shoes", "shirt", "belt", "bag", "watch", "dress"]
    rng = np.random.default_rng(0)
    return [Product(f"p{i}", " ".join(rng.choice(words, 3)) + f" model{i % 50}") for i in range(count)]


@pytest.fixture
def no_scann(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scann", None)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_largest_orders_by_score_then_row(scores: list[int], k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
    assert largest(np.array(scores, dtype=np.float32), k).tolist() == expected


def test_exact_search_is_the_same_in_blocks_and_pads_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-4, 5, size=(6, 3)).astype(np.float32)
    queries = rng.integers(-4, 5, size=(7, 3)).astype(np.float32)
    rows, scores = ExactNearest(vectors).search(queries, 8)
    for query, found, values in zip(queries, rows, scores, strict=True):
        expected = sorted(range(6), key=lambda row: (-float(vectors[row] @ query), row))
        assert found.tolist() == [*expected, -1, -1]
        assert values.tolist() == [float(vectors[row] @ query) for row in expected] + [-np.inf, -np.inf]
    monkeypatch.setattr(nearest_module, "SCORES_AT_ONCE", 13)
    again, _ = ExactNearest(vectors).search(queries, 8)
    np.testing.assert_array_equal(again, rows)


def test_vector_writer_gives_a_file_that_numpy_reads(tmp_path: Path) -> None:
    blocks = [np.arange(n * 5, dtype=np.float32).reshape(n, 5) for n in (3, 0, 120_000)]
    with VectorWriter(tmp_path / "v.npy", 5) as writer:
        for block in blocks:
            writer.extend(block)
    found = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate(blocks))
    with VectorWriter(tmp_path / "w.npy", 5) as writer, pytest.raises(ValueError, match=r"\(2, 4\)"):
        writer.extend(np.zeros((2, 4), np.float32))


def test_index_folder_holds_vectors_items_and_the_models_fingerprint(tmp_path: Path) -> None:
    encoder = FakeEncoder.make()
    manifest = build_index(encoder, iter(CATALOGUE), tmp_path / "index", batch_size=2)
    files = folder_bytes(tmp_path / "index")
    assert {"attributes.arrow", "items.parquet", "manifest.json", "pictures.bin", "probes.npy", "vectors.npy"} <= set(
        files
    )
    assert manifest == json.loads(files["manifest.json"])
    assert manifest["kind"] == "maxsearch-index"
    assert manifest["schema_version"] == 2
    assert (manifest["count"], manifest["dim"]) == (5, 24)
    assert manifest["model_fingerprint"] == encoder.fingerprint
    assert manifest["index"] == {"kind": "exact", "asked": "auto", "target_recall": 0.99, "min_recall": None}
    assert manifest["vectors"] == {"kind": "float32", "recall": {"recall@10": 1.0, "recall@100": 1.0}}
    assert manifest["recall"] == {"recall@10": 1.0, "recall@100": 1.0, "queries": 4}
    assert manifest["files"]["vectors.npy"]["sha256"] == hashlib.sha256(files["vectors.npy"]).hexdigest()
    expected = np.concatenate([batch.p for batch in encoder.encode_products(CATALOGUE)])
    np.testing.assert_array_equal(np.load(tmp_path / "index" / "vectors.npy"), expected)
    rows = pq.read_table(tmp_path / "index" / "items.parquet").to_pylist()
    assert [(row["product_id"], row["title"], row["variant"]) for row in rows] == [
        (product.product_id, product.title, product.variant) for product in CATALOGUE
    ]
    assert set(rows[0]) == {"product_id", "title", "variant", "attributes", "texts"}


def test_opened_index_gives_ids_and_items_by_row(tmp_path: Path) -> None:
    build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.ids == ["p1", "p2", "p3", "p4", "p5"]
    assert len(index.items) == 5
    assert index.items.take([4, 1]) == [
        Item("p5", "Gürtel aus Leder", "", {"größe": "90 cm"}),
        Item("p2", "blue cotton shirt", "shirts", {}),
    ]
    assert index.items[0].attributes == {"colour": "red", "brand": "Acme"}


def test_two_builds_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_index(FakeEncoder.make(), many(9000), tmp_path / name, IndexOptions("exact"))
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    assert open_index(tmp_path / "a").ids == [f"p{i}" for i in range(9000)]


def test_duplicate_ids_are_refused_with_both_places(tmp_path: Path) -> None:
    products = [*CATALOGUE, Product("p2", "another shirt")]
    with pytest.raises(
        MaxsearchError, match="product id 'p2' stands twice in the catalogue, at products 2 and 6: give each"
    ):
        build_index(FakeEncoder.make(), products, tmp_path / "index", batch_size=2)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaxsearchError, match="the catalogue holds no products to index"):
        build_index(FakeEncoder.make(), [], tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


class NanEncoder(FakeEncoder):
    def encode_products(self, products: object, batch_size: int = 256) -> Iterator[FakeBatch]:
        for batch in super().encode_products(products, batch_size):
            for row, product in enumerate(batch.products):
                if product.product_id == "p4":
                    batch.p[row, 7] = np.nan
            yield batch


def test_vectors_that_are_not_finite_are_refused_and_the_old_index_stays(tmp_path: Path) -> None:
    good = FakeEncoder.make()
    build_index(good, CATALOGUE, tmp_path / "index")
    before = folder_bytes(tmp_path / "index")
    bad = NanEncoder(good.params, good.config, good.tokenizer)
    with pytest.raises(
        MaxsearchError, match=r"product 'p4' \(product 4 of the catalogue\) a vector that is not finite"
    ):
        build_index(bad, CATALOGUE, tmp_path / "index", batch_size=3)
    assert folder_bytes(tmp_path / "index") == before
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_wrong_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--kind must be one of auto, exact, scann, not 'hnsw'"):
        build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index", IndexOptions("hnsw"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="mine exists and is not a maxsearch index folder"):
        build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


@needs_scann
def test_scann_refuses_a_catalogue_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--kind scann needs at least 1,000 products and there are 5: pass --kind exact"
    ):
        build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index", IndexOptions("scann"))


@pytest.mark.usefixtures("no_scann")
def test_without_scann_auto_is_exact_and_asking_for_it_fails_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writing, "EXACT_BELOW", 3)
    manifest = build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    assert manifest["index"]["kind"] == "exact"

    def products() -> Iterator[Product]:
        raise AssertionError("read a product")
        yield

    with pytest.raises(UsageError, match="--kind scann needs ScaNN, which is not installed here"):
        build_index(FakeEncoder.make(), products(), tmp_path / "other", IndexOptions("scann"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "no manifest": (lambda i: (i / "manifest.json").unlink(), "is not a maxsearch index folder"),
    "a model": (
        lambda i: edit(i, kind="maxsearch-model"),
        "manifest's kind is 'maxsearch-model', not 'maxsearch-index'",
    ),
    "older schema": (lambda i: edit(i, schema_version=0), "has schema version 0 .* reads version 2"),
    "cut short": (
        lambda i: (i / "vectors.npy").write_bytes(b""),
        "vectors.npy holds 0 bytes where .* so it was cut short",
    ),
    "longer": (lambda i: append(i / "items.parquet"), r"items.parquet holds \d+ bytes where"),
    "altered vectors": (lambda i: flip(i / "vectors.npy"), "vectors.npy was altered"),
    "altered items": (lambda i: flip(i / "items.parquet"), "items.parquet was altered"),
    "missing items": (
        lambda i: (i / "items.parquet").unlink(),
        "items.parquet is missing, though the index manifest lists it",
    ),
    "other count": (
        lambda i: edit(i, count=6),
        r"holds vectors \(5, 24\) and 5 items where its manifest says \(6, 24\)",
    ),
    "unknown kind": (lambda i: edit(i, index={"kind": "hnsw"}), "of kind 'hnsw', which this maxsearch does not know"),
    "no settings": (
        lambda i: edit(i, index={"kind": "scann"}),
        r"has no whole settings \('leaves'\), so it was altered",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    damage, expected = DAMAGE[name]
    damage(tmp_path / "index")
    with pytest.raises(MaxsearchError, match=expected) as error:
        open_index(tmp_path / "index")
    assert str(tmp_path / "index") in str(error.value)
    assert str(error.value).endswith("build it with `maxsearch index build`")
    assert "\n" not in str(error.value)


def test_items_that_are_no_parquet_are_refused_even_with_their_checksum(tmp_path: Path) -> None:
    build_index(FakeEncoder.make(), CATALOGUE, tmp_path / "index")
    content = b"not parquet at all"
    (tmp_path / "index" / "items.parquet").write_bytes(content)
    files = json.loads((tmp_path / "index" / "manifest.json").read_text())["files"]
    files["items.parquet"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(tmp_path / "index", files=files)
    with pytest.raises(MaxsearchError, match=r"the index .* cannot be read \(.*\): build it"):
        open_index(tmp_path / "index")


@needs_scann
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_scann_finds_what_exact_search_finds(tmp_path: Path, kind: str) -> None:
    count = 25_000 if kind == "float32" else 6000
    vectors, queries = clustered(count, 64, seed=1, noise=0.9), clustered(200, 64, seed=2, noise=0.9)
    np.save(tmp_path / "true.npy", vectors)
    (tmp_path / "scann").mkdir()
    stored = store_vectors(tmp_path / "true.npy", tmp_path, kind)
    leaves = build_scann(vectors, tmp_path / "scann", tmp_path / "vectors.npy", kind)
    probes = clustered(200, 64, seed=3, noise=0.9)
    trial = open_scann(tmp_path / "scann", ScannSettings(leaves, ()), stored)
    efforts = fitted(trial, stored, leaves, probes, truth_of(stored, probes), 0.99)
    assert [effort.depth for effort in efforts] == [10, 100]
    assert min(effort.recall for effort in efforts) >= 0.99
    assert efforts[0].leaves_to_search < leaves
    scann = open_scann(tmp_path / "scann", ScannSettings(leaves, efforts), stored)
    decoded, exact = stored[:], stored.exact()
    for k in (1, 10, 100, 500):
        rows, scores = scann.search(queries, k)
        true_rows, true_scores = exact.search(queries, k)
        shared = [
            len(set(found) & set(true)) / k for found, true in zip(rows.tolist(), true_rows.tolist(), strict=True)
        ]
        assert np.mean(shared) >= 0.97, k
        assert recall_of(rows, queries, stored, true_scores) >= 0.97
        np.testing.assert_allclose(
            scores, np.take_along_axis(queries @ decoded.T, rows, axis=1), atol=1e-2 if kind == "bfloat16" else 1e-5
        )
        assert (np.diff(scores, axis=1) <= 0).all()
    rows, _ = scann.search(queries[:2], count + 1)
    assert sorted(rows[0, :-1].tolist()) == list(range(count))
    assert rows[:, -1].tolist() == [-1, -1]


@pytest.fixture(scope="module")
def scann_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scann") / "index"
    build_index(FakeEncoder.make(), many(1500), folder, IndexOptions("scann"))
    return folder


@needs_scann
def test_scann_index_moves_holds_no_pickle_and_shares_its_vectors(scann_index: Path, tmp_path: Path) -> None:
    manifest = json.loads((scann_index / "manifest.json").read_text())
    assert manifest["index"]["kind"] == "scann"
    assert [effort["depth"] for effort in manifest["index"]["efforts"]] == [10, 100]
    assert manifest["recall"]["recall@10"] >= 0.98
    files = folder_bytes(scann_index)
    assert manifest["files"].keys() == files.keys() - {"manifest.json"}
    assert not [name for name in files if Path(name).suffix in {".pkl", ".pickle"} or b"pickle" in files[name][:64]]
    assert "scann/dataset.npy" not in files
    assert not [name for name, content in files.items() if str(scann_index.parent).encode() in content]
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(scann_index, moved)
    queries = FakeEncoder.make().encode_queries(["red shoes", "cotton dress model7"])
    hidden = scann_index.rename(scann_index.with_name("hidden"))
    try:
        rows, scores = open_index(moved).nearest.search(queries, 20)
    finally:
        hidden.rename(scann_index)
    _, truth = ExactNearest(np.load(moved / "vectors.npy")).search(queries, 20)
    np.testing.assert_allclose(scores, truth, atol=1e-5)
    assert rows.min() >= 0


@needs_scann
def test_auto_takes_scann_for_large_catalogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_writing, "EXACT_BELOW", 1200)
    kinds = [build_index(FakeEncoder.make(), many(n), tmp_path / str(n))["index"]["kind"] for n in (1199, 1200)]
    assert kinds == ["exact", "scann"]


@needs_scann
def test_a_scann_index_without_scann_says_what_to_do(scann_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(
        MaxsearchError, match="is of kind scann and ScaNN is not installed here: pip install scann, or build"
    ):
        open_index(scann_index)


@needs_scann
def test_pickled_ids_are_never_opened(scann_index: Path, tmp_path: Path) -> None:
    shutil.copytree(scann_index, tmp_path / "index")
    (tmp_path / "index" / "scann" / "scann_docids.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(MaxsearchError, match=r"scann_docids.pkl was not written by maxsearch and could run code"):
        open_index(tmp_path / "index")


@needs_scann
def test_scann_searches_from_several_threads_and_with_no_query(scann_index: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    nearest = open_index(scann_index).nearest
    queries = FakeEncoder.make().encode_queries([product.title for product in many(64)])
    expected = [nearest.search(queries[i : i + 1], 10)[0][0] for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: nearest.search(queries[i : i + 1], 10)[0][0], range(64)))
    np.testing.assert_array_equal(found, expected)
    assert nearest.search(queries[:0], 3)[0].shape == (0, 3)


@needs_scann
def test_a_collapsed_model_still_builds(tmp_path: Path) -> None:
    same = [Product(f"p{i}", "shoes") for i in range(1000)]
    build_index(FakeEncoder.make(), same, tmp_path / "index", IndexOptions("scann"))
    rows, _ = open_index(tmp_path / "index").nearest.search(FakeEncoder.make().encode_queries(["shoes"]), 5)
    assert len(set(rows[0].tolist())) == 5
