import gzip
import io
import json
import tarfile
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maxsearch.data.catalogue import read_products
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Interaction, Product
from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.tables.parts import table_at
from maxsearch.data.tables.read import column_names, read_rows, read_table, row_count
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.embedded import Catalogue, ProductsFile, usable
from maxsearch.prepare.run import PrepareOptions, prepare
from tests import tiny


def jpeg(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(source: object) -> list[tuple[int, dict]]:
    return list(read_table(source, what="test file"))


def tar_of(path: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_folder_and_a_glob_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "p" / "b" / "part-1.csv", "id,title\n3,c\n")
    write(tmp_path / "p" / "a.csv", "title,id\na,1\n\nb,2\n")
    write(tmp_path / "p" / "_SUCCESS", "")
    write(tmp_path / "p" / "_temporary" / "x.csv", "id,title\n9,z\n")
    write(tmp_path / "p" / ".a.csv.crc", "crc")
    write(tmp_path / "p" / "empty.csv", "")
    expected = [(1, {"id": "1", "title": "a"}), (2, {"id": "2", "title": "b"}), (3, {"id": "3", "title": "c"})]
    assert rows(tmp_path / "p") == expected
    assert rows(str(tmp_path / "p" / "**" / "[ap]*.csv")) == expected
    assert rows(tmp_path / "p" / "a*") == expected[:2]
    assert column_names(tmp_path / "p") == ["title", "id"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5), kind=st.sampled_from(["csv", "jsonl"]))
def test_a_table_cut_into_files_has_the_same_rows(tmp_path: Path, sizes: list[int], kind: str) -> None:
    folder = tmp_path / uuid.uuid4().hex
    ids = iter(range(100))
    expected = []
    for number, size in enumerate(sizes):
        part = [str(next(ids)) for _ in range(size)]
        lines = ["id", *part] if kind == "csv" else [json.dumps({"id": name}) for name in part]
        write(folder / f"{number}.{kind}", "".join(f"{line}\n" for line in lines))
        expected += [(f"{number}.{kind}", row, name) for row, name in enumerate(part, start=1)]
    if not expected and kind == "jsonl":
        return  # nothing but empty files
    table = table_at(folder)
    found = rows(table)
    assert [row for row, _ in found] == list(range(1, len(expected) + 1))
    assert [(*table.place(row), cells["id"]) for row, cells in found] == expected


def test_folders_called_key_value_are_columns(tmp_path: Path) -> None:
    for country, shop, title in [("de", "a%20b", "x"), ("us", "__HIVE_DEFAULT_PARTITION__", "y")]:
        folder = tmp_path / "p" / f"country={country}" / f"shop={shop}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [1, 2], "title": [title, None]}), folder / "part-0.parquet")
    found = rows(tmp_path / "p")
    assert [row for row, _ in found] == [1, 2, 3, 4]
    assert found[0][1] == {"country": "de", "shop": "a b", "id": 1, "title": "x"}
    assert found[3][1] == {"country": "us", "shop": None, "id": 2, "title": None}
    assert column_names(tmp_path / "p") == ["id", "title", "country", "shop"]
    assert row_count(tmp_path / "p") == 4
    # Only what lies below the named folder is a column; a file's own column goes first.
    assert rows(tmp_path / "p" / "country=de" / "*" / "*.parquet")[0][1] == {"shop": "a b", "id": 1, "title": "x"}
    write(tmp_path / "q" / "id=7" / "a.jsonl", '{"id": 1}\n{"other": 2}\n')
    assert [cells for _, cells in rows(tmp_path / "q")] == [{"id": 1}, {"id": "7", "other": 2}]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet"])
def test_urls_are_files_folders_and_globs(suffix: str) -> None:
    base = f"memory://{uuid.uuid4().hex}"
    for day, number in (("1", 5), ("2", 6)):
        url = f"{base}/day={day}/part.{suffix}"
        with fsspec.open(url, "wb") as stream:
            if suffix == "parquet":
                pq.write_table(pa.table({"id": [str(number)]}), stream)
            else:
                text = f"id\n{number}\n" if "csv" in suffix else json.dumps({"id": str(number)}) + "\n"
                stream.write(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    both = [(1, {"id": "5", "day": "1"}), (2, {"id": "6", "day": "2"})]
    assert rows(base) == rows(f"{base}/*/*.{suffix}") == both
    assert rows(f"{base}/day=2/part.{suffix}") == [(1, {"id": "6"})]
    with pytest.raises(UsageError, match=r"the test file memory://.*/none.csv does not exist"):
        rows(f"{base}/none.csv")
    with pytest.raises(UsageError, match=r"stands for no file with rows"):
        rows(f"{base}/*.tsv")


@pytest.mark.parametrize("url", ["nosuch://bucket/a.csv", "nosuch://bucket/*.csv"])
def test_an_unknown_protocol_is_named(url: str) -> None:
    with pytest.raises(UsageError, match=r"cannot open nosuch://.*: install the package for this protocol"):
        rows(url)


def test_what_a_folder_cannot_be(tmp_path: Path) -> None:
    write(tmp_path / "mixed" / "a.csv", "id\n1\n")
    write(tmp_path / "mixed" / "b.jsonl", '{"id": 1}\n')
    with pytest.raises(
        UsageError, match=r"several formats \(csv, jsonl\): name those of one with a glob, such as '\*.csv"
    ):
        rows(tmp_path / "mixed")
    with pytest.raises(UsageError, match=r"\*.tsv stands for no file with rows"):
        rows(tmp_path / "*.tsv")
    write(tmp_path / "odd" / "a.csv", "id,title\n1,x\n")
    write(tmp_path / "odd" / "b.csv", "id,name\n1,x\n")
    with pytest.raises(MaxsearchError, match=r"odd/b.csv has no column 'title', which .*odd/a.csv has"):
        rows(tmp_path / "odd")


def test_messages_name_the_file_of_a_row(tmp_path: Path) -> None:
    write(tmp_path / "p" / "1.csv", "product_id,title\na,x\nb,x\n")
    write(tmp_path / "p" / "2.csv", "product_id,title\nb,x\n,x\nc,x\nd\n")
    faults = [
        (row, fault.reason)
        for row, fault in read_products(tmp_path / "p", columns={}, image_dir=None, edge=8)
        if isinstance(fault, BadRecord)
    ]
    assert faults == [
        (3, f"repeats the product_id 'b' of row 2 of {tmp_path / 'p' / '1.csv'}"),
        (4, "has no product_id"),
        (6, "has 1 cells where the header has 2 (line 5)"),
    ]
    table = table_at(tmp_path / "p")
    assert len(list(read_rows(table, what="test file"))) == 6
    assert [table.place(row) for row in (1, 2, 3, 6)] == [("1.csv", 1), ("1.csv", 2), ("2.csv", 1), ("2.csv", 4)]
    with pytest.raises(MaxsearchError, match=r"row 4 of .*2.csv of the test file .*/p has 1 cells"):
        rows(tmp_path / "p")
    clicks = write(tmp_path / "c.csv", "query,product_id\nq,a\nr,c\n")
    options = PrepareOptions(tmp_path / "p", str(tmp_path / "c*.csv"), tmp_path / "data", max_bad_fraction=0.5)
    manifest = prepare(options)
    assert manifest["products"]["count"] == 3
    letters = [json.loads(line) for line in (tmp_path / "data" / "rejected.jsonl").read_text().splitlines()]
    assert [(letter["file"], letter["row"]) for letter in letters] == [("2.csv", 1), ("2.csv", 2), ("2.csv", 4)]
    with pytest.raises(MaxsearchError, match=r"3 of the 6 rows .* row 4 of .*2.csv has 1 cells"):
        prepare(PrepareOptions(tmp_path / "p", clicks, tmp_path / "data"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_webdataset_shards(tmp_path: Path, mode: str) -> None:
    (tmp_path / "s").mkdir()
    name = "0.tar" if mode == "w" else "0.tar.gz"
    tar_of(
        tmp_path / "s" / name,
        ("./a/001.jpg", jpeg("red")),
        ("./a/001.cls", b"3"),
        ("./a/001.txt", "a café ".encode()),
        ("./a/002.back.PNG", jpeg("blue")),
        ("./a/002.front.jpg", jpeg("green")),
        ("./a/002.json", b'{"product_id": "sku", "colour": "blue"}'),
        ("./a/002.note.txt", b"two"),
        mode=mode,
    )
    tar_of(tmp_path / "s" / name.replace("0", "1"), ("003.json", b"[1]"), ("004.txt", b"\xff"), mode=mode)
    found = [
        cells.code if isinstance(cells, BadRecord) else cells
        for _, cells in read_rows(tmp_path / "s", what="test file")
    ]
    assert found == [
        {"__key__": "./a/001", "product_id": "./a/001", "image": [jpeg("red")], "txt": "a café"},
        {
            "__key__": "./a/002",
            "product_id": "sku",
            "image": [jpeg("blue"), jpeg("green")],
            "colour": "blue",
            "note": "two",
        },
        "bad_row",
        "bad_encoding",
    ]


def test_captions_in_a_tar_are_products_and_queries(tmp_path: Path) -> None:
    members = [
        (f"{i}.{kind}", jpeg() if kind == "jpg" else f"caption {i}".encode())
        for i in range(3)
        for kind in ("jpg", "txt")
    ]
    shard = tar_of(tmp_path / "0.tar", *members)
    tiny.quiet(
        "prepare", "--products", shard, "--interactions", shard, "--map", "query=txt", "--out", tmp_path / "data"
    )
    data = PreparedDataset.open(tmp_path / "data")
    assert list(data.interactions) == [Interaction(f"caption {i}", i, 1.0) for i in range(3)]
    assert data.products[1].images == (jpeg(),) and not data.products[1].title


def test_a_damaged_tar_says_how_far_it_was_read(tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "0.tar", *[(f"{i}.txt", b"x" * 2000) for i in range(9)])
    shard.write_bytes(shard.read_bytes()[:9000])
    with pytest.raises(MaxsearchError, match=r"cannot read the test file .*0.tar past row \d as tar"):
        rows(shard)
    with pytest.raises(MaxsearchError, match=r"past row 0 as tar"):
        rows(write(tmp_path / "no.tar", "not a tar"))


def test_prepared_data_are_a_products_table(tmp_path: Path) -> None:
    products = [
        {"product_id": "a", "title": "x", "image": [jpeg("red"), jpeg("blue")], "brand": "B", "text": None, "v": "g"},
        {"product_id": "b", "title": "y", "image": None, "brand": None, "text": "long", "v": None},
    ]
    pq.write_table(pa.Table.from_pylist(products), tmp_path / "p.parquet")
    clicks = write(tmp_path / "c.csv", "query,product_id\nq,a\nr,b\n")
    columns = {"text": ("brand", "text"), "variant": "v"}
    prepare(PrepareOptions(tmp_path / "p.parquet", clicks, tmp_path / "one", columns=columns))
    prepare(PrepareOptions(tmp_path / "one", clicks, tmp_path / "two"))
    one, two = (PreparedDataset.open(tmp_path / name) for name in ("one", "two"))
    assert list(two.products) == list(one.products)
    assert two.products[1] == Product("b", "y", (), "", {}, ("", "long"))
    assert two.fingerprint == one.fingerprint
    assert row_count(tmp_path / "one") == 2
    file = ProductsFile(tmp_path / "one", {}, None, 0.0)
    assert list(usable(file, 224, Catalogue())) == list(one.products), "evaluate ranks it"


def test_prepare_needs_two_tables_or_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("prepare", "--out", tmp_path / "data")
    for words, message in [
        ((), "give --products and --interactions, or --source and --path"),
        (("--products", "p.csv"), "give --products and --interactions, or --source and --path"),
        (("--products", "p.csv", "--interactions", "c.csv", "--path", tmp_path), "name it with --source too"),
        (("--source", "esci", "--products", "p.csv"), "--source stands in place of --products"),
        (("--source", "esci"), "name its folder with --path"),
    ]:
        code, said = tiny.fails(capsys, *out, *words)
        assert code == 2 and message in said
