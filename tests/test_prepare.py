import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maxsearch.data.catalogue import (
    BadRecord,
    click_from_row,
    interaction_columns,
    product_columns,
    product_from_row,
    read_products,
)
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Interaction, Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.prepare.run import PrepareOptions, prepare

FASHION = Path(__file__).parents[2] / "shared" / "data" / "fashion"
IDENTITY = {name: name for name in ("product_id", "title", "image", "variant", "query", "weight")}


def _jpeg(colour: str = "red", edge: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (edge, edge), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _options(tmp_path: Path, count: int = 30, **changes: object) -> PrepareOptions:
    """Sound files: product i has the title "item i"; click j of 40 is "query j % 7" on product j % count."""
    table = pa.table(
        {
            "product_id": pa.array(range(count), pa.int64()),
            "title": [f"item {i}" for i in range(count)],
            "image": [_jpeg() for _ in range(count)],
            "colour": ["red" if i % 2 else None for i in range(count)],
        }
    )
    pq.write_table(table, tmp_path / "products.parquet")
    rows = "".join(f"query {j % 7},{j % count},2\n" for j in range(40))
    _write(tmp_path / "clicks.csv", "query,product_id,weight\n" + rows)
    options = PrepareOptions(tmp_path / "products.parquet", tmp_path / "clicks.csv", tmp_path / "data", shard_records=8)
    return dataclasses.replace(options, **changes)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written(tmp_path: Path) -> None:
    manifest = prepare(_options(tmp_path))
    files = _contents(tmp_path / "data")
    assert json.loads(files["manifest.json"]) == manifest
    assert set(files) == {
        "manifest.json",
        "rejected.jsonl",
        "keywords.json",
        "keywords.npy",
        *(f"products-0000{i}-of-00004.array_record" for i in range(4)),
        *(f"interactions-0000{i}-of-00005.array_record" for i in range(5)),
    }
    assert (manifest["schema_version"], manifest["kind"], manifest["image_edge"]) == (2, "maxsearch-data", 224)
    assert [shard["records"] for shard in manifest["products"]["shards"]] == [8, 8, 8, 6]
    for part in ("products", "interactions"):
        for shard in manifest[part]["shards"]:
            assert shard["bytes"] == len(files[shard["name"]])
            assert shard["sha256"] == hashlib.sha256(files[shard["name"]]).hexdigest()
        assert manifest[part]["bytes"] == sum(shard["bytes"] for shard in manifest[part]["shards"])
    assert manifest["products"]["count"] == 30
    assert {name: manifest["interactions"][name] for name in ("count", "queries", "total_weight")} == {
        "count": 40,
        "queries": 7,
        "total_weight": 80.0,
    }
    assert manifest["attributes"] == ["colour"]
    empty = {"products": 0, "interactions": 0, "by_reason": {}, "images": {}}
    assert manifest["rejected"] == empty | {"file": "rejected.jsonl"}
    data = PreparedDataset.open(tmp_path / "data", verify=True)
    assert data.products[3] == Product("3", "item 3", (_jpeg(),), "", {"colour": "red"})
    assert data.products[2].attributes == {}
    assert data.interactions[8] == Interaction("query 1", 8, 2.0)


def test_two_runs_and_a_rerun_give_identical_bytes(tmp_path: Path) -> None:
    options = _options(tmp_path)
    first = prepare(options)
    before = _contents(tmp_path / "data")
    assert prepare(options) == first
    assert _contents(tmp_path / "data") == before
    prepare(dataclasses.replace(options, out=tmp_path / "other"))
    assert _contents(tmp_path / "other") == before
    assert not list(tmp_path.glob(".*")), "drafts are cleared away"


def test_changed_input_changes_the_fingerprint_and_leaves_no_old_shard(tmp_path: Path) -> None:
    first = prepare(_options(tmp_path))
    second = prepare(_options(tmp_path, count=10))
    assert first["fingerprint"] != second["fingerprint"]
    names = {shard["name"] for part in ("products", "interactions") for shard in second[part]["shards"]}
    always = {"manifest.json", "rejected.jsonl", "keywords.json", "keywords.npy"}
    assert set(_contents(tmp_path / "data")) == names | always


def test_repeated_clicks_are_summed_and_weight_is_one_by_default(tmp_path: Path) -> None:
    products = _write(tmp_path / "p.csv", "product_id,title\na,x\nb,y\n")
    clicks = _write(tmp_path / "c.csv", "query,product_id\nred  shoe,b\nhat,a\n red shoe,b\n")
    manifest = prepare(PrepareOptions(products, clicks, tmp_path / "data"))
    assert list(PreparedDataset.open(tmp_path / "data").interactions) == [
        Interaction("red shoe", 1, 2.0),
        Interaction("hat", 0, 1.0),
    ]
    assert manifest["interactions"]["total_weight"] == 3.0


def test_mapping_applies_to_the_file_that_has_the_field(tmp_path: Path) -> None:
    products = _write(tmp_path / "p.csv", "sku,title,name,group\n1,long,short,g\n")
    clicks = _write(tmp_path / "c.tsv", "query\tproduct_id\tclicks\textra\nq\t1\t4\tz\n")
    columns = {"title": "name", "weight": "clicks", "product_id": "sku", "variant": "group"}
    manifest = prepare(PrepareOptions(products, clicks, tmp_path / "data", columns=columns))
    data = PreparedDataset.open(tmp_path / "data")
    assert list(data.products) == [Product("1", "short", (), "g", {"title": "long"})]
    assert list(data.interactions) == [Interaction("q", 0, 4.0)]
    assert manifest["attributes"] == ["title"]


def test_pictures_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    (tmp_path / "pictures" / "a" / "1.jpg").write_bytes(_jpeg("blue"))
    (tmp_path / "secret.jpg").write_bytes(_jpeg())
    lines = [
        {"product_id": 1, "image": "a/1.jpg"},
        {"product_id": 2, "image": "../secret.jpg", "title": "x"},
        {"product_id": 3, "image": "a/../../secret.jpg", "title": "x"},
        {"product_id": 4, "image": str(tmp_path / "secret.jpg"), "title": "x"},
        {"product_id": 5, "image": "a/2.jpg", "title": "x"},
        {"product_id": 6, "image": "https://shop.example/1.jpg", "title": "x"},
        {"product_id": 7, "image": "nul\0.jpg", "title": "x"},
        {"product_id": 8, "title": "no picture"},
        {"product_id": 9, "image": "./a//1.jpg", "title": " two \n lines "},
    ]
    path = _write(tmp_path / "p.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = dict(read_products(path, columns={}, image_dir=tmp_path / "pictures", edge=64))
    assert found[1] == Product("1", "", (_jpeg("blue"),))
    assert [found[row].code for row in (2, 3, 4)] == ["image_outside_folder"] * 3
    assert found[5].code == found[6].code == found[7].code == "missing_image_file"
    assert found[5].reason == "has the image 'a/2.jpg', which cannot be read (No such file or directory)"
    assert found[8] == Product("8", "no picture")
    assert found[9] == Product("9", "two lines", (_jpeg("blue"),))
    with pytest.raises(UsageError, match=r"holds paths such as 'a/1.jpg': name their folder with --image-dir"):
        list(read_products(path, columns={}, image_dir=None, edge=64))


def test_nested_image_cells_of_other_libraries(tmp_path: Path) -> None:
    cells = [{"bytes": _jpeg(), "path": "1.jpg"}, {"bytes": None, "path": "1.jpg"}, None]
    pq.write_table(
        pa.table({"product_id": ["a", "b", "c"], "title": ["x"] * 3, "image": cells}), tmp_path / "p.parquet"
    )
    (tmp_path / "1.jpg").write_bytes(_jpeg("blue"))
    found = [p for _, p in read_products(tmp_path / "p.parquet", columns={}, image_dir=tmp_path, edge=64)]
    assert [product.image for product in found] == [_jpeg(), _jpeg("blue"), None]


def test_products_come_in_order_however_many_threads_convert_them(tmp_path: Path) -> None:
    options = _options(tmp_path, count=500)
    rows = list(read_products(options.products, columns={}, image_dir=None, edge=64))
    assert [(row, product.product_id) for row, product in rows] == [(i + 1, str(i)) for i in range(500)]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"product_id": "", "title": "x"}, "missing_id"),
        ({"product_id": None, "title": "x"}, "missing_id"),
        ({"product_id": float("nan"), "title": "x"}, "missing_id"),
        ({"title": "x"}, "missing_id"),
        ({"product_id": "1", "title": " ", "image": None}, "no_content"),
        ({"product_id": "1", "image": b""}, "no_content"),
        ({"product_id": "1", "title": "x", "image": b"no picture"}, "undecodable_image"),
        ({"product_id": b"\xff", "title": "x"}, "bad_encoding"),
    ],
)
def test_unusable_product_rows(row: dict, code: str) -> None:
    with pytest.raises(BadRecord) as caught:
        product_from_row(row, IDENTITY, image_dir=None, edge=64)
    assert caught.value.code == code


def test_a_product_row_with_odd_cells() -> None:
    row = {
        "product_id": 12.0,
        "title": "x",
        "year": 2016.0,
        "price": 19.5,
        "second image": b"\xff",
        "": "index",
        "sizes": ["S"],
    }
    product, _ = product_from_row(row, IDENTITY, image_dir=None, edge=64)
    assert product == Product("12", "x", attributes={"year": "2016", "price": "19.5", "sizes": '["S"]'})


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ({"query": " ", "product_id": "1"}, "missing_query", "has no query"),
        ({"query": "q", "product_id": None}, "missing_id", "has no product_id"),
        (
            {"query": "q", "product_id": "1", "weight": "many"},
            "bad_weight",
            "has the weight 'many', which is not a number",
        ),
        ({"query": "q", "product_id": "1", "weight": ""}, "bad_weight", "has the weight '', which is not a number"),
        (
            {"query": "q", "product_id": "1", "weight": 0},
            "bad_weight",
            "has the weight 0, which is not above 0 and finite",
        ),
        (
            {"query": "q", "product_id": "1", "weight": -2.5},
            "bad_weight",
            "has the weight -2.5, which is not above 0 and finite",
        ),
        (
            {"query": "q", "product_id": "1", "weight": "inf"},
            "bad_weight",
            "has the weight inf, which is not above 0 and finite",
        ),
        (
            {"query": "q", "product_id": "1", "weight": "nan"},
            "bad_weight",
            "has the weight nan, which is not above 0 and finite",
        ),
    ],
)
def test_unusable_click_rows(row: dict, code: str, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        click_from_row(row, IDENTITY)
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_dead_letters_name_row_and_reason(tmp_path: Path) -> None:
    good = [{"product_id": str(i), "title": "x", "image": _jpeg()} for i in range(1, 7)]
    bad = [
        {"product_id": "7", "title": "x", "image": b"broken"},
        {"product_id": None, "title": "x", "image": None},
        {"product_id": "2", "title": "again", "image": None},
    ]
    pq.write_table(pa.Table.from_pylist(good[:3] + bad + good[3:]), tmp_path / "p.parquet")
    clicks = _write(
        tmp_path / "c.csv",
        "query,product_id,weight\nq,1,1\nq,404,1\n,1,1\nq,1,zero\nq,1\nq,7,1\nq,2,1e308\nq,2,1e308\n",
    )
    options = PrepareOptions(tmp_path / "p.parquet", clicks, tmp_path / "data", max_bad_fraction=0.75)
    manifest = prepare(options)
    letters = [json.loads(line) for line in (tmp_path / "data" / "rejected.jsonl").read_text().splitlines()]
    assert [(letter["file"], letter["row"], letter["code"]) for letter in letters] == [
        ("p.parquet", 4, "undecodable_image"),
        ("p.parquet", 5, "missing_id"),
        ("p.parquet", 6, "duplicate_id"),
        ("c.csv", 2, "unknown_product"),
        ("c.csv", 3, "missing_query"),
        ("c.csv", 4, "bad_weight"),
        ("c.csv", 5, "bad_row"),
        ("c.csv", 6, "unknown_product"),
        ("c.csv", 8, "bad_weight"),
    ]
    assert letters[2]["reason"] == "repeats the product_id '2' of row 2"
    assert letters[3]["reason"] == "names the product_id '404', which no usable product has"
    assert manifest["rejected"]["products"] == 3 and manifest["rejected"]["interactions"] == 6
    assert manifest["rejected"]["by_reason"] == {
        "undecodable_image": 1,
        "missing_id": 1,
        "duplicate_id": 1,
        "unknown_product": 2,
        "missing_query": 1,
        "bad_weight": 2,
        "bad_row": 1,
    }
    # Positions count the kept products only: the fourth kept product is row 7.
    assert PreparedDataset.open(tmp_path / "data").products[3].product_id == "4"


def test_too_many_bad_products_stop_before_the_manifest(tmp_path: Path) -> None:
    rows = [f"{i},{'x' if i % 10 else ''}" for i in range(100)] + ["1,again"]
    products = _write(tmp_path / "p.csv", "product_id,title\n" + "\n".join(rows) + "\n")
    clicks = _write(tmp_path / "c.csv", "query,product_id\nq,1\n")
    options = PrepareOptions(products, clicks, tmp_path / "data", max_bad_fraction=0.1)
    aside = tmp_path / "data.rejected.jsonl"
    with pytest.raises(MaxsearchError) as caught:
        prepare(options)
    assert str(caught.value) == (
        f"11 of the 101 rows of the products file {products} are rejected, more than --max-bad-fraction 0.1 allows; "
        f"most often no_content (10 rows; row 1 has neither a title nor an image): "
        f"see {aside} and mend the rows, or raise --max-bad-fraction"
    )
    assert caught.value.exit_code == 1
    assert not (tmp_path / "data").exists()
    assert len(aside.read_text().splitlines()) == 11
    prepare(dataclasses.replace(options, max_bad_fraction=11 / 101))
    assert (tmp_path / "data" / "manifest.json").exists()
    assert not aside.exists(), "the letters of a failed run do not outlive the next good one"


def test_too_many_bad_interactions_leave_an_older_folder_as_it_was(tmp_path: Path) -> None:
    options = _options(tmp_path)
    prepare(options)
    before = _contents(tmp_path / "data")
    _write(options.interactions, "query,product_id\nq,1\nq,404\n")
    with pytest.raises(MaxsearchError, match=r"1 of the 2 rows of the interactions file .* most often unknown_product"):
        prepare(options)
    assert _contents(tmp_path / "data") == before


@pytest.mark.parametrize(
    ("products", "clicks", "message"),
    [
        ("product_id,title\n", "query,product_id\nq,1\n", "the products file .* has no rows"),
        ("product_id,title\n1,x\n", "query,product_id\n", "the interactions file .* has no rows"),
        ("product_id,title\n,x\n", "query,product_id\nq,1\n", "1 of the 1 rows of the products file .* missing_id"),
        ("product_id,title\n1,x\n", "query,product_id\nq,2\n", "1 of the 1 rows of the interactions file"),
    ],
)
def test_files_without_a_usable_row(tmp_path: Path, products: str, clicks: str, message: str) -> None:
    options = PrepareOptions(
        _write(tmp_path / "p.csv", products),
        _write(tmp_path / "c.csv", clicks),
        tmp_path / "data",
        max_bad_fraction=1.0,
    )
    with pytest.raises(MaxsearchError, match=message):
        prepare(options)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"title": "titel"},
            r"products file .* has no column 'titel' for the field title: did you mean 'title'\? choose from",
        ),
        (
            {"image": "photo"},
            r"has no column 'photo' for the field image: choose from product_id, title, colour \(--map image",
        ),
        ({"weight": "clicks"}, "interactions file .* has no column 'clicks' for the field weight"),
        ({"product_id": "sku"}, "--map product_id=sku names a column that neither"),
        ({"titel": "title"}, "--map titel=title names no known field: did you mean 'title'"),
    ],
)
def test_wrong_mappings(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    for products in ("p.csv", "p.jsonl"):
        text = (
            '{"product_id":1,"title":"x","colour":"red"}\n'
            if "json" in products
            else "product_id,title,colour\n1,x,red\n"
        )
        clicks = _write(tmp_path / "c.csv", "query,product_id\nq,1\n")
        with pytest.raises(UsageError, match=message):
            prepare(PrepareOptions(_write(tmp_path / products, text), clicks, tmp_path / "data", columns=columns))
        assert not (tmp_path / "data").exists()


def test_missing_columns(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="has no column 'product_id' for the field product_id: did you mean 'productid'"
    ):
        product_columns(_write(tmp_path / "p.csv", "productid,title\n1,x\n"), {})
    with pytest.raises(UsageError, match="has neither a column 'title' nor 'image'"):
        product_columns(_write(tmp_path / "q.csv", "product_id,name\n1,x\n"), {})
    with pytest.raises(UsageError, match="has no column 'query' for the field query"):
        interaction_columns(_write(tmp_path / "c.csv", "search,product_id\nq,1\n"), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_edge": 0}, "--image-edge 0 is out of range: give 1 to 4096 pixels"),
        ({"image_edge": 5000}, "--image-edge 5000 is out of range"),
        ({"max_bad_fraction": 1.5}, "--max-bad-fraction 1.5 is out of range: give 0 to 1"),
        ({"max_bad_fraction": float("nan")}, "--max-bad-fraction nan is out of range"),
        ({"shard_records": 0}, "--shard-records 0 is out of range"),
        ({"image_dir": Path("/nonexistent")}, "--image-dir /nonexistent is not a folder"),
        ({"products": Path("/nonexistent.csv")}, "the products file /nonexistent.csv does not exist"),
        ({"interactions": Path("/nonexistent.csv")}, "the interactions file /nonexistent.csv does not exist"),
    ],
)
def test_options_out_of_range(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(_options(tmp_path, **changes))
    assert not (tmp_path / "data").exists()


def test_out_that_holds_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    options = _options(tmp_path)
    (tmp_path / "data").mkdir()
    prepare(options)  # an empty folder may be used
    (tmp_path / "data" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds files that maxsearch prepare did not write, such as notes\.txt"):
        prepare(options)
    (tmp_path / "run").mkdir()
    _write(tmp_path / "run" / "manifest.json", '{"kind": "maxsearch-model"}')
    with pytest.raises(UsageError, match=r"such as manifest\.json"):
        prepare(dataclasses.replace(options, out=tmp_path / "run"))
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="is a file: give a folder"):
        prepare(dataclasses.replace(options, out=options.products))


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MaxsearchError, match=r"cannot write .*file \(.*\): make room or choose another --out"):
        prepare(_options(tmp_path, out=tmp_path / "file" / "data"))


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def __init__(self, *_: str) -> None: ...

        def write(self, _: bytes) -> None:
            raise RuntimeError("write() failed: No space left on device; writing x")

    monkeypatch.setattr("maxsearch.data.shards.ArrayRecordWriter", FullDisk)
    with pytest.raises(
        MaxsearchError, match=r"cannot write .*No space left on device.*make room or choose another --out"
    ):
        prepare(_options(tmp_path))
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from maxsearch.data import shards
from maxsearch.prepare import run as module
from maxsearch.prepare.run import PrepareOptions, prepare

point, count = sys.argv[1], 0
def deadly(action, at):
    def run(*arguments):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return action(*arguments)
    return run

if point == "manifest":
    module.write_json = deadly(module.write_json, 1)
elif point.startswith("rename"):
    Path.replace = deadly(Path.replace, int(point[6:]))
else:
    shards._written = deadly(shards._written, int(point))
prepare(PrepareOptions(Path("products.parquet"), Path("clicks.csv"), Path("data"), shard_records=8))
"""


# Renames 1 to 9 name the shards, 10 the keywords and 11 the manifest in the draft, 12 moves an older folder aside, 13
# places the new one.
@pytest.mark.parametrize("point", ["5", "45", "manifest", "rename12", "rename13"])
def test_a_killed_run_leaves_no_half_written_folder(tmp_path: Path, point: str) -> None:
    root = Path(__file__).parents[1]
    options = _options(tmp_path)
    older = dataclasses.replace(options, image_edge=4)
    for before in (older,) if point == "rename13" else (None, older):
        if before is not None:
            prepare(before)
            kept = _contents(tmp_path / "data")
        died = subprocess.run(
            [sys.executable, "-c", KILLED, point],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            timeout=60,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        if before is None or point == "rename13":
            assert not (tmp_path / "data").exists()
            with pytest.raises(MaxsearchError, match="no data manifest"):
                PreparedDataset.open(tmp_path / "data")
        else:
            assert _contents(tmp_path / "data") == kept
    prepare(options)
    clean = prepare(dataclasses.replace(options, out=tmp_path / "clean"))
    assert _contents(tmp_path / "data") == _contents(tmp_path / "clean")
    assert PreparedDataset.open(tmp_path / "data", verify=True).fingerprint == clean["fingerprint"]


@pytest.mark.skipif(not FASHION.is_dir(), reason="the fashion catalogue is not on this machine")
def test_a_real_catalogue(tmp_path: Path) -> None:
    options = PrepareOptions(
        FASHION / "products.dev.parquet",
        FASHION / "clicks.train.csv",
        tmp_path / "data",
        columns={"title": "title_sparse", "weight": "clicks"},
        max_bad_fraction=1.0,
    )
    # The dev products were never clicked on: every product is sound, and every click names an unknown one.
    with pytest.raises(MaxsearchError, match=r"53,658 of the 53,658 rows .* unknown_product"):
        prepare(options)
    first = pq.read_table(options.products).slice(0, 1).to_pylist()[0]
    clicks = _write(tmp_path / "c.csv", f"query,product_id,clicks\nq,{first['product_id']},3\n")
    manifest = prepare(dataclasses.replace(options, interactions=clicks))
    assert manifest["products"]["count"] == 5158
    assert manifest["rejected"]["products"] == 0
    product = PreparedDataset.open(tmp_path / "data").products[0]
    assert (product.title, product.attributes["title"]) == (first["title_sparse"], first["title"])
    assert product.image == first["image"]
