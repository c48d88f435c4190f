import csv
import gzip
import io
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxsearch.data.tables.formats import PARQUET_BATCH, BadRecord
from maxsearch.data.tables.read import (
    cell_text,
    column_names,
    columns_until,
    parse_mapping,
    read_fields,
    read_rows,
    read_table,
    row_count,
)
from maxsearch.errors import MaxsearchError, UsageError


def _table(path: Path) -> list[tuple[int, dict]]:
    return list(read_table(path, what="test file"))


def _rows(path: Path) -> list[tuple[int, object]]:
    return [
        (row, (cells.code, cells.reason) if isinstance(cells, BadRecord) else cells)
        for row, cells in read_rows(path, what="test file")
    ]


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.jsonl", "t.ndjson", "t.parquet", "t.csv.gz", "T.JSONL.GZ", "a.b.csv"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    records = [{"id": "1", "title": 'say "é", now'}, {"id": "2", "title": "two\tparts"}]
    path = tmp_path / name
    lower = name.lower()
    if lower.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        if ".jsonl" in lower or ".ndjson" in lower:
            text = "".join(json.dumps(record) + "\n" for record in records)
        else:
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, ["id", "title"], delimiter="\t" if ".tsv" in lower else ",")
            writer.writeheader()
            writer.writerows(records)
            text = buffer.getvalue()
        data = text.encode()
        path.write_bytes(gzip.compress(data) if lower.endswith(".gz") else data)
    assert _table(path) == [(1, records[0]), (2, records[1])]
    assert columns_until(path, ["id"], what="test file") == ["id", "title"]


def test_csv_with_byte_order_mark_quoted_newlines_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbf\r\nid , title\r\n1,"red\r\nshoe"\r\n\r\n2,\r\n')
    assert _table(path) == [(1, {"id": "1", "title": "red\r\nshoe"}), (2, {"id": "2", "title": ""})]


def test_repeated_column_names_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,tag,tag\n1,a,b\n")
    pq.write_table(pa.table([["1"], ["a"], ["b"]], names=["id", "tag", "tag"]), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert _table(tmp_path / name) == [(1, {"id": "1", "tag": "a", "tag (2)": "b"})]
        assert column_names(tmp_path / name) == ["id", "tag", "tag (2)"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
        ),
        min_size=1,
        max_size=10,
    ),
    name=st.sampled_from(["t.csv", "t.tsv"]),
)
def test_what_the_csv_module_writes_is_read_back(tmp_path: Path, cells: list[tuple[str, str]], name: str) -> None:
    path = tmp_path / name
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if name == "t.tsv" else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *cells])
    assert [(row["a"], row["b"]) for _, row in _table(path)] == cells


def test_ragged_and_badly_encoded_rows_do_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'id,title\n1,ok\n2\n3,too,many\n4,caf\xe9\n5,"a"b\n6,fine\n')
    assert _rows(path) == [
        (1, {"id": "1", "title": "ok"}),
        (2, ("bad_row", "has 1 cells where the header has 2 (line 3)")),
        (3, ("bad_row", "has 3 cells where the header has 2 (line 4)")),
        (4, ("bad_encoding", "holds text that is not UTF-8")),
        (5, ("bad_row", "is malformed near line 6 (',' expected after '\"')")),
        (6, {"id": "6", "title": "fine"}),
    ]
    with pytest.raises(MaxsearchError, match=r"row 2 of the test file .*t\.csv has 1 cells where the header has 2"):
        _table(path)


def test_bad_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": 1}\n\n[1]\n{"id": \n{"id": "\\ud800"}\n{"\\ud800": 1}\n{"id": 6, "late": true}\n')
    rows = _rows(path)
    assert [row for row, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1][1] == ("bad_row", "is not a JSON object (line 3)")
    assert rows[2][1][0] == "bad_row" and rows[2][1][1].startswith("is not JSON (") and "line 4" in rows[2][1][1]
    assert rows[3][1] == rows[4][1] == ("bad_encoding", "holds text that is not UTF-8")
    assert rows[5][1] == {"id": 6, "late": True}
    assert column_names(path) is None
    assert columns_until(path, ["late"], what="test file") == ["id", "late"]


def test_parquet_types_and_row_numbers_across_batches(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    count = 2 * PARQUET_BATCH + 3
    table = pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "price": pa.array([19.99] * count, pa.float32()),
            "day": pa.array([date(2024, 2, 29)] * count),
            "image": pa.array([b"\xff\x00"] * count, pa.binary()),
            "tag": pa.array(["a", None] * (count // 2) + ["a"]).dictionary_encode(),
        }
    )
    pq.write_table(table, path, row_group_size=100)
    rows = _table(path)
    assert [row for row, _ in rows] == list(range(1, count + 1))
    assert rows[-1][1] == {"id": count - 1, "price": 19.99, "day": "2024-02-29", "image": b"\xff\x00", "tag": "a"}
    assert rows[1][1]["tag"] is None
    assert row_count(path) == count


def test_parquet_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"caf\xe9"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"title": column}), tmp_path / "t.parquet")
    assert _rows(tmp_path / "t.parquet") == [
        (1, {"title": "ok"}),
        (2, ("bad_encoding", "holds text that is not UTF-8")),
    ]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("t.csv", None, UsageError, "does not exist: check the path"),
        ("t.xlsx", b"PK", UsageError, r"unknown format: give a file whose name ends in \.csv"),
        ("t", b"a,b", UsageError, "unknown format"),
        ("t.parquet.gz", b"x", UsageError, "unknown format"),
        ("t.csv", b"", MaxsearchError, "is empty: give a file with rows"),
        ("t.csv", b"\n\n", MaxsearchError, "has no header line: name the columns in its first line"),
        ("t.csv", "id,title\n1,a\n".encode("utf-16"), MaxsearchError, "is UTF-16 text: save it as UTF-8"),
        ("t.csv", b"id,t\xe9\n1,a\n", MaxsearchError, "the header of the test file .* is not UTF-8"),
        ("t.csv", b"id;title\n1;a\n", MaxsearchError, "is separated by ';'"),
        (
            "t.csv",
            b'id,title\n1,a\n2,"open\n3,c\n',
            MaxsearchError,
            r"row 2 \(line 3\) .* opens a quote that is not closed",
        ),
        ("t.csv", b'id,title\n1,"' + b"x\n" * 70000, MaxsearchError, r"row 1 \(line 2\) .* over 131,072 characters"),
        ("t.csv.gz", b"not gzip", MaxsearchError, "cannot read the test file"),
        (
            "t.csv.gz",
            gzip.compress(b"id\n" + bytes(range(65, 90)) * 999)[:-9],
            MaxsearchError,
            "check that it is whole",
        ),
        ("t.parquet", b"PAR1 nonsense", MaxsearchError, "as Parquet"),
    ],
)
def test_unusable_files(
    tmp_path: Path, name: str, content: bytes | None, error: type[MaxsearchError], message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        _table(path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)


def test_an_empty_folder_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(UsageError, match=r"t\.csv stands for no file with rows"):
        _table(tmp_path / "t.csv")


def test_damaged_parquet_says_how_far_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [f"{i:040d}" for i in range(5000)]}), path, compression="zstd", row_group_size=1000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(
        MaxsearchError, match=r"cannot read the test file .*t\.parquet past row \d+ \(.*check that it is whole"
    ):
        _table(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a ", "a"),
        (None, ""),
        (float("nan"), ""),
        (12, "12"),
        (12.0, "12"),
        (12.5, "12.5"),
        (1e300, str(int(1e300))),
        (float("inf"), "inf"),
        (True, "true"),
        (Decimal("12.00"), "12"),
        (Decimal("12.50"), "12.50"),
        (b" sku-1 ", "sku-1"),
        (["é", 1], '["é", 1]'),
        ({"b": 1, "a": 2}, '{"a": 2, "b": 1}'),
    ],
)
def test_cell_text(value: object, text: str) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize("value", [b"\xff\xfe", ["\ud800"]])
def test_cell_that_is_no_text(value: object) -> None:
    with pytest.raises(BadRecord) as caught:
        cell_text(value)
    assert caught.value.code == "bad_encoding"


def test_parse_mapping() -> None:
    fields = ("product_id", "title", "weight")
    assert parse_mapping([], fields) == {}
    assert parse_mapping(["title=product=name", " weight = clicks "], fields) == {
        "title": "product=name",
        "weight": "clicks",
    }
    for pairs, message in [
        (["title"], r"--map 'title' is not of the form FIELD=COLUMN"),
        (["title="], "is not of the form"),
        (["=x"], "is not of the form"),
        (
            ["titel=x"],
            r"--map 'titel=x' names no known field: did you mean 'title'\? choose from product_id, title, weight",
        ),
        (["title=x", "title=y"], r"gives the field 'title' twice \('x' and 'y'\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            parse_mapping(pairs, fields)


def test_named_fields_are_read_and_a_malformed_cell_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"from": [b"a", b"\xff"], "right_id": [7, 8]}), path)
    rows = read_fields(path, ("left_id", "right_id"), {"left_id": "from"}, what="pairs file")
    assert next(rows)[1] == ["a", "7"]
    with pytest.raises(MaxsearchError, match=r"^row 2 of the pairs file .* holds bytes .*: mend that row$"):
        next(rows)
