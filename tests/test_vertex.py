"""Files for Vertex AI Vector Search: each line is a product as our own index has it. No Vertex endpoint is asked."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxsearch.data.records import Product
from maxsearch.errors import UsageError
from maxsearch.manifest import read_manifest
from maxsearch.serving.engines import vertex
from maxsearch.serving.engines.vertex import VERTEX, require_names, write_vertex
from maxsearch.serving.filters.kinds import Kind, path_of, path_text, read_cell
from maxsearch.serving.index import IndexOptions
from maxsearch.serving.store.publish import build_generation
from maxsearch.serving.store.store import Store, open_snapshot
from maxsearch.serving.store.writes import upserts_of
from tests import filter_fakes, tiny
from tests.serving_fakes import FakeEncoder, folder_bytes

ENCODER = FakeEncoder.make()
ROWS = filter_fakes.attributes(50, seed=5)
PRODUCTS = [
    Product(f"p{n} größe", f"a title {n}", variant=f"v{n % 9}" if n % 3 else "", attributes=row)
    for n, row in enumerate(ROWS)
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build_generation(ENCODER, PRODUCTS, tmp_path / "store", IndexOptions(schema=filter_fakes.SCHEMA))
    opened = Store.open(tmp_path / "store")
    late = [replace(PRODUCTS[3], title="anew", attributes={"colour": "navy"})]
    opened.upsert([one for batch in ENCODER.encode_products(late) for one in upserts_of(batch)], ENCODER.fingerprint)
    opened.delete([PRODUCTS[4].product_id])
    opened.close()
    return tmp_path / "store"


def lines(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / "batch").iterdir())
    assert all(path.name.endswith(".json") and path.is_file() for path in parts)
    return [json.loads(line) for path in parts for line in path.read_text(encoding="utf-8").splitlines()]


def wanted(product: Product) -> dict[str, Any]:
    """The restricts of a product by the plain reading of its cells."""
    restricts, numeric = {}, {}
    for name, kind in filter_fakes.SCHEMA.items():
        value = None
        with suppress(ValueError):
            value = read_cell(product.attributes.get(name, ""), kind)
        if value is None:
            continue
        if kind is Kind.FLOAT:
            numeric[name] = {"value_double": value}
        elif kind in (Kind.INT, Kind.DATE, Kind.TIME):
            numeric[name] = {"value_int": value}
        elif kind is Kind.LIST:
            restricts[name] = set(value)
        elif kind is Kind.PATH:
            restricts[name] = {path_text(path_of(value)[:depth]) for depth in range(1, len(path_of(value)) + 1)}
        else:
            restricts[name] = {str(value).lower() if kind is Kind.BOOL else value}
    return {"restricts": restricts, "numeric": numeric, "crowding": product.variant or None}


def test_each_line_is_a_product_with_its_vector(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vertex, "MEBIBYTE", 4096)
    monkeypatch.setattr(vertex, "AT_ONCE", 7)
    manifest = write_vertex(open_snapshot(store), tmp_path / "out", uri="gs://shop/batch", file_mebibytes=1)
    found = lines(tmp_path / "out")
    now = {one.product_id: one for one in PRODUCTS if one is not PRODUCTS[4]}
    now[PRODUCTS[3].product_id] = replace(PRODUCTS[3], title="anew", attributes={"colour": "navy"})
    assert {line["id"] for line in found} == set(now)
    assert len(found) == len(now) == manifest["count"]
    products = [now[line["id"]] for line in found]
    vectors = np.concatenate([batch.p for batch in ENCODER.encode_products(products)])
    np.testing.assert_array_equal(np.array([line["embedding"] for line in found], np.float32), vectors)
    for line, product in zip(found, products, strict=True):
        assert {one["namespace"]: set(one["allow"]) for one in line.get("restricts", [])} == wanted(product)[
            "restricts"
        ]
        numeric = {one.pop("namespace"): one for one in line.get("numeric_restricts", [])}
        assert numeric == wanted(product)["numeric"]
        assert line.get("crowding_tag") == wanted(product)["crowding"]
        assert set(line) <= {"id", "embedding", "restricts", "numeric_restricts", "crowding_tag"}
    assert manifest["parts"] == len(list((tmp_path / "out" / "batch").iterdir())) > 3
    assert read_manifest(tmp_path / "out", VERTEX)["model_fingerprint"] == ENCODER.fingerprint
    described = json.loads((tmp_path / "out" / "index.json").read_text())
    assert described["contentsDeltaUri"] == "gs://shop/batch"
    config = described["config"]
    assert config["dimensions"] == ENCODER.dim
    assert (config["distanceMeasureType"], config["featureNormType"]) == ("DOT_PRODUCT_DISTANCE", "UNIT_L2_NORM")


def test_a_folder_is_there_whole_or_as_it_was(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_vertex(open_snapshot(store), out)
    before = folder_bytes(out)
    monkeypatch.setattr(vertex, "MEBIBYTE", 1)
    monkeypatch.setattr(vertex, "MOST_FILES", 5)
    with pytest.raises(UsageError, match="fill more than 5 files, which Vertex does not take"):
        write_vertex(open_snapshot(store), out, file_mebibytes=1)
    assert folder_bytes(out) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(UsageError, match="is not a maxsearch Vertex import folder"):
        write_vertex(open_snapshot(store), tmp_path / "other")


@pytest.mark.parametrize("product_id", ["a\nb", "x" * 1025])
def test_ids_that_vertex_does_not_take(tmp_path: Path, product_id: str) -> None:
    build_generation(ENCODER, [Product(product_id, "a title")], tmp_path / "store")
    with pytest.raises(UsageError, match="is none for Vertex: give ids of 1 to 1,024 bytes"):
        write_vertex(open_snapshot(tmp_path / "store"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_and_options_that_vertex_does_not_take(store: Path, tmp_path: Path) -> None:
    for name in ("", " ", "a\tb"):
        with pytest.raises(UsageError, match="cannot be a namespace of Vertex"):
            require_names({"colour": Kind.TEXT, name: Kind.TEXT})
    with pytest.raises(UsageError, match="--uri s3://shop is no folder of Cloud Storage"):
        write_vertex(open_snapshot(store), tmp_path / "out", uri="s3://shop")
    with pytest.raises(UsageError, match="--file-mebibytes 0 holds no product"):
        write_vertex(open_snapshot(store), tmp_path / "out", file_mebibytes=0)


def test_the_command(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.quiet("index", "vertex", "--index", store, "--out", tmp_path / "out")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 49 products of 24 dimensions in 1 files\n"
    assert len(lines(tmp_path / "out")) == 49
    code, message = tiny.fails(capsys, "index", "vertex", "--index", tmp_path / "absent", "--out", tmp_path / "out")
    assert (code, "no index folder at" in message) == (1, True)
