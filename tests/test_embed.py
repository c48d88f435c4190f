import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest

from maxsearch import files
from maxsearch.data.records import Product
from maxsearch.embeddings import embed as embed_module
from maxsearch.embeddings.embed import EmbedOptions, embed
from maxsearch.embeddings.parts import vectors_of
from maxsearch.encode import Encoder
from maxsearch.errors import MaxsearchError, UsageError
from tests import tiny
from tests.serving_fakes import FakeBatch, FakeEncoder

ENCODER = FakeEncoder.make()
TITLES = [f"{colour} {thing} model{i}" for i, colour in enumerate(["red", "blue", "navy"]) for thing in ("shoe", "bag")]


class Counting(FakeEncoder):
    """Counts what it embeds, and is interrupted before it would embed more than `limit`."""

    limit = 10**9
    embedded = 0

    def encode_products(self, products: Iterable[Product], batch_size: int = 2) -> Iterator[FakeBatch]:
        for batch in super().encode_products(products, batch_size):
            if self.embedded + len(batch.products) > self.limit:
                raise KeyboardInterrupt
            self.embedded += len(batch.products)
            yield batch


def counting(limit: int = 10**9) -> Counting:
    encoder = Counting(ENCODER.params, ENCODER.config, ENCODER.tokenizer)
    encoder.limit = limit
    return encoder


def table(path: Path, header: list[str], rows: Iterable[Iterable[str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture
def products(tmp_path: Path) -> Path:
    return table(tmp_path / "products.csv", ["product_id", "title"], ((f"p{i}", x) for i, x in enumerate(TITLES)))


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    rows = [("q1", "red shoe"), ("q2", ""), ("q3", "bag")]
    return table(tmp_path / "queries.csv", ["query_id", "query"], rows)


def wanted(name: str) -> np.ndarray:
    (batch,) = ENCODER.encode_products([Product(f"p{i}", title) for i, title in enumerate(TITLES)])
    return np.asarray(getattr(batch, name))


def make(out: Path, encoder: Any = ENCODER, **options: Any) -> dict[Path, int]:
    return embed(EmbedOptions(out, **options), encoder, 64)


def test_npy_with_identifiers_and_facts_beside(tmp_path: Path, products: Path) -> None:
    out = tmp_path / "new" / "p.npy"
    assert make(out, products=products) == {out: 6}
    found = np.load(out)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted("p"))
    assert (out.parent / "p.ids.txt").read_text().splitlines() == [f"p{i}" for i in range(6)]
    facts = json.loads((out.parent / "p.json").read_text())
    assert (facts["count"], facts["dim"], facts["model_fingerprint"]) == (6, 24, ENCODER.fingerprint)
    assert sorted(path.name for path in out.parent.iterdir()) == ["p.ids.txt", "p.json", "p.npy"]


@pytest.mark.parametrize("vectors", ["p", "t", "v", "all"])
def test_parquet_with_a_column_for_each_vector(tmp_path: Path, products: Path, vectors: str) -> None:
    make(tmp_path / "e.parquet", products=products, vectors=vectors, dtype="float16")
    found = pq.read_table(tmp_path / "e.parquet")
    names = ["p", "t", "v", "weights"] if vectors == "all" else [vectors]
    assert found.column_names == ["product_id", *names]
    assert found.column("product_id").to_pylist() == [f"p{i}" for i in range(6)]
    for name in names:
        values = vectors_of(found.column(name))
        assert values.dtype == (np.float32 if name == "weights" else np.float16)
        np.testing.assert_array_equal(values, wanted(name).astype(values.dtype))
    assert found.schema.metadata[b"maxsearch.model_fingerprint"].decode() == ENCODER.fingerprint


def test_bfloat16_reads_back(tmp_path: Path, products: Path) -> None:
    make(tmp_path / "e.npy", products=products, vectors="t", dtype="bfloat16")
    found = np.load(tmp_path / "e.npy", allow_pickle=False).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found, wanted("t").astype(ml_dtypes.bfloat16))


def test_queries_beside_products_and_alone(
    tmp_path: Path, products: Path, queries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = tmp_path / "e.queries.parquet"
    assert make(tmp_path / "e.parquet", products=products, queries=queries)[beside] == 2
    assert make(tmp_path / "q.npy", queries=queries) == {tmp_path / "q.npy": 2}
    found = pq.read_table(beside)
    assert found.column_names == ["query_id", "q"]
    assert found.column("query_id").to_pylist() == ["q1", "q3"]
    expected = ENCODER.encode_queries(["red shoe", "bag"])
    np.testing.assert_array_equal(vectors_of(found.column("q")), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "q.npy"), expected)
    assert "left out 1 queries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"out": "e.csv", "products": "x"}, r"names no known format: end it in .npy or .parquet"),
        ({"out": "e.npy", "products": "x", "vectors": "all"}, r"a .npy file holds one: end --out in .parquet"),
        ({"out": "e.parquet", "products": "x", "dtype": "bfloat16"}, "Parquet has no bfloat16"),
        ({"out": "e.npy"}, "give what to embed with --products, --queries or both"),
        ({"out": "e.npy", "queries": "x", "vectors": "t"}, "--vectors t is of products"),
        ({"out": "folder.npy", "products": "x"}, "is a folder: give the name of a file"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, options: dict[str, str], expected: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    files = {name: tmp_path / options[name] for name in ("out", "products", "queries") if name in options}
    with pytest.raises(UsageError, match=expected):
        EmbedOptions(**{**options, **files})  # type: ignore[arg-type]


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, products: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embed_module, "PART", 2)
    out = tmp_path / "e.npy"
    with pytest.raises(KeyboardInterrupt):
        make(out, counting(limit=4), products=products)
    assert not out.exists()
    second = counting()
    make(out, second, products=products)
    assert second.embedded == 2
    assert "goes on after 4 rows" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(out), wanted("p"))
    assert not list(tmp_path.glob(".*"))
    third = counting()
    make(out, third, products=products)
    assert third.embedded == 6


def test_other_settings_begin_again(tmp_path: Path, products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_module, "PART", 2)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "e.npy", counting(limit=4), products=products)
    second = counting()
    make(tmp_path / "e.npy", second, products=products, vectors="t")
    assert second.embedded == 6
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), wanted("t"))


def test_rows_that_changed_meanwhile_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder only its rows can tell."""
    monkeypatch.setattr(embed_module, "PART", 2)
    (tmp_path / "parts").mkdir()
    rows = [(f"p{i}", title) for i, title in enumerate(TITLES)]
    table(tmp_path / "parts" / "a.csv", ["product_id", "title"], rows)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "e.npy", counting(limit=4), products=tmp_path / "parts")
    table(tmp_path / "parts" / "a.csv", ["product_id", "title"], rows[1:])
    with pytest.raises(MaxsearchError, match=r"'p1' stands where 'p0' stood; remove .*\.e\.npy\.parts to begin again"):
        make(tmp_path / "e.npy", products=tmp_path / "parts")


def test_damaged_parts_are_told(tmp_path: Path, products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_module, "PART", 2)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "e.npy", counting(limit=4), products=products)
    (tmp_path / ".e.npy.parts" / "part-000001.parquet").write_bytes(b"half")
    with pytest.raises(MaxsearchError, match=r"cannot be read .*: remove that folder"):
        make(tmp_path / "e.npy", products=products)


def test_an_identifier_of_two_lines_needs_parquet(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", ["product_id", "title"], [("a\nb", "red shoe")])
    with pytest.raises(MaxsearchError, match=r"'a\\nb' holds a line break, and e.ids.txt has one to a line"):
        make(tmp_path / "e.npy", products=path)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(("e.", ".e.npy.e"))]
    make(tmp_path / "e.parquet", products=path)
    assert pq.read_table(tmp_path / "e.parquet").column("product_id").to_pylist() == ["a\nb"]


def test_a_failure_while_writing_leaves_the_older_file(
    tmp_path: Path, products: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "e.parquet", products=products)
    before = (tmp_path / "e.parquet").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(files.os, "fsync", full)
        make(tmp_path / "e.parquet", products=products, dtype="float16")
    assert (tmp_path / "e.parquet").read_bytes() == before
    second = counting()
    make(tmp_path / "e.parquet", second, products=products, dtype="float16")
    assert not list(tmp_path.glob(".*"))


def test_vectors_that_are_not_finite_are_not_written(tmp_path: Path, products: Path) -> None:
    broken = FakeEncoder.make()
    broken.params["words"]["table"][:] = np.nan
    with pytest.raises(MaxsearchError, match=r"the model gives 'p0' \(row 1\) a vector that is not finite"):
        make(tmp_path / "e.npy", broken, products=products)
    assert not (tmp_path / "e.npy").exists()


def test_the_command(
    tmp_path: Path, products: Path, queries: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeEncoder, "image_edge", 64, raising=False)
    monkeypatch.setattr(Encoder, "from_model", lambda folder: ENCODER)
    monkeypatch.setattr(Encoder, "from_run", lambda folder, step: ENCODER)
    out = tmp_path / "e.parquet"
    words = ["embed", "--out", out, "--products", products, "--queries", queries, "--vectors", "all"]
    assert tiny.fails(capsys, *words) == (2, "maxsearch: name the model with either --run or --model")
    assert "--step names a checkpoint" in tiny.fails(capsys, *words, "--model", tmp_path, "--step", 3)[1]
    for source in ("--model", "--run"):
        tiny.quiet(*words, source, tmp_path)
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"{out}: 6 vectors of 24 dimensions, float32"
        assert said[1].startswith(f"{tmp_path / 'e.queries.parquet'}: 2 vectors")
        np.testing.assert_array_equal(vectors_of(pq.read_table(out).column("p")), wanted("p"))
